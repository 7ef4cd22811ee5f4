"""Kills at random moments, of which ``python -m tests.reliability.kills`` makes many more."""

import random

import pytest

from tests.helpers.models import TinyCTC
from tests.helpers.workplace import make_workplace
from tests.reliability import kills

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("make", [kills.search, kills.tabulating], ids=lambda make: make.__name__)
def test_what_was_killed_ends_as_an_unbroken_run(make, tmp_path):
    found = kills.kill_repeatedly(make, 2, random.Random(0), tmp_path)
    assert found.kills == 2
    assert found.ends >= 1
    assert found.outlived < kills.LONGEST


def test_workers_do_not_outlive_a_killed_search(tmp_path):
    """Killed while its workers are being started, which is when they know nothing of it yet."""
    task = kills.search_with_workers(tmp_path)
    processes = kills.start(task, tmp_path / "run")
    sessions = {process.pid for process in processes}
    while len(kills.members(sessions)) < 3:  # Itself and two workers.
        assert processes[0].is_alive()
    assert kills.kill(processes) < kills.LONGEST
    assert kills.members(sessions) == []


def test_a_difference_is_noticed(tmp_path):
    """Of one byte in a model, or of a number in a record; but seconds do not count."""
    files = {"model.safetensors": b"abc", "best.json": b'{"wer": 0.1, "seconds": 3}', "tensorboard/events": b"x"}
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    expected = kills.outcome(tmp_path)
    assert expected.keys() == {"model.safetensors", "best.json"}
    for path, content, same in (
        ("best.json", b'{"wer": 0.1, "seconds": 4}', True),
        ("best.json", b'{"wer": 0.2, "seconds": 3}', False),
        ("model.safetensors", b"abd", False),
        ("tensorboard/events", b"y", True),
    ):
        (tmp_path / path).write_bytes(content)
        assert (kills.outcome(tmp_path) == expected) is same
        (tmp_path / path).write_bytes(files[path])


def test_a_command_that_fails_is_told(tmp_path):
    task = kills.Task("search", "experiments.search", ((*make_workplace(tmp_path, TinyCTC()), "bugdet=3"),))
    with pytest.raises(RuntimeError, match="search ended with status 2: bugdet: there is no such option"):
        kills.finish(task, tmp_path / "run")
