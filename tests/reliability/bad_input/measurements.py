"""Records of measurements that are damaged, or something else."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.results import Cell, append_result, read_results
from shrinkml_env import EvaluationCache, Evaluator, Ledger
from shrinkml_env.space import Sensitivity
from shrinkml_env.space.table import Table
from tests.helpers.fake_evaluator import FakeEvaluator
from tests.helpers.models import TinyCTC, half_recognised
from tests.reliability.bad_input.spoil import DEEP, PICKLE, Spoil, change, cut, replace_with, unchanged


def ledger(spoil: Spoil, folder: Path) -> None:
    path, evaluator = folder / "evaluations.jsonl", FakeEvaluator()
    written = Ledger(path)
    for rank in (1, 2, 3):
        written.evaluate(evaluator, {"output": rank})
    written.close()
    spoil(path)
    unchanged(path, lambda: Ledger(path).attach(evaluator))


def line(change_line: Callable[[dict[str, Any]], object]) -> Spoil:
    """Change the second evaluation, line 3."""

    def spoil(path: Path) -> None:
        lines = path.read_text().splitlines()
        record = json.loads(lines[2])
        change_line(record)
        path.write_text("\n".join([*lines[:2], json.dumps(record), *lines[3:]]) + "\n")

    return spoil


def splice(*order: int) -> Spoil:
    def spoil(path: Path) -> None:
        lines = path.read_text().splitlines()
        path.write_text("".join(f"{lines[number]}\n" for number in order))

    return spoil


def insert(text: str) -> Spoil:
    def spoil(path: Path) -> None:
        first, *rest = path.read_text().splitlines()
        path.write_text("\n".join([first, text, *rest]) + "\n")

    return spoil


def other_model(path: Path) -> None:
    path.unlink()
    Ledger(path).evaluate(FakeEvaluator(base_edits=21), {"output": 1})


def mixed(path: Path) -> None:
    other = Ledger(path.with_name("other"))
    other.evaluate(FakeEvaluator(FakeEvaluator().layers[:-1]), {"gate": 1})
    lines = path.with_name("other").read_text().splitlines()
    path.write_text(path.read_text() + lines[1] + "\n")


DAMAGED = r"evaluations\.jsonl, line 3 is damaged"

LEDGERS: list[tuple[str, str, Spoil]] = [
    ("a text", r"evaluations\.jsonl is not a ledger of evaluations", replace_with(b"hello\n")),
    ("a list", r"evaluations\.jsonl is not a ledger of evaluations", replace_with(b"[]\n")),
    ("a pickle", r"evaluations\.jsonl is not a ledger of evaluations", replace_with(PICKLE)),
    (
        "nested a hundred thousand times",
        r"evaluations\.jsonl is not a ledger of evaluations",
        replace_with(DEEP + b"\n"),
    ),
    (
        "the format of another version",
        r"evaluations\.jsonl is not a ledger of evaluations",
        replace_with(b'{"format": "shrinkml-ledger-9"}\n'),
    ),
    (
        "another model's",
        r"evaluations\.jsonl records another model, .*; give another path, or remove the file",
        other_model,
    ),
    ("a line of another model's", r"evaluations\.jsonl, line 5 is damaged .*; repair or remove the file", mixed),
    ("the header in the middle", r"evaluations\.jsonl is not a ledger of evaluations", splice(1, 0, 2)),
    ("a header twice", r"evaluations\.jsonl, line 3 is damaged", splice(0, 1, 0, 2)),
    ("a line twice", r"evaluations\.jsonl, line 4 repeats an earlier line's ranks", splice(0, 1, 2, 2, 3)),
    ("an empty line in it", r"evaluations\.jsonl, line 2 is damaged", insert("")),
    ("a line that is not JSON", r"evaluations\.jsonl, line 2 is damaged", insert("{")),
    ("a line that is a number", r"evaluations\.jsonl, line 2 is damaged", insert("3")),
    ("a line without edits", f"{DAMAGED} .*'edits'", line(lambda record: record.pop("edits"))),
    ("edits that are not whole numbers", DAMAGED, line(lambda record: record.update(edits=[1.5] * 64))),
    ("negative edits", DAMAGED, line(lambda record: record.update(edits=[-1] * 64))),
    ("edits of fewer utterances", DAMAGED, line(lambda record: record["edits"].pop())),
    ("other reference words", DAMAGED, line(lambda record: record.update(words=[9] * 64))),
    ("a layer too few", DAMAGED, line(lambda record: record["ranks"].pop("output"))),
    ("ranks as texts", DAMAGED, line(lambda record: record["ranks"].update(output="2"))),
    ("a size of 0", DAMAGED, line(lambda record: record.update(size_ratio=0))),
    ("a size of NaN", DAMAGED, line(lambda record: record.update(size_ratio=float("nan")))),
]


def cache(spoil: Spoil, folder: Path) -> None:
    path = folder / "cache.sqlite"
    written = EvaluationCache(path)
    for number in range(20):
        written.put(f"{number:064x}", {"edits": [1] * 1000, "words": [2] * 1000, "capped": 0})
    written._connection.close()
    del written
    spoil(path)

    def use() -> None:
        opened = EvaluationCache(path)
        for number in range(20):
            opened.get(f"{number:064x}")
        opened.put("new", {})

    unchanged(path, use)


def cached(value: str) -> Callable[[Path], None]:
    """Use an evaluator whose cache holds a text as every measurement."""

    def act(folder: Path) -> None:
        path, utterances = folder / "cache.sqlite", half_recognised(TinyCTC(), 2)
        Evaluator(TinyCTC(), utterances, cache=EvaluationCache(path)).evaluate({"hidden": 3})
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE measurements SET value = ?", (value,))
        Evaluator(TinyCTC(), utterances, cache=EvaluationCache(path)).evaluate({"hidden": 3})

    return act


def older(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE measurements (key TEXT PRIMARY KEY, edits TEXT)")
    connection.close()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


UNUSABLE = r"cache\.sqlite: cannot be used as an evaluation cache .*; delete it or set SHRINKML_CACHE"

CACHES: list[tuple[str, str, Spoil]] = [
    ("a text", UNUSABLE, replace_with(b"something else entirely, and long enough to be a header" * 50)),
    ("random bytes", UNUSABLE, replace_with(np.random.default_rng(0).bytes(50_000))),
    ("cut off in the header", UNUSABLE, cut(0.0005)),
    ("cut off in the middle", UNUSABLE, cut(0.5)),
    ("overwritten in the middle", UNUSABLE, lambda path: overwrite(path, 0.3, 0.9)),
    ("tables of an older version", UNUSABLE, older),
    (
        "a folder",
        r"cache\.sqlite: the evaluation cache cannot be used .*: make room for it, or set SHRINKML_CACHE",
        directory,
    ),
]


def overwrite(path: Path, begin: float, end: float) -> None:
    content = bytearray(path.read_bytes())
    first, last = int(begin * len(content)), int(end * len(content))
    content[first:last] = b"\xa5" * (last - first)
    path.write_bytes(content)


MEASUREMENTS = [
    ("a measurement that is not JSON", "{", r"cache\.sqlite: .* is not JSON"),
    ("a measurement that is a list", "[]", r"cache\.sqlite: the measurement \w+ is damaged"),
    ("a measurement without edits", '{"words": [1], "capped": 0}', r"cache\.sqlite: the measurement \w+ is damaged"),
    (
        "edits that are texts",
        '{"words": [1], "edits": ["1"], "capped": 0}',
        r"cache\.sqlite: the measurement \w+ is damaged",
    ),
    (
        "more words than edits",
        '{"words": [1, 2], "edits": [1], "capped": 0}',
        r"cache\.sqlite: the measurement \w+ is damaged",
    ),
]


def table(spoil: Spoil, folder: Path) -> None:
    Table.load().save(folder / "table.npz")
    spoil(folder / "table.npz")
    Table.load(folder / "table.npz")


def resave(change_arrays: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(path: Path) -> None:
        with np.load(path) as archive:
            arrays = dict(archive)
        change_arrays(arrays)
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return spoil


NO_TABLE = r"table\.npz is not a table, as Table\.save writes it"

TABLES: list[tuple[str, str, Spoil]] = [
    ("a text", rf"{NO_TABLE}: it is no \.npz file", replace_with(b"hello")),
    ("a pickle", rf"{NO_TABLE}: it is no \.npz file", replace_with(PICKLE)),
    ("empty", NO_TABLE, replace_with(b"")),
    ("cut off", NO_TABLE, cut(0.5)),
    ("overwritten in the middle", NO_TABLE, lambda path: overwrite(path, 0.4, 0.6)),
    ("a pickled object in it", NO_TABLE, resave(lambda arrays: arrays.update(summary=np.array({"a": 1}, object)))),
    ("no summary", NO_TABLE, resave(lambda arrays: arrays.pop("summary"))),
    ("another format", NO_TABLE, resave(lambda arrays: arrays.update(summary=np.array('{"format": "x"}')))),
    (
        "errors of fewer configurations",
        NO_TABLE,
        resave(lambda arrays: arrays.update({"edits proxy": arrays["edits proxy"][:-1]})),
    ),
    ("a set without errors", NO_TABLE, resave(lambda arrays: arrays.pop("edits proxy"))),
]


def sensitivity(spoil: Spoil, folder: Path) -> None:
    Sensitivity.load().save(folder / "sensitivity.json")
    spoil(folder / "sensitivity.json")
    Sensitivity.load(folder / "sensitivity.json")


NO_SENSITIVITY = r"sensitivity\.json is not a sensitivity file, as Sensitivity\.save writes it"

SENSITIVITIES: list[tuple[str, str, Spoil]] = [
    ("a text", NO_SENSITIVITY, replace_with(b"hello")),
    ("not in UTF-8", NO_SENSITIVITY, replace_with(b"\xff\xfe\xfa")),
    ("nested a hundred thousand times", NO_SENSITIVITY, replace_with(DEEP)),
    ("a list", NO_SENSITIVITY, replace_with(b"[]")),
    ("another format", NO_SENSITIVITY, lambda path: change(path, {"format": "x"})),
    ("curves that are a list", NO_SENSITIVITY, lambda path: change(path, {"curves": []})),
    (
        "no such file",
        r"there is no file .*sensitivity\.json; path must be one that Sensitivity\.save wrote",
        lambda path: path.unlink(),
    ),
]


def results(spoil: Spoil, folder: Path) -> None:
    path = folder / "results.jsonl"
    append_result(path, Cell(1, {"number": 1}, {}), {"value": 1})
    spoil(path)
    read_results(path)


RESULTS: list[tuple[str, str, Spoil]] = [
    (
        f"a line {text}",
        r"results\.jsonl, line 2 is damaged .*: remove it or the file",
        lambda path, text=text: path.write_text(path.read_text() + text + "\n"),
    )
    for text in ("nonsense", "[]", '{"key": 3}', '{"key": "a", "result": 3}')
]
