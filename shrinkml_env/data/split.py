"""Splitting of a data set into proxy, dev and test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

import numpy as np

__all__ = ["SHARES", "split", "spread"]

SHARES: Mapping[str, float] = {"proxy": 0.3, "dev": 0.2, "test": 0.5}
"""Part -> share of the utterances, about as in the embedded sets."""


def split(speakers: Sequence[str], seed: int = 0, shares: Mapping[str, float] = SHARES) -> dict[str, list[int]]:
    """Split utterances into parts of about the given shares, with no speaker in two parts if possible.

    Speakers are assigned in descending order of their utterances, each to the part that lacks most of its share; the
    seed orders speakers with equally many. With fewer speakers than parts, the last part gets the speaker with most
    utterances, and the utterances of the others are divided among the other parts; a single speaker's are divided among
    all parts.

    Args:
        speakers: Speaker of each utterance.
        seed: Seed of the order of speakers.
        shares: Part -> share; the last part is the one to keep free of the other parts' speakers.

    Returns:
        Part -> indices of its utterances, ascending.

    Raises:
        ValueError: There are fewer utterances than parts.
    """
    if len(speakers) < len(shares):
        raise ValueError(f"{len(speakers)} utterances cannot be split in {len(shares)} parts: give more")
    owned: dict[str, list[int]] = defaultdict(list)
    for index, speaker in enumerate(speakers):
        owned[speaker].append(index)
    names = sorted(owned)
    np.random.default_rng(seed).shuffle(names)
    names.sort(key=lambda name: -len(owned[name]))
    if len(names) >= len(shares):
        parts = _place([len(owned[name]) for name in names], shares)
        return {part: sorted(chain(*(owned[names[place]] for place in places))) for part, places in parts.items()}
    *first, last = shares
    if len(names) == 1 or len(speakers) - len(owned[names[0]]) < len(first):
        return _cut(range(len(speakers)), shares)
    rest = [index for name in sorted(names[1:]) for index in owned[name]]
    return {**_cut(rest, {part: shares[part] for part in first}), last: owned[names[0]]}


def _place(counts: Sequence[int], shares: Mapping[str, float]) -> dict[str, list[int]]:
    """Assign speakers to parts, given their numbers of utterances: part -> indices of speakers."""
    placed: dict[str, list[int]] = {part: [] for part in shares}
    for place in range(len(counts)):
        empty = [part for part in shares if not placed[part]]
        # The last speakers go to parts that would otherwise stay empty.
        open_parts = empty if len(empty) >= len(counts) - place else list(shares)
        lacks = {part: shares[part] * sum(counts) - sum(counts[i] for i in placed[part]) for part in open_parts}
        placed[max(open_parts, key=lambda part: lacks[part])].append(place)
    return placed


def _cut(indices: Sequence[int], shares: Mapping[str, float]) -> dict[str, list[int]]:
    """Divide indices into contiguous parts of about these shares, each with at least one: part -> indices."""
    bounds = np.cumsum([0.0, *shares.values()]) / sum(shares.values()) * len(indices)
    cuts = bounds.round().astype(int)
    for place in range(1, len(cuts) - 1):
        cuts[place] = min(max(cuts[place], cuts[place - 1] + 1), len(indices) - (len(cuts) - 1 - place))
    return {part: list(indices[cuts[place] : cuts[place + 1]]) for place, part in enumerate(shares)}


def spread(indices: Sequence[int], speakers: Sequence[str], limit: int, seed: int = 0) -> list[int]:
    """Choose at most `limit` utterances, round-robin over the speakers and at random within a speaker.

    Args:
        indices: The utterances to choose from.
        speakers: Speaker of every utterance that an index may refer to.
        limit: The largest number of utterances.
        seed: Seed of the choice.

    Returns:
        Indices, ascending.
    """
    rng = np.random.default_rng(seed)
    owned: dict[str, list[int]] = defaultdict(list)
    for index in rng.permutation(np.array(indices, dtype=np.int64)).tolist():
        owned[speakers[index]].append(index)
    in_turn = chain(*zip_longest(*(owned[name] for name in sorted(owned))))
    return sorted([index for index in in_turn if index is not None][:limit])
