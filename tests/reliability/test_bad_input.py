"""Every kind of bad input ends in one error of one line, which says what is wrong."""

import re

import pytest

from tests.reliability.bad_input import CASES
from tests.reliability.table import PAGE, page

TRIED = [case for case in CASES if case.act is not None]


@pytest.mark.parametrize("case", TRIED, ids=lambda case: f"{case.subject}: {case.given}"[:80])
def test_it_is_told_in_a_line(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError, OSError, ImportError)) as raised:
        case.act(tmp_path)
    line = str(raised.value)
    assert "\n" not in line
    assert re.search(case.message, line), line
    assert len(line) < 1000


def test_the_page_lists_them():
    assert len(CASES) >= 150
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.reliability.table"
