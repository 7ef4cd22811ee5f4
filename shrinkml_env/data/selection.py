"""Selection of proxy sets: a few utterances that represent a larger set.

The methods use only the number of words of each utterance, its speaker, and the word errors of some compressed models,
and return indices into the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ERROR_WEIGHT", "SELECTIONS", "Pool", "random_selection", "ranking_selection", "stratified_selection"]


ERROR_WEIGHT = 2.0
"""Weight of the WERs' error relative to their ranking. Without it a selected set would rank models well, but its WERs
would be wrong by several percentage points."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The utterances to choose from, with the word errors of compressed models.

    Attributes:
        edits: Word errors of each model in each utterance, (models, utterances).
        words: Number of reference words of each utterance, (utterances,).
        voices: Speaker of each utterance.
        target: WER of each model on the set to represent, (models,), fractions.
    """

    edits: NDArray[np.int64]
    words: NDArray[np.int64]
    voices: Sequence[str]
    target: NDArray[np.float64]


Selection = Callable[[Pool, int, int], list[int]]
"""A function of (pool, count, seed) that returns the indices of the chosen utterances, ascending."""


def random_selection(pool: Pool, count: int, seed: int) -> list[int]:
    """Choose `count` utterances at random."""
    return sorted(np.random.default_rng(seed).permutation(len(pool.words))[:count].tolist())


def stratified_selection(pool: Pool, count: int, seed: int) -> list[int]:
    """Choose a systematic sample of the pool, sorted by voice, then difficulty, then length.

    Difficulty is the WER over all compressed models, in thirds of the pool. The seed determines the first position.
    """
    words, voices = pool.words, pool.voices
    difficulty = pool.edits.sum(0) / words
    third = np.searchsorted(np.quantile(difficulty, [1 / 3, 2 / 3]), difficulty)
    order = sorted(range(len(words)), key=lambda index: (voices[index], third[index], words[index], index))
    start = np.random.default_rng(seed).random()
    positions = ((start + np.arange(count)) * len(order) / count).astype(int) % len(order)
    return sorted(order[position] for position in positions)


def ranking_selection(pool: Pool, count: int, seed: int) -> list[int]:
    """Choose utterances greedily such that the WERs on them agree with the target in ranking and in value.

    Each step adds the utterance that maximises the mean concordance with the target over all pairs of models (Kendall's
    tau without ties) minus `ERROR_WEIGHT` times the root mean squared error of the WERs. The seed is not used.
    """
    edits, words, target = pool.edits, pool.words, pool.target
    first, second = np.triu_indices(len(target), 1)
    agreed = np.sign(target[first] - target[second])
    chosen: list[int] = []
    errors, length = np.zeros(len(target)), 0
    for _ in range(min(count, len(words))):
        left = np.setdiff1d(np.arange(len(words)), chosen)
        rates = (errors[:, None] + edits[:, left]) / (length + words[left])
        concordance = agreed @ np.sign(rates[first] - rates[second]) / len(agreed)
        error = np.sqrt(((rates - target[:, None]) ** 2).mean(0))
        best = left[np.argmax(concordance - ERROR_WEIGHT * error)]
        chosen.append(int(best))
        errors, length = errors + edits[:, best], length + int(words[best])
    return sorted(chosen)


SELECTIONS: dict[str, Selection] = {
    "random": random_selection,
    "stratified": stratified_selection,
    "ranking": ranking_selection,
}
"""Name -> method of selection."""
