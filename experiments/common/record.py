"""Reading of the records of finished runs. They are untrusted data: they are checked, and no code in them is run."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shrinkml_env.checks import is_number
from shrinkml_env.files import read_json_object

__all__ = ["named_classes", "read_record", "read_training"]

Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _number(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _share(value: Any) -> bool:
    return _number(value) and 0 < value <= 1


def _each(check: Check, *needed: str) -> Check:
    """Return a check of objects that have the needed keys and whose values all pass a check."""

    def passes(value: Any) -> bool:
        return isinstance(value, dict) and set(needed) <= value.keys() and all(map(check, value.values()))

    return passes


def _some(check: Check) -> Check:
    """Return a check of objects that have a key, and whose values all pass a check."""
    return lambda value: _each(check)(value) and value != {}


def _holding(**checks: Check) -> Check:
    """Return a check of objects that have these keys with values that pass their checks."""

    def passes(value: Any) -> bool:
        return isinstance(value, dict) and all(key in value and check(value[key]) for key, check in checks.items())

    return passes


_REWARDS = _each(_number, "proxy")
_WER = _holding(wer=_number)

_RECORD: Mapping[str, tuple[Check, str]] = {
    "title": (_text, "a text"),
    "model": (_text, "a name or a path"),
    "settings": (_each(_text), "an object of texts"),
    "utterances": (_some(lambda spec: isinstance(spec, str | dict)), "an object of sets: names and mappings"),
    "compensated": (lambda value: isinstance(value, bool), "true or false"),
    "ranks": (_each(_count), "an object of whole numbers"),
    "params": (_each(_count, "original", "compressed"), "an object with whole numbers original and compressed"),
    "file_bytes": (_each(_count, "original", "compressed"), "an object with whole numbers original and compressed"),
    "size_ratio": (_share, "a number above 0 and at most 1"),
    "evaluations": (_count, "a whole number"),
    "rewards": (lambda value: value == {} or _REWARDS(value), "an object of numbers, empty or with proxy"),
    "sets": (_some(_each(_number, "wer_before", "wer_after")), "an object of sets with wer_before and wer_after"),
}
"""Key of ``best.json`` -> the check of its value, and its description for error messages."""

_TRAINING: Mapping[str, tuple[Check, str]] = {
    "size_ratio": (_share, "a number above 0 and at most 1"),
    "training": (_holding(utterances=_count, cpu_seconds=_number), "an object with utterances and cpu_seconds"),
    "before": (_holding(dev=_WER), "an object with dev and its wer"),
    "after": (_holding(dev=_WER, test=_WER), "an object with dev and test and their wer"),
}
"""Key of a fine-tuning's ``result.json`` -> the check of its value, and its description for error messages."""


def read_record(path: Path, *needed: str) -> dict[str, Any]:
    """Read and check the ``best.json`` of a run.

    Args:
        path: The file.
        needed: Required keys.

    Raises:
        ValueError: The file is not a JSON object, lacks a key, or has a value of another kind.
        FileNotFoundError: There is no such file.
    """
    return _checked(read_json_object(path), str(path), _RECORD, set(needed), "the best.json of a run")


def read_training(path: Path) -> dict[str, Any]:
    """Read and check the ``result.json`` of a fine-tuning.

    Raises:
        ValueError: The file is not a JSON object, lacks a key, or has a value of another kind.
        FileNotFoundError: There is no such file.
    """
    return _checked(read_json_object(path), str(path), _TRAINING, set(_TRAINING), "the result.json of a fine-tuning")


def named_classes(content: Any) -> list[str]:
    """Return all import paths in a record's ``_target_`` entries, at any depth: code that the record refers to."""
    if isinstance(content, Mapping):
        own = [str(content["_target_"])] if "_target_" in content else []
        return own + [name for value in content.values() for name in named_classes(value)]
    if isinstance(content, list):
        return [name for value in content for name in named_classes(value)]
    return []


def _checked(
    record: dict[str, Any], where: str, kinds: Mapping[str, tuple[Check, str]], needed: set[str], what: str
) -> dict[str, Any]:
    missing = needed - record.keys()
    if missing:
        raise ValueError(f"{where} lacks {', '.join(sorted(missing))}: it must be {what}")
    for key, (check, meaning) in kinds.items():
        if key in record and not check(record[key]):
            raise ValueError(f"{where}: {key} must be {meaning}, got {reprlib.repr(record[key])}")
    return record
