"""Disks that are full or cannot be written: the error names the file, and what was there is still there."""

import json
import re
import sys
from collections import deque

import pytest
import torch

import experiments.search
from experiments.common.results import Cell, append_result, read_results
from experiments.common.run_directory import write_json
from shrinkml_env import EvaluationCache, Ledger, load_compressed, save_compressed
from shrinkml_env.asr import JointCTCAttention
from shrinkml_env.asr.training import CHECKPOINT, Trainer, TrainingSettings
from shrinkml_env.evaluation import read_ledger
from shrinkml_env.files import write_atomic
from shrinkml_env.space import Sensitivity
from shrinkml_env.space.table import Table
from tests.helpers.disks import full, read_only, short_files, small_disk
from tests.helpers.fake_evaluator import FakeEvaluator
from tests.helpers.models import TinyCTC, tones
from tests.helpers.speech import PLAIN, make_corpus, make_learner
from tests.helpers.workplace import make_workplace
from tests.reliability.kills import outcome

NO_ROOM = "No space left on device|File too large"


@pytest.fixture(params=["full disk", "limit of a file's size"])
def shortage(request, tmp_path):
    """A folder, and a context in which only so many bytes can be written to it."""
    if request.param == "full disk":
        with small_disk(tmp_path / "disk", 4_000_000) as folder:
            yield folder, full
    else:
        (tmp_path / "disk").mkdir()
        yield tmp_path / "disk", short_files


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 4_000_000) as folder:
        yield folder


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def consume(made):
    """Make all of them."""
    deque(made, maxlen=0)


def test_a_file_is_whole_or_as_it_was(shortage):
    folder, short = shortage
    path = folder / "file"
    write_atomic(path, "before")
    with short(folder, 8192):
        with pytest.raises(OSError, match=rf"({NO_ROOM}): '{re.escape(str(path))}'"):
            write_atomic(path, bytes(20_000))
        write_atomic(path, "short enough")
    assert contents(folder) == {"file": b"short enough"}


def test_a_model_is_whole_or_as_it_was(shortage):
    folder, short = shortage
    save_compressed(TinyCTC(seed=1), folder / "model")
    before = contents(folder)
    assert len(before) == 2
    for name in ("model", "other"):
        with short(folder, 8192), pytest.raises(OSError, match=rf"({NO_ROOM}): .*{name}/model\.safetensors"):
            save_compressed(TinyCTC(seed=2), folder / name)
    assert contents(folder) == before
    assert load_compressed(folder / "model").seed == 1
    with pytest.raises(FileNotFoundError, match=r"other/config\.json"):
        load_compressed(folder / "other")


def test_a_ledger_loses_nothing(shortage):
    folder, short = shortage
    path, evaluator = folder / "evaluations.jsonl", FakeEvaluator()
    ledger = Ledger(path)
    ledger.evaluate(evaluator, {"output": 1})
    with short(folder, path.stat().st_size + 100), pytest.raises(OSError, match=rf"({NO_ROOM}): .*evaluations\.jsonl"):
        consume(ledger.evaluate(evaluator, {"output": rank}) for rank in range(2, 40))
    counted = ledger.evaluations
    assert 1 <= len(counted) < 39
    for rank in range(2, 40):
        ledger.evaluate(evaluator, {"output": rank})
    ledger.close()
    assert read_ledger(path)[1] == ledger.evaluations
    assert ledger.evaluations[: len(counted)] == counted
    assert [evaluation.ranks["output"] for evaluation in ledger.evaluations] == list(range(1, 40))


def test_a_cache_loses_nothing(shortage):
    folder, short = shortage
    path = folder / "cache.sqlite"
    EvaluationCache(path).put("first", {"edits": [1]})
    cache = EvaluationCache(path)
    with short(folder, 16_384), pytest.raises(OSError, match=r"cache\.sqlite: the evaluation cache cannot be") as told:
        consume(cache.put(str(number), {"edits": list(range(1000))}) for number in range(100))
    assert "delete" not in str(told.value)
    assert cache.get("first") == {"edits": [1]}
    stored = len(cache)
    cache.put("last", {"edits": [2]})
    for opened in (cache, EvaluationCache(path)):
        assert len(opened) == stored + 1
        assert opened.get("last") == {"edits": [2]}


def test_results_lose_nothing(shortage):
    folder, short = shortage
    path = folder / "results.jsonl"
    cells = [Cell(number, {"number": number}, {}) for number in range(3)]
    append_result(path, cells[0], {"value": 0})
    with short(folder, 8192), pytest.raises(OSError, match=rf"({NO_ROOM}): .*results\.jsonl"):
        append_result(path, cells[1], {"value": "long" * 5000})
    append_result(path, cells[2], {"value": 2})
    assert read_results(path) == {cells[0].key: {"value": 0}, cells[2].key: {"value": 2}}


