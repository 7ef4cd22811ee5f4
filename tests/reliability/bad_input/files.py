"""Files that are damaged, or something else."""

from __future__ import annotations

import functools
import json
import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file, save_file

import agents
from experiments import leaderboard, summary, validate
from experiments.common.results import Cell, append_result, read_results
from shrinkml_env import (
    EvaluationCache,
    Evaluator,
    Ledger,
    load_compressed,
    load_model,
    load_utterances,
    save_compressed,
)
from shrinkml_env.asr import JointCTCAttention
from shrinkml_env.asr.training import CHECKPOINT, Trainer, TrainingSettings
from shrinkml_env.compression import compress, round_to_storage
from shrinkml_env.search_directory import claim, describe_search
from shrinkml_env.space import Sensitivity
from shrinkml_env.space.table import Table
from tests.compression import test_checkpoint
from tests.helpers.fake_evaluator import FakeEvaluator, make_fake_env
from tests.helpers.files import put_tensor
from tests.helpers.models import TinyCTC, half_recognised
from tests.helpers.speech import PLAIN, make_corpus, make_learner
from tests.reliability.bad_input.case import Case, parametrised, shown

__all__ = ["CASES"]

Spoil = Callable[[Path], object]


def unchanged(path: Path, use: Callable[[], object]) -> None:
    """Use a file, which must be as it was afterwards."""
    before = path.read_bytes() if path.is_file() else None
    try:
        use()
    finally:
        assert before is None or path.read_bytes() == before


def cut(share: float) -> Spoil:
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def replace_with(content: bytes) -> Spoil:
    return lambda path: path.write_bytes(content)


def change(path: Path, changes: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without(path: Path, key: str) -> None:
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))


PICKLE = pickle.dumps({"weight": [1.0]})
DEEP = b"[" * 100_000


# Models.


@functools.cache
def tiny() -> TinyCTC:
    return compress(TinyCTC(seed=4), test_checkpoint.RANKS)


def model(spoil: Spoil, folder: Path) -> None:
    save_compressed(tiny(), folder / "model")
    spoil(folder / "model")
    load_compressed(folder / "model")


def las(spoil: Callable[[dict[str, Any]], object], folder: Path) -> None:
    made = make_learner(make_corpus(folder)).eval()
    round_to_storage(made)
    save_compressed(made, folder / "model")
    path = folder / "model" / "config.json"
    config = json.loads(path.read_text())
    spoil(config["config"])
    path.write_text(json.dumps(config))
    load_compressed(folder / "model")


