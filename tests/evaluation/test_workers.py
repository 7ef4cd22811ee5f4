"""Processes that work beside one another, and end together."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from shrinkml_env.evaluation.workers import Workers
from tests.helpers.processes import get_context

PROGRAM = """
import multiprocessing
import os
import time

from shrinkml_env.evaluation.workers import Workers


def tell_and_sleep(seconds):
    print(os.getpid(), flush=True)
    time.sleep(seconds)


if __name__ == "__main__":
    list(Workers(tell_and_sleep, 2)([300, 300]))
"""


@pytest.mark.slow
def test_answers_come_in_the_order_of_the_tasks(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_context", get_context)  # Started as users start them.
    workers = Workers(abs, 2)
    assert list(workers([-3, 1, -2])) == [3, 1, 2]
    workers.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "task", "message"),
    [
        (os._exit, 3, r"a worker ended with status 3, its error stands above"),
        (signal.raise_signal, signal.SIGKILL, r"a worker was ended by SIGKILL: the memory may be full"),
    ],
)
def test_a_worker_that_dies_is_told_with_its_cause(function, task, message):
    workers = Workers(function, 2)
    with pytest.raises(ChildProcessError, match=message):
        list(workers([task]))
    # The next tasks have new processes.
    future = workers.submit(task)
    with pytest.raises(ChildProcessError, match=message):
        future.result()
    workers.close()


@pytest.mark.slow
def test_a_class_of_the_main_program_is_named(tmp_path):
    """As in a notebook, whose main module no other process can import."""
    program = PROGRAM.replace("tell_and_sleep, 2)([300, 300])", "Mine(), 2)([1])").replace(
        "def tell", "class Mine:\n    def __call__(self, task):\n        return task\n\ndef tell"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert "ValueError: workers cannot load the model: Can't get attribute 'Mine'" in last
    assert "move classes that are defined in the main script or in a notebook to a module that is imported" in last


def test_what_does_not_pickle_is_told_before_a_process_starts():
    workers = Workers(lambda task: task, 2)
    with pytest.raises(ValueError, match=r"`workers` need a model that can be pickled: .*lambda"):
        workers([1])
    workers.close()


@pytest.mark.slow
def test_a_killed_program_leaves_no_process_behind(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    with subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True) as program:
        children = [int(program.stdout.readline()) for _ in range(2)]
        assert all(map(_alive, children))
        program.kill()
        until = time.monotonic() + 30
        while any(map(_alive, children)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(map(_alive, children))


def _alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