def test_records_tables_and_sensitivities_are_whole_or_as_they_were(shortage):
    folder, short = shortage
    table, sensitivity = Table.load(), Sensitivity.load()
    write_json(folder / "best.json", {"a": 1})
    for write, name in (
        (lambda path: write_json(path, {"a": "b" * 20_000}), "best.json"),
        (table.save, "table.npz"),
        (sensitivity.save, "sensitivity.json"),
    ):
        with short(folder, 4096), pytest.raises(OSError, match=rf"({NO_ROOM}): .*{name}"):
            write(folder / name)
    assert {name: json.loads(content) for name, content in contents(folder).items()} == {"best.json": {"a": 1}}


@pytest.mark.slow
def test_a_training_goes_on_from_the_checkpoint_before(shortage, tmp_path):
    folder, short = shortage
    corpus = make_corpus(tmp_path)
    settings = TrainingSettings(epochs=4, batch_seconds=2.0, checkpoint_steps=1)

    def trainer(where):
        return Trainer(make_learner(corpus), corpus, corpus[:1], PLAIN, JointCTCAttention(), settings, where)

    unbroken = trainer(tmp_path / "unbroken")
    unbroken.run()
    broken = trainer(folder / "run")
    broken._save_checkpoint()
    before = contents(folder / "run")[CHECKPOINT]
    with short(folder, len(before) // 2), pytest.raises(OSError, match=rf"({NO_ROOM}): .*checkpoint\.pt"):
        broken._save_checkpoint()
    assert contents(folder / "run")[CHECKPOINT] == before
    resumed = trainer(folder / "run")
    resumed.run()
    for name, tensor in unbroken.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])


def test_what_cannot_be_written_is_named(disk):
    save_compressed(TinyCTC(seed=1), disk / "model")
    EvaluationCache(disk / "cache.sqlite").put("a", {"edits": [1]})
    ledger, evaluator = Ledger(disk / "evaluations.jsonl"), FakeEvaluator()
    ledger.evaluate(evaluator, {"output": 1})
    ledger.close()
    before = contents(disk)
    with read_only(disk):
        for match, write in (
            (r"model/", lambda: save_compressed(TinyCTC(seed=2), disk / "model")),
            (r"new", lambda: save_compressed(TinyCTC(seed=2), disk / "new")),
            (r"cache\.sqlite: .* set SHRINKML_CACHE", lambda: EvaluationCache(disk / "cache.sqlite").put("b", {})),
            (r"none\.sqlite", lambda: EvaluationCache(disk / "none.sqlite").get("b")),
            (r"evaluations\.jsonl", lambda: Ledger(disk / "evaluations.jsonl").evaluate(evaluator, {"output": 2})),
            (r"best\.json", lambda: write_json(disk / "best.json", {})),
        ):
            with pytest.raises(OSError, match=match) as told:
                write()
            assert "\n" not in str(told.value)
        # What is only read can be read.
        assert EvaluationCache(disk / "cache.sqlite").get("a") == {"edits": [1]}
        assert load_compressed(disk / "model").transcribe(tones(1)) == TinyCTC(seed=1).transcribe(tones(1))
        assert len(read_ledger(disk / "evaluations.jsonl")[1]) == 1
    assert contents(disk) == before


@pytest.mark.slow
@pytest.mark.parametrize("room", [1_000, 10_000, 30_000, 60_000, 100_000])
def test_a_search_on_a_full_disk_ends_in_a_line_and_goes_on_afterwards(disk, tmp_path, room, capsys, monkeypatch):
    """Not even the ledger, the models or the report fit."""
    workplace = make_workplace(tmp_path, TinyCTC())
    options = [*workplace, "agent=random", "budget=12", "finalists=2", "imports=[tests.helpers.models]"]

    def command(outputs):
        monkeypatch.setattr(sys, "argv", ["search", *options, f"outputs={outputs}"])
        experiments.search.main()

    command(tmp_path / "unbroken")
    capsys.readouterr()
    with full(disk, room):
        with pytest.raises(SystemExit) as ended:
            command(disk / "outputs")
        assert ended.value.code == 2
        (told,) = [line for line in capsys.readouterr().err.splitlines() if str(disk) in line]
        assert "No space left on device" in told
    command(disk / "outputs")
    (unbroken,), (resumed,) = (list(folder.iterdir()) for folder in (tmp_path / "unbroken", disk / "outputs"))
    assert outcome(resumed) == outcome(unbroken)
    assert {"best.json", "evaluations.jsonl"} < outcome(resumed).keys()
    assert (resumed / "report.html").read_bytes().endswith(b"</html>")
