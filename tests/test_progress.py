import io
import os
import subprocess
import sys

import pytest

from shrinkml_env.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """The time that tqdm sees, in a list of one number."""
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_a_log_has_a_line_a_minute(monkeypatch, clock):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    for _ in progress(range(100), desc="doing", unit="thing"):
        clock[0] += 7.0
    lines = [line for line in log.getvalue().split("\n") if line]
    # Nothing is drawn over, and a bar of 700 s has its first line, eleven within, and its last.
    assert "\r" not in log.getvalue()
    assert [line.split("|")[0] for line in lines[:2]] == ["doing:   0%", "doing:   9%"]
    assert lines[-1].startswith("doing: 100%")
    assert len(lines) == 13


def test_a_terminal_has_one_line(monkeypatch, clock):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for _ in progress(range(10), desc="doing"):
        clock[0] += 7.0
    drawn = terminal.getvalue()
    assert drawn.count("\n") == 1
    assert drawn.count("\rdoing:") >= 10


@pytest.mark.parametrize(("disabled", "shown"), [("", ["first", "second"]), ("1", [])])
def test_a_variable_switches_all_bars_off(disabled, shown):
    """In a process of its own, since tqdm reads the variable when it is imported."""
    code = """
from shrinkml_env.progress import progress
progress(total=3, desc="first").close()
progress(total=3, desc="second", disable=False).close()
progress(total=3, desc="third", disable=True).close()
"""
    environment = {**os.environ, "TQDM_DISABLE": disabled}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert [name for name in ("first", "second", "third") if f"{name}:   0%" in done.stderr] == shown