def rename(folder: Path, old: str, new: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[new] = tensors.pop(old)
    save_file(tensors, folder / "model.safetensors")


def swap(folder: Path, one: str, other: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[one], tensors[other] = tensors[other], tensors[one]
    save_file(tensors, folder / "model.safetensors")


def huggingface(spoil: Spoil, folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "whisper"}')
    spoil(folder / "model")
    load_model(f"hf:{folder / 'model'}")


CONFIGS = [
    *(
        (
            f"config.json with {shown(changes)}",
            message,
            lambda path, changes=changes: change(path / "config.json", changes),
        )
        for changes, message in parametrised(test_checkpoint.test_malformed_config)
    ),
    *(
        (f"config.json without {key}", f"key '{key}'", lambda path, key=key: without(path / "config.json", key))
        for (key,) in parametrised(test_checkpoint.test_missing_key)
    ),
    *(
        (
            f"config.json: {content!r}",
            message,
            lambda path, content=content: (path / "config.json").write_bytes(content),
        )
        for content, message in parametrised(test_checkpoint.test_broken_json)
    ),
    *(
        (
            f"no {name}",
            rf"{name}: no such file; a saved model is a directory with this file in it",
            lambda path, name=name: (path / name).unlink(),
        )
        for (name,) in parametrised(test_checkpoint.test_missing_files)
    ),
    (
        "config.json is nested a hundred thousand times",
        r"config\.json: not JSON: it is nested too deeply",
        lambda path: (path / "config.json").write_bytes(DEEP),
    ),
    (
        "config.json asks for 10^12 units",
        r"config\.json: key 'config' does not fit 'tiny_ctc'",
        lambda path: change(path / "config.json", {"config": {"units": 10**12}}),
    ),
]

TENSORS = [
    *(
        (
            f"model.safetensors: {name} {'is missing' if tensor is None else f'is a {shown(tensor)}'}",
            message,
            lambda path, name=name, tensor=tensor: put_tensor(path, name, tensor),
        )
        for name, tensor, message in parametrised(test_checkpoint.test_tensors_that_do_not_fit)
    ),
    (
        "model.safetensors: a tensor is renamed",
        r"unexpected tensor 'hidden\.other'",
        lambda path: rename(path, "hidden.weight", "hidden.other"),
    ),
    (
        "model.safetensors: a tensor is named ../../x",
        r"unexpected tensor '\.\./\.\./x'",
        lambda path: rename(path, "hidden.weight", "../../x"),
    ),
    (
        "model.safetensors: two tensors are swapped",
        r"tensor 'hidden\.(weight|bias)' must be torch\.float16 .*, got",
        lambda path: swap(path, "hidden.weight", "hidden.bias"),
    ),
    (
        "model.safetensors ends in the middle",
        r"model\.safetensors: not a complete safetensors file",
        lambda path: cut(0.5)(path / "model.safetensors"),
    ),
    (
        "model.safetensors is empty",
        r"model\.safetensors: not a complete safetensors file",
        lambda path: cut(0)(path / "model.safetensors"),
    ),
    (
        "model.safetensors is a pickle",
        r"model\.safetensors: not a complete safetensors file",
        lambda path: (path / "model.safetensors").write_bytes(PICKLE),
    ),
    (
        "model.safetensors promises a header of 2^63 bytes",
        r"model\.safetensors: not a complete safetensors file",
        lambda path: (path / "model.safetensors").write_bytes(b"\xff" * 7 + b"\x7f"),
    ),
]

LAS_CONFIGS: list[tuple[str, str, Callable[[dict[str, Any]], object]]] = [
    (
        "config.json: model has an unknown size",
        "key 'config' does not fit 'las'",
        lambda config: config["model"].update(depth=3),
    ),
    (
        "config.json: model lacks a size",
        "key 'config' does not fit 'las'",
        lambda config: config["model"].pop("encoder_units") and config.pop("decoding"),
    ),
    (
        "config.json: encoder_units is -1",
        "key 'config' does not fit 'las'",
        lambda config: config["model"].update(encoder_units=-1),
    ),
    (
        "config.json: encoder_units is a text",
        "key 'config' does not fit 'las'",
        lambda config: config["model"].update(encoder_units="many"),
    ),
    (
        "config.json: tokenizer is no base64",
        "key 'config' does not fit 'las'",
        lambda config: config.update(tokenizer="%%%"),
    ),
    (
        "config.json: tokenizer is another file",
        "key 'config' does not fit 'las'",
        lambda config: config.update(tokenizer="cGlja2xl"),
    ),
    (
        "config.json: tokenizer is a path",
        "key 'config' does not fit 'las'",
        lambda config: config.update(tokenizer="../../etc/passwd"),
    ),
    (
        "config.json: decoding has an unknown setting",
        "key 'config' does not fit 'las'",
        lambda config: config["decoding"].update(_target_="os.system"),
    ),
    (
        "config.json: beam_size is 0",
        "key 'config' does not fit 'las'",
        lambda config: config["decoding"].update(beam_size=0),
    ),
]

HUGGINGFACE: list[tuple[str, str, Spoil]] = [
    ("hf: a folder without weights", r"no \*\.safetensors in it, and pickled weights are not read", lambda path: None),
    (
        "hf: config.json is a list",
        r"config\.json: no model_type in it",
        lambda path: (path / "config.json").write_text("[]"),
    ),
    (
        "hf: config.json is cut off",
        r"config\.json: no model_type in it",
        lambda path: (path / "config.json").write_text('{"model_ty'),
    ),
    (
        "hf: config.json is not in UTF-8",
        r"config\.json: not a text in UTF-8",
        lambda path: (path / "config.json").write_bytes(b"\xff"),
    ),
    (
        "hf: another kind of model",
        "no adapter for models of type 'wavlm'",
        lambda path: change(path / "config.json", {"model_type": "wavlm"}),
    ),
    (
        "hf: model.safetensors is a pickle",
        "transformers cannot load this model",
        lambda path: (path / "model.safetensors").write_bytes(PICKLE),
    ),
]


# Records of measurements.


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
    ("a line that is no JSON", r"evaluations\.jsonl, line 2 is damaged", insert("{")),
    ("a line that is a number", r"evaluations\.jsonl, line 2 is damaged", insert("3")),
    ("a line without edits", f"{DAMAGED} .*'edits'", line(lambda record: record.pop("edits"))),
    ("edits that are no whole numbers", DAMAGED, line(lambda record: record.update(edits=[1.5] * 64))),
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
    ("a measurement that is no JSON", "{", r"cache\.sqlite: .* is not JSON"),
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


NO_TABLE = r"table\.npz is no table, as Table\.save writes it"

TABLES: list[tuple[str, str, Spoil]] = [
    ("a text", NO_TABLE, replace_with(b"hello")),
    ("a pickle", NO_TABLE, replace_with(PICKLE)),
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


NO_SENSITIVITY = r"sensitivity\.json is no sensitivity, as Sensitivity\.save writes it"

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


# Runs.

RECORD: dict[str, Any] = {
    "title": "ppo-linear-0",
    "model": "las_small",
    "factorisation": "svd",
    "granularity": "layer",
    "ranks": {"decoder.output": 5},
    "params": {"original": 2, "compressed": 1},
    "file_bytes": {"original": 2, "compressed": 1},
    "utterances": {"proxy": "proxy", "dev": "dev", "test": "test"},
    "settings": {"reward": "linear", "seed": "0"},
    "evaluations": 3,
    "size_ratio": 0.5,
    "rewards": {"proxy": 0.1},
    "sets": {name: {"wer_before": 0.1, "wer_after": 0.2} for name in ("proxy", "dev", "test")},
}


def resumed(spoil: Spoil, folder: Path) -> None:
    env = make_fake_env(ledger=Ledger(budget=2))
    path, agent = folder / "search.json", agents.RandomSearch(env)
    claim(folder, describe_search(env, agent))
    claim(folder, describe_search(env, agent))
    spoil(path)
    unchanged(path, lambda: claim(folder, describe_search(env, agent)))


IDENTITIES: list[tuple[str, str, Spoil]] = [
    ("search.json is cut off", r"search\.json is damaged .*: give another directory, or remove this one", cut(0.5)),
    ("search.json is a list", r"search\.json is damaged .*: give another directory", replace_with(b"[]")),
    ("search.json is nested a hundred thousand times", r"search\.json is damaged .*: give another", replace_with(DEEP)),
    (
        "search.json is another search's",
        r"holds a search with agent\.name 'Mine', not 'RandomSearch': give another directory, or remove this one",
        lambda path: change(path, {"agent": {"name": "Mine"}}),
    ),
]


def record(use: Callable[[Path], object], spoil: Spoil, folder: Path) -> None:
    path = folder / "run" / "best.json"
    path.parent.mkdir()
    path.write_text(json.dumps(RECORD))
    spoil(path)
    unchanged(path, lambda: use(path))


def changed(**changes: Any) -> Spoil:
    return lambda path: change(path, changes)


RECORDS: list[tuple[str, str, Spoil]] = [
    ("a text", r"best\.json: not JSON", replace_with(b"hello")),
    ("empty", r"best\.json: not JSON", replace_with(b"")),
    ("cut off", r"best\.json: not JSON", cut(0.5)),
    ("not in UTF-8", r"best\.json: not JSON", replace_with(b'{"a": "\xff"}')),
    ("nested a hundred thousand times", r"best\.json: not JSON: it is nested too deeply", replace_with(DEEP)),
    ("a list", r"best\.json: not a JSON object", replace_with(b"[]")),
    (
        "sets are missing",
        r"best\.json lacks sets: it must be the best\.json of a run",
        lambda path: without(path, "sets"),
    ),
    (
        "size_ratio is missing",
        r"best\.json lacks size_ratio: it must be the best\.json of a run",
        lambda path: without(path, "size_ratio"),
    ),
    ("sets is a list", r"best\.json: sets must be an object of sets", changed(sets=[])),
    (
        "a WER is a text",
        r"best\.json: sets must be an object of sets",
        changed(sets={"dev": {"wer_before": "x", "wer_after": 0}}),
    ),
    (
        "a WER is NaN",
        r"best\.json: sets must be an object of sets",
        changed(sets={"dev": {"wer_before": float("nan"), "wer_after": 0}}),
    ),
    (
        "size_ratio is a text",
        r"best\.json: size_ratio must be a number above 0 and at most 1, got 'small'",
        changed(size_ratio="small"),
    ),
    ("size_ratio is 2", r"best\.json: size_ratio must be a number above 0 and at most 1, got 2", changed(size_ratio=2)),
    ("evaluations is a list", r"best\.json: evaluations must be a whole number, got \[\]", changed(evaluations=[])),
    ("rewards is a text", r"best\.json: rewards must be an object of numbers", changed(rewards="x")),
    ("settings hold a number", r"best\.json: settings must be an object of texts", changed(settings={"seed": 0})),
    ("ranks is a list", r"best\.json: ranks must be an object of whole numbers, got \[3\]", changed(ranks=[3])),
    ("model is a mapping", r"best\.json: model must be a name or a path", changed(model={"_target_": "os.system"})),
]

RANKS_FILES: list[tuple[str, str, Spoil]] = [
    ("factorisation is missing", r"best\.json lacks factorisation", lambda path: without(path, "factorisation")),
    (
        "factorisation names a class",
        r"best\.json names os\.system as its factorisation, and what a file names is not run",
        changed(factorisation={"_target_": "os.system"}),
    ),
    ("factorisation is unknown", "no factorisation is named 'mine'", changed(factorisation={"name": "mine"})),
    (
        "granularity is unknown",
        "granularity must be 'layer', 'matrix' or a mapping of blocks, got 'x'",
        changed(granularity="x"),
    ),
    ("ranks of another model", "no layer is named 'nothing'", changed(ranks={"nothing": 3}, utterances={"dev": "dev"})),
    (
        "a rank that is too large",
        "layer 'decoder.output': rank must be an integer in",
        changed(ranks={"decoder.output": 999_999}, utterances={"dev": "dev"}),
    ),
    ("a model that is not there", "'nowhere' is neither a shipped model", changed(model="nowhere")),
    ("a set that is not there", "no utterance set is named 'mine'", changed(utterances={"dev": "mine"})),
    ("sets that are lists", r"best\.json: utterances must be an object", changed(utterances={"dev": []})),
]

SUBMISSIONS: list[tuple[str, str, Spoil]] = [
    ("settings lack reward", r"best\.json: settings lacks reward", changed(settings={"seed": "0"})),
    (
        "sets lack test",
        r"best\.json: sets lacks test",
        changed(sets=dict.fromkeys(("proxy", "dev"), RECORD["sets"]["dev"])),
    ),
    ("title is missing", r"best\.json lacks title", lambda path: without(path, "title")),
]

REFUSED: list[tuple[str, str, Spoil]] = [
    ("another model", "the leaderboard is for the model las_small, not /tmp/mine", changed(model="/tmp/mine")),
    (
        "a class in it",
        "a submission is data, and this one names code: os.system",
        changed(factorisation={"_target_": "os.system"}),
    ),
    (
        "dev is test",
        "the leaderboard is for the shipped sets, each for its purpose: dev is test",
        changed(utterances={"proxy": "proxy", "dev": "test", "test": "test"}),
    ),
    (
        "a set too few",
        "the leaderboard is for the sets proxy, dev, test, not proxy, dev",
        changed(utterances={"proxy": "proxy", "dev": "dev"}),
    ),
]


def refusals(path: Path) -> None:
    raise ValueError(" ".join(leaderboard.refusals(path)))


def training_record(spoil: Spoil, folder: Path) -> None:
    path = folder / "run" / "result.json"
    path.parent.mkdir()
    wer = {"wer": 0.1}
    content = {
        "size_ratio": 0.5,
        "training": {"utterances": 3, "cpu_seconds": 1.5},
        "before": {"dev": wer},
        "after": {"dev": wer, "test": wer},
    }
    path.write_text(json.dumps(content))
    summary.trained_table(folder)
    spoil(path)
    summary.trained_table(folder)


TRAINING_RECORDS: list[tuple[str, str, Spoil]] = [
    ("cut off", r"result\.json: not JSON", cut(0.5)),
    (
        "after is missing",
        r"result\.json lacks after: it must be the result\.json of a fine-tuning",
        lambda path: without(path, "after"),
    ),
    (
        "after lacks test",
        r"result\.json: after must be an object with dev and test",
        changed(after={"dev": {"wer": 0.1}}),
    ),
    (
        "cpu_seconds is a text",
        r"result\.json: training must be an object with utterances and cpu_seconds",
        changed(training={"utterances": 1, "cpu_seconds": "x"}),
    ),
]


def checkpoint(spoil: Spoil, folder: Path) -> None:
    corpus = make_corpus(folder)

    def trainer() -> Trainer:
        settings = TrainingSettings(epochs=1, batch_seconds=2.0)
        return Trainer(make_learner(corpus), corpus, corpus[:1], PLAIN, JointCTCAttention(), settings, folder / "run")

    trainer()._save_checkpoint()
    path = folder / "run" / CHECKPOINT
    spoil(path)
    unchanged(path, trainer)


def state(change_state: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change_state(content)
        torch.save(content, path)

    return spoil


NO_CHECKPOINT = r"checkpoint\.pt: not a whole checkpoint of a training .*; remove it to begin anew"

CHECKPOINTS: list[tuple[str, str, Spoil]] = [
    ("a text", NO_CHECKPOINT, replace_with(b"hello")),
    ("empty", NO_CHECKPOINT, replace_with(b"")),
    ("cut off", NO_CHECKPOINT, cut(0.5)),
    ("a pickle", NO_CHECKPOINT, replace_with(PICKLE)),
    (
        "only weights",
        r"checkpoint\.pt: not a checkpoint of a training; remove it to begin anew",
        lambda path: torch.save({"w": torch.zeros(1)}, path),
    ),
    (
        "of other speech",
        r"checkpoint\.pt belongs to another training set, model or number of processes",
        state(lambda content: content.update(fingerprint="x")),
    ),
    (
        "a tensor is missing",
        r"checkpoint\.pt: damaged .*; remove it to begin anew",
        state(lambda content: content["model"].popitem()),
    ),
    (
        "an optimizer of another model",
        r"checkpoint\.pt: damaged .*; remove it to begin anew",
        state(lambda content: content.update(optimizer={})),
    ),
]


def agent(name: str, spoil: Spoil, folder: Path) -> None:
    kind = getattr(agents, name)
    made = kind(make_fake_env("discrete"), seed=0)
    made.learn(5)
    made.save(folder / "agent")
    spoil(folder / "agent")
    kind.load(folder / "agent")


AGENTS: list[tuple[str, Spoil]] = [
    ("a text", replace_with(b"hello")),
    ("a pickle", replace_with(PICKLE)),
    ("cut off", cut(0.5)),
    ("empty", replace_with(b"")),
]


# Speech.


def speech(spoil: Spoil, folder: Path) -> None:
    make_corpus(folder)
    chapter = folder / "train" / "1" / "2"
    spoil(chapter)
    load_utterances({"root": str(folder), "subset": "train"})


def ids(content: bytes, folder: Path) -> None:
    make_corpus(folder)
    (folder / "ids.txt").write_bytes(content)
    load_utterances({"root": str(folder), "subset": "train", "ids": str(folder / "ids.txt")})


NOISE = 0.1 * np.random.default_rng(0).standard_normal((8000, 2))


def sound(name: str = "1-2-0001.flac", samples: Any = NOISE[:, 0], rate: int = 16_000, **options: Any) -> Spoil:
    return lambda chapter: soundfile.write(chapter / name, samples, rate, **options)


def as_wav(then: Spoil, samples: Any = NOISE[:, 0], **options: Any) -> Spoil:
    def spoil(chapter: Path) -> None:
        (chapter / "1-2-0001.flac").unlink()
        soundfile.write(chapter / "1-2-0001.wav", samples, 16_000, **options)
        then(chapter / "1-2-0001.wav")

    return spoil


def lines(old: str, new: str) -> Spoil:
    def spoil(chapter: Path) -> None:
        text = (chapter / "1-2.trans.txt").read_text()
        assert old in text
        (chapter / "1-2.trans.txt").write_text(text.replace(old, new))

    return spoil


def nothing(_: Path) -> None:
    """Leave it as it is."""


def audio(then: Spoil) -> Spoil:
    return lambda chapter: then(chapter / "1-2-0001.flac")


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


FLAC, TEXT = r"1-2-0001\.flac: ", r"1-2\.trans\.txt, line 2: "

SPEECH: list[tuple[str, str, Spoil]] = [
    ("FLAC: other bytes", f"{FLAC}not a readable audio file", audio(replace_with(b"x" * 99))),
    ("FLAC: empty", f"{FLAC}not a readable audio file", audio(replace_with(b""))),
    ("FLAC: cut off", f"{FLAC}(not a readable|cut off)", audio(cut(0.5))),
    ("FLAC: no sample", f"{FLAC}(holds no sample|not a readable audio file)", sound(samples=np.zeros(0))),
    ("FLAC: stereo", rf"{FLAC}needs mono audio at 16000 Hz, has 2 channel\(s\) at 16000 Hz", sound(samples=NOISE)),
    ("FLAC: 44.1 kHz", rf"{FLAC}needs mono audio at 16000 Hz, has 1 channel\(s\) at 44100 Hz", sound(rate=44_100)),
    ("WAV: cut off", r"1-2-0001\.wav: cut off, \d+ bytes of its samples are missing", as_wav(cut(0.5))),
    (
        "WAV: NaN",
        r"1-2-0001\.wav: holds samples that are NaN or infinite",
        as_wav(nothing, np.full(100, np.nan), subtype="FLOAT"),
    ),
    (
        "WAV: floats at the scale of int16",
        r"1-2-0001\.wav: holds samples as large as \d+, where full scale is 1",
        as_wav(nothing, 32768 * NOISE[:, 0], subtype="FLOAT"),
    ),
    ("an audio file is missing", f"{FLAC}listed in 1-2.trans.txt, line 2, but missing", audio(remove)),
    ("an audio file is a folder", f"{FLAC}", audio(lambda path: (path.unlink(), path.mkdir()))),
    (
        "an audio file of a kind that is not read",
        r"1-2-0001\.m4a: listed in 1-2\.trans\.txt, line 2, but audio is read from",
        audio(lambda path: path.rename(path.with_suffix(".m4a"))),
    ),
    (
        "transcripts: a line without words",
        f"{TEXT}expected an utterance id and its text, got '1-2-0001'",
        lines("1-2-0001 LOW HIGH", "1-2-0001"),
    ),
    ("transcripts: an id twice", f"{TEXT}'1-2-0000' is listed twice", lines("1-2-0001", "1-2-0000")),
    (
        "transcripts: an id without audio",
        r"1-2-0077\.flac: listed in 1-2\.trans\.txt, line 2, but missing",
        lines("1-2-0001", "1-2-0077"),
    ),
    (
        "transcripts: an id that is a path",
        r"listed in 1-2\.trans\.txt, line 2, but missing",
        lines("1-2-0001", "../2/1-2-0001"),
    ),
    (
        "transcripts: a line is missing",
        rf"{FLAC}no \*\.trans\.txt beside it says what is spoken",
        lines("1-2-0001 LOW HIGH\n", ""),
    ),
    (
        "transcripts: not in UTF-8",
        r"1-2\.trans\.txt: not a text in UTF-8",
        lambda chapter: (chapter / "1-2.trans.txt").write_bytes(b"1-2-0000 \xff\n"),
    ),
    (
        "no transcripts",
        "no utterance in it; expected SPEAKER/CHAPTER",
        lambda chapter: (chapter / "1-2.trans.txt").unlink(),
    ),
    ("an empty folder", "no utterance in it; expected SPEAKER/CHAPTER", remove),
    ("the folder above", "no subset 'train' in", lambda chapter: remove(chapter.parents[1])),
]

IDS = [
    ("ids: empty", b"", r"ids\.txt: it is empty"),
    ("ids: unknown", b"9-9-0000", r"ids\.txt: utterance '9-9-0000' is not in"),
    ("ids: not in UTF-8", b"\xff\xfe", r"ids\.txt: not a text in UTF-8"),
]


def cases(subject: str, rows: list[tuple[str, str, Any]], act: Callable[..., object], *first: Any) -> list[Case]:
    return [Case(subject, given, message, functools.partial(act, *first, spoil)) for given, message, spoil in rows]


CASES = [
    *cases("saved models", [*CONFIGS, *TENSORS], model),
    *cases("saved models", LAS_CONFIGS, las),
    *cases("saved models", HUGGINGFACE, huggingface),
    *cases("ledgers", LEDGERS, ledger),
    *cases("evaluation caches", CACHES, cache),
    *(Case("evaluation caches", given, message, cached(value)) for given, value, message in MEASUREMENTS),
    *cases("tables", TABLES, table),
    *cases("sensitivities", SENSITIVITIES, sensitivity),
    *cases("folders of searches", IDENTITIES, resumed),
    *cases("results of studies", RESULTS, results),
    *cases(
        "best.json of a run",
        RECORDS,
        record,
        lambda path: summary.table(path.parents[1]) and validate.validate(path.parent),
    ),
    *cases("validate ranks=FILE", RANKS_FILES, record, validate.validate_ranks),
    *cases("leaderboard submissions", SUBMISSIONS, record, leaderboard.refusals),
    *cases("leaderboard submissions", REFUSED, record, refusals),
    *cases("result.json of a fine-tuning", TRAINING_RECORDS, training_record),
    *cases("checkpoints of a training", CHECKPOINTS, checkpoint),
    *(
        Case(
            "saved agents", f"{name}: {given}", f"agent was not saved by {name}", functools.partial(agent, name, spoil)
        )
        for name in ("RandomSearch", "Controller")
        for given, spoil in AGENTS
    ),
    *cases("speech", SPEECH, speech),
    *(Case("speech", given, message, functools.partial(ids, content)) for given, content, message in IDS),
]
