import csv
import io
import multiprocessing
import os
import pickle
import random
import signal
import sqlite3
import threading
import time

import pytest

from shrinkml_env.evaluation import EvaluationCache, default_cache_path
from shrinkml_env.evaluation import cache as cache_module


def test_remembers_across_objects(tmp_path):
    EvaluationCache(tmp_path / "new" / "cache.sqlite").put("a", {"edits": [1, 2]})
    cache = EvaluationCache(tmp_path / "new" / "cache.sqlite")
    assert cache.get("a") == {"edits": [1, 2]}
    assert cache.get("b") is None
    assert len(cache) == 1


def test_the_first_value_stays(tmp_path):
    cache = EvaluationCache(tmp_path / "cache.sqlite")
    cache.put("a", {"edits": [1]})
    cache.put("a", {"edits": [2]})
    assert cache.get("a") == {"edits": [1]}


def test_pickles(tmp_path):
    cache = EvaluationCache(tmp_path / "cache.sqlite")
    cache.put("a", {})
    assert pickle.loads(pickle.dumps(cache)).get("a") == {}


def test_a_foreign_file_is_named(tmp_path):
    path = tmp_path / "cache.sqlite"
    path.write_text("something else entirely, and long enough to be read as a header" * 10)
    with pytest.raises(ValueError, match=r"cache\.sqlite: cannot be used"):
        EvaluationCache(path).get("a")


def _lock(path):
    """As a process in the middle of a long transaction."""
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


@pytest.mark.parametrize("opened", [False, True])
def test_a_busy_file_is_not_to_be_deleted(tmp_path, monkeypatch, opened):
    monkeypatch.setattr(cache_module, "_PATIENCE", (0.01, 0.02))
    path = tmp_path / "cache.sqlite"
    EvaluationCache(path).put("a", {"edits": [1]})
    cache = EvaluationCache(path)
    if opened:
        assert len(cache) == 1
    other = _lock(path)
    for use in (lambda: cache.put("b", {}), lambda: cache.get("a"), cache.summary):
        with pytest.raises(TimeoutError, match=r"cache\.sqlite: other processes have kept .* locked") as caught:
            use()
        assert "delete" not in str(caught.value)
    other.close()
    cache.put("b", {})
    assert len(cache) == 2


def test_a_measurement_is_kept_though_the_file_was_busy_at_first(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_PATIENCE", (0.01, 20.0))
    cache = EvaluationCache(tmp_path / "cache.sqlite")
    cache.put("a", {})
    other = _lock(cache.path)
    timer = threading.Timer(0.3, other.close)
    timer.start()
    cache.put("b", {"edits": [2]})
    timer.join()
    assert cache.get("b") == {"edits": [2]}


def test_default_path(monkeypatch, tmp_path):
    monkeypatch.setenv("SHRINKML_CACHE", str(tmp_path / "here"))
    assert EvaluationCache().path == default_cache_path() == tmp_path / "here"
    monkeypatch.delenv("SHRINKML_CACHE")
    assert default_cache_path().name == "evaluations.sqlite"


def _write(path, worker):
    cache = EvaluationCache(path)
    for number in range(25):
        cache.put(f"{worker}-{number}", {"edits": [worker, number]})
        cache.put("shared", {"edits": [0]})


def test_eight_processes_at_once_lose_nothing(tmp_path):
    path = tmp_path / "cache.sqlite"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write, args=(path, worker)) for worker in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    cache = EvaluationCache(path)
    assert len(cache) == 8 * 25 + 1
    assert cache.get("7-24") == {"edits": [7, 24]}


def _measure_once(path, log):
    """Eight of these want the same twenty values, in different orders."""
    cache = EvaluationCache(path)
    keys = [f"{number:064x}" for number in range(20)]
    random.Random(os.getpid()).shuffle(keys)
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        with cache.exclusive([first, second]):
            for key in (first, second):
                if cache.get(key) is None:
                    time.sleep(0.01)
                    with open(log, "a") as file:
                        file.write(key + "\n")
                    cache.put(key, {"key": key})


def test_eight_processes_at_once_measure_nothing_twice(tmp_path):
    context = multiprocessing.get_context("fork")
    arguments = (tmp_path / "cache.sqlite", tmp_path / "log")
    workers = [context.Process(target=_measure_once, args=arguments) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sorted((tmp_path / "log").read_text().split()) == [f"{number:064x}" for number in range(20)]


def _hold(path, held):
    with EvaluationCache(path).exclusive(["0" * 64]):
        held.set()
        time.sleep(600)


def test_a_killed_process_holds_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "cache.sqlite", held))
    holder.start()
    assert held.wait(20)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with EvaluationCache(tmp_path / "cache.sqlite").exclusive(["0" * 64]):
        pass


def test_summary_prune_and_export(tmp_path, monkeypatch):
    cache = EvaluationCache(tmp_path / "cache.sqlite")
    for now, key, subject in [(100.0, "a", "small on dev"), (200.0, "b", "small on dev"), (300.0, "c", "large on dev")]:
        monkeypatch.setattr(time, "time", lambda now=now: now)
        cache.put(key, {"edits": [1]}, subject)
    assert cache.summary() == [("small on dev", 2, 100.0, 200.0), ("large on dev", 1, 300.0, 300.0)]
    exported = io.StringIO()
    assert cache.export(exported) == 3
    assert list(csv.DictReader(io.StringIO(exported.getvalue())))[1] == {
        "key": "b",
        "subject": "small on dev",
        "made": "200.0",
        "value": '{"edits": [1]}',
    }
    assert cache.prune(before=150.0) == 1
    assert cache.prune(subject="large") == 1
    assert cache.summary() == [("small on dev", 1, 200.0, 200.0)]


def _write_for_ever(path):
    cache = EvaluationCache(path)
    number = 0
    while True:
        cache.put(str(number), {"edits": [number]})
        number += 1


@pytest.mark.slow
def test_a_killed_writer_leaves_a_sound_file(tmp_path):
    path = tmp_path / "cache.sqlite"
    writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(path,))
    writer.start()
    reader = EvaluationCache(path)
    deadline = time.monotonic() + 20
    while len(reader) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    cache = EvaluationCache(path)
    count = len(cache)
    assert count >= 5
    assert all(cache.get(str(number)) == {"edits": [number]} for number in range(count))
    cache.put("after", {})
    assert cache.get("after") == {}
