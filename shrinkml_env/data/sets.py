"""Loading of utterance sets by name or folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from shrinkml_env.checks import whole_number
from shrinkml_env.data.librispeech import SpeechFolder
from shrinkml_env.data.utterance import Utterance

__all__ = ["SHIPPED_SETS", "UtteranceSpec", "count_utterances", "load_utterances"]

UtteranceSpec = str | Mapping[str, Any] | Sequence[Utterance]
"""The name of a shipped set, the arguments of `SpeechFolder` as a mapping, or a sequence of utterances."""

_ASSETS = Path(str(files("shrinkml_env") / "assets"))

SHIPPED_SETS: dict[str, dict[str, Any]] = {
    "proxy": {"subset": "proxy-pool", "ids": _ASSETS / "proxy" / "ranking.txt"},
    "proxy-random": {"subset": "proxy-pool", "ids": _ASSETS / "proxy" / "random.txt"},
    "proxy-stratified": {"subset": "proxy-pool", "ids": _ASSETS / "proxy" / "stratified.txt"},
    "proxy-small": {"subset": "proxy-pool", "ids": _ASSETS / "proxy" / "small.txt"},
    "proxy-pool": {"subset": "proxy-pool"},
    "calibration": {"subset": "calibration"},
    "calibration-large": {"subset": ["calibration", "proxy-pool"], "ids": _ASSETS / "proxy" / "calibration.txt"},
    "dev": {"subset": "dev"},
    "test": {"subset": "test"},
}
"""Name -> arguments of `SpeechFolder` for a set of the embedded synthetic speech. ``proxy``, ``proxy-random`` and
``proxy-stratified`` are 72 utterances each, chosen from the pool by the methods of `shrinkml_env.data.selection`;
``proxy-small`` are 12, for searches by the divergence. ``calibration`` are 80 of the training set;
``calibration-large`` are these and what the pool has besides ``proxy`` and ``proxy-small``, 324 in all."""


def load_utterances(spec: UtteranceSpec, name: str = "") -> tuple[Utterance, ...]:
    """Load the utterances of a set into memory.

    Args:
        spec: A name in `SHIPPED_SETS`; or ``{"root": DIR, "subset": "test-other", "limit": 20}`` for data in
            LibriSpeech's layout, with the arguments of `SpeechFolder` (``"limit"`` and ``"ids"`` are optional); or a
            sequence of `Utterance`.
        name: What the set is for, such as ``"dev"``: errors begin with it.

    Raises:
        ValueError: A name or key is unknown, or the set is empty.
        FileNotFoundError: There is no such folder or file.
    """
    try:
        return _loaded(spec)
    except (ValueError, FileNotFoundError) as error:
        if not name:
            raise
        kind = ValueError if isinstance(error, ValueError) else FileNotFoundError
        raise kind(f"{name}: {error}") from error


def count_utterances(spec: UtteranceSpec) -> int:
    """Return the number of utterances of a set, without reading audio; a list of ids needs no folder.

    Args:
        spec: As `load_utterances` takes it.

    Raises:
        ValueError: As `load_utterances`.
        FileNotFoundError: There is no such folder or file.
    """
    if isinstance(spec, str) and spec in SHIPPED_SETS:
        return len(SpeechFolder(_ASSETS / "speech", **SHIPPED_SETS[spec]))
    if not isinstance(spec, Mapping):
        return len(_loaded(spec))
    _check_mapping(spec)
    ids, limit = spec.get("ids"), spec.get("limit")
    if isinstance(ids, Sequence) and not isinstance(ids, str):
        count = len(set(ids))
        return count if limit is None else min(count, limit)
    return len(SpeechFolder(**spec))


def _check_mapping(spec: Mapping[str, Any]) -> None:
    """Check the keys and the kinds of values of a set that is given as a mapping.

    Raises:
        ValueError: Something is wrong with it.
    """
    unknown = set(spec) - {"root", "subset", "limit", "ids"}
    if unknown or not {"root", "subset"} <= set(spec):
        raise ValueError(
            f"an utterance set needs the keys root and subset (and may have limit and ids), got {sorted(spec)}"
        )
    if not isinstance(spec["root"], str | Path):
        raise ValueError(f"root of an utterance set must be a path, got {spec['root']!r}")
    ids, subset = spec.get("ids"), spec["subset"]
    if not isinstance(ids, str | Path | None) and not _are_names(ids):
        raise ValueError(f"ids of an utterance set must be a file's path or a list of ids, got {ids!r}")
    if not isinstance(subset, str) and not _are_names(subset):
        raise ValueError(f"subset of an utterance set must be a name or a list of names, got {subset!r}")
    if not subset:
        raise ValueError("subset of an utterance set must be a name or a list of names, got none")
    if spec.get("limit") is not None:
        whole_number("limit", spec["limit"], least=1)


def _loaded(spec: UtteranceSpec) -> tuple[Utterance, ...]:
    if isinstance(spec, str):
        if spec not in SHIPPED_SETS:
            raise ValueError(f"no utterance set is named {spec!r}; the shipped ones are {', '.join(SHIPPED_SETS)}")
        return tuple(SpeechFolder(_ASSETS / "speech", **SHIPPED_SETS[spec]))
    if isinstance(spec, Mapping):
        _check_mapping(spec)
        return tuple(SpeechFolder(**spec))
    given: Any = spec
    if not isinstance(given, Sequence) or not all(isinstance(utterance, Utterance) for utterance in given):
        raise ValueError(
            f"an utterance set must be a name ({', '.join(SHIPPED_SETS)}), a mapping with root and subset, or a "
            f"sequence of Utterance, got {given!r}"
        )
    utterances: tuple[Utterance, ...] = tuple(given)
    if not utterances:
        raise ValueError("an utterance set needs at least one utterance")
    return utterances


def _are_names(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(name, str) for name in value)
