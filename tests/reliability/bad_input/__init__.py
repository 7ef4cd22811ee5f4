"""Kinds of bad input, of which docs/error-messages.md has a table."""

from tests.reliability.bad_input import arguments, commands, files
from tests.reliability.bad_input.case import Case

__all__ = ["CASES", "Case"]

CASES = [*commands.CASES, *arguments.CASES, *files.CASES]
