import multiprocessing
import os
import pickle
import signal
import time

import pytest

from shrinkml_env.evaluation import EvaluationCache, default_cache_path


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


def test_default_path(monkeypatch, tmp_path):
    monkeypatch.setenv("SHRINKML_CACHE", str(tmp_path / "here"))
    assert default_cache_path() == tmp_path / "here"
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


def _write_for_ever(path):
    cache = EvaluationCache(path)
    number = 0
    while True:
        cache.put(str(number), {"edits": [number]})
        number += 1


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
