"""One data set, three uses: parts to search on, to choose with and to report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

import numpy as np

__all__ = ["SHARES", "split", "spread"]

SHARES: Mapping[str, float] = {"proxy": 0.3, "dev": 0.2, "test": 0.5}
"""Of the utterances: about those of the embedded sets."""


def split(speakers: Sequence[str], seed: int = 0, shares: Mapping[str, float] = SHARES) -> dict[str, list[int]]:
    """Part -> indices of its utterances, ascending: in about these shares, and no speaker in two parts if possible.

    Speakers with many utterances are placed first, each in the part that lacks most of its share; the seed orders those
    with equally many. With fewer speakers than parts the last part has the speaker with most utterances, and the others
    are cut through; one speaker is cut into all parts.

    Args:
        speakers: Who speaks each utterance.
        seed: Another seed, another split.
        shares: Part -> share; the last is the one that should be kept apart.

    Raises:
        ValueError: There are too few utterances for a part each.
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
    """Speakers with so many utterances, in this order, to parts."""
    placed: dict[str, list[int]] = {part: [] for part in shares}
    for place in range(len(counts)):
        empty = [part for part in shares if not placed[part]]
        # The last speakers go to the parts that would have none.
        open_parts = empty if len(empty) >= len(counts) - place else list(shares)
        lacks = {part: shares[part] * sum(counts) - sum(counts[i] for i in placed[part]) for part in open_parts}
        placed[max(open_parts, key=lambda part: lacks[part])].append(place)
    return placed


def _cut(indices: Sequence[int], shares: Mapping[str, float]) -> dict[str, list[int]]:
    """Neighbours stay together; every part has at least one."""
    bounds = np.cumsum([0.0, *shares.values()]) / sum(shares.values()) * len(indices)
    cuts = bounds.round().astype(int)
    for place in range(1, len(cuts) - 1):
        cuts[place] = min(max(cuts[place], cuts[place - 1] + 1), len(indices) - (len(cuts) - 1 - place))
    return {part: list(indices[cuts[place] : cuts[place + 1]]) for place, part in enumerate(shares)}


def spread(indices: Sequence[int], speakers: Sequence[str], limit: int, seed: int = 0) -> list[int]:
    """At most `limit` of these utterances, ascending: drawn in turn from each speaker, at random within one."""
    rng = np.random.default_rng(seed)
    owned: dict[str, list[int]] = defaultdict(list)
    for index in rng.permutation(np.array(indices, dtype=np.int64)).tolist():
        owned[speakers[index]].append(index)
    in_turn = chain(*zip_longest(*(owned[name] for name in sorted(owned))))
    return sorted([index for index in in_turn if index is not None][:limit])
