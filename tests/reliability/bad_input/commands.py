"""Command lines; `tests.experiments` tries them, with an exit status of 2 and nothing left behind."""

from __future__ import annotations

from tests.experiments import test_compress
from tests.experiments.bad_commands import BAD_COMMANDS
from tests.reliability.bad_input.case import Case, parametrised

__all__ = ["CASES"]

CASES = [
    *(Case("commands", line, message, literal=True) for _, line, message in BAD_COMMANDS),
    *(
        Case("commands", " ".join(["compress", "model=MODEL", "data=FOLDER", *overrides]), message)
        for overrides, message in parametrised(test_compress.test_what_is_asked_for_makes_sense)
    ),
]
