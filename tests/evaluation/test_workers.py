"""Processes that work beside one another, and end together."""

import os
import subprocess
import sys
import time

import pytest

from shrinkml_env.evaluation.workers import Workers

PROGRAM = """
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
def test_answers_come_in_the_order_of_the_tasks():
    workers = Workers(abs, 2)
    assert list(workers([-3, 1, -2])) == [3, 1, 2]
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
