"""Choosing a few utterances that stand for many.

The selections below know of an utterance only how many words it has and how many errors some compressed models make in
it, and return indices into the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ERROR_WEIGHT", "SELECTIONS", "Pool", "random_selection", "ranking_selection", "stratified_selection"]


ERROR_WEIGHT = 2.0
"""Of the error against the ranking: without it a set ranks models well and is wrong about all of them by points."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The utterances to choose from, and what compressed models make of them.

    Attributes:
        edits: Word errors of each model in each utterance, (models, utterances).
        words: Reference words, (utterances,).
        voices: Who speaks each utterance.
        target: WER of each model on the set to be stood for, (models,).
    """

    edits: NDArray[np.int64]
    words: NDArray[np.int64]
    voices: Sequence[str]
    target: NDArray[np.float64]


Selection = Callable[[Pool, int, int], list[int]]
"""(pool, count, seed) -> indices of the chosen utterances, ascending."""


def random_selection(pool: Pool, count: int, seed: int) -> list[int]:
    """Any `count` utterances."""
    return sorted(np.random.default_rng(seed).permutation(len(pool.words))[:count].tolist())


def stratified_selection(pool: Pool, count: int, seed: int) -> list[int]:
    """A systematic sample of the pool sorted by voice, then difficulty, then length: each has its share.

    Difficulty is the WER over all compressed models, in thirds of the pool.
    The seed says where the sample begins.
    """
    words, voices = pool.words, pool.voices
    difficulty = pool.edits.sum(0) / words
    third = np.searchsorted(np.quantile(difficulty, [1 / 3, 2 / 3]), difficulty)
    order = sorted(range(len(words)), key=lambda index: (voices[index], third[index], words[index], index))
    start = np.random.default_rng(seed).random()
    positions = ((start + np.arange(count)) * len(order) / count).astype(int) % len(order)
    return sorted(order[position] for position in positions)


def ranking_selection(pool: Pool, count: int, seed: int) -> list[int]:
    """Greedily the utterances whose WERs rank the compressed models, and predict them, most nearly as the target does.

    One after the other, the utterance joins that makes the mean concordance with the target over all pairs of models
    (Kendall's tau without ties) less `ERROR_WEIGHT` times the root mean squared error of the WERs largest.
    Nothing is random: the seed is not used.
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
"""Name -> function."""
