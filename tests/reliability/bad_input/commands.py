"""Command lines; `tests.experiments` tries them, with an exit status of 2 and nothing left behind."""

from __future__ import annotations

from tests.experiments import test_compress
from tests.experiments.common.test_command import MISTAKES
from tests.reliability.bad_input.case import Case, parametrised

__all__ = ["CASES"]

CASES = [
    *(Case("commands", " ".join([name, *arguments]), told, literal=True) for name, arguments, told in MISTAKES),
    *(
        Case("commands", " ".join(["compress", "model=MODEL", "data=FOLDER", *overrides]), told)
        for overrides, told in parametrised(test_compress.test_what_is_asked_for_makes_sense)
    ),
]
