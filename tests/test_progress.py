import io
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
