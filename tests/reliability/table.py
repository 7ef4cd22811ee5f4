"""Write the table of bad input into docs/error-messages.md: ``python -m tests.reliability.table``."""

from __future__ import annotations

from itertools import groupby

from tests.helpers.pages import ROOT
from tests.reliability.bad_input import CASES

PAGE = ROOT / "docs" / "error-messages.md"

MARK = "<!-- What follows is written by python -m tests.reliability.table -->\n"


def table() -> str:
    """Return the kinds of bad input in Markdown, a table for each subject."""
    parts = [f"{len(CASES)} kinds, each tried by a test."]
    for subject, cases in groupby(CASES, key=lambda case: case.subject):
        rows = [f"| {_code(case.given)} | {_code(case.text)} |" for case in cases]
        head = [f"## {subject[0].upper()}{subject[1:]}\n", "| input | message |", "| --- | --- |"]
        parts.append("\n".join([*head, *rows]))
    return "\n\n".join(parts) + "\n"


def page() -> str:
    """Return the page with the table as it is to be."""
    head, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    assert mark, f"{PAGE} lacks the line {MARK}"
    return f"{head}{mark}\n{table()}"


def _code(text: str) -> str:
    """Return a text as code in a cell."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text.replace('|', chr(92) + '|')}{fence}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
