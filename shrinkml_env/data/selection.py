"""Choosing a few utterances that stand for many.

The selections below know of an utterance only how long it is and how much some compressed models lose in it, and return
indices into the pool. The loss is counted in word errors and the length in words, so that their ratio is a WER; or the
loss in nats and the length in units of the transcript, and the ratio is the divergence.
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
        losses: Word errors, or nats, of each model in each utterance, (models, utterances).
        lengths: Reference words, or units, (utterances,).
        voices: Who speaks each utterance.
        target: WER, or divergence, of each model on the set to be stood for, (models,).
    """

    losses: NDArray[np.float64]
    lengths: NDArray[np.int64]
    voices: Sequence[str]
    target: NDArray[np.float64]


Selection = Callable[[Pool, int, int], list[int]]
"""(pool, count, seed) -> indices of the chosen utterances, ascending."""


def random_selection(pool: Pool, count: int, seed: int) -> list[int]:
    """Any `count` utterances."""
    return sorted(np.random.default_rng(seed).permutation(len(pool.lengths))[:count].tolist())


def stratified_selection(pool: Pool, count: int, seed: int) -> list[int]:
    """A systematic sample of the pool sorted by voice, then difficulty, then length: each has its share.

    Difficulty is the loss per length over all compressed models, in thirds of the pool.
    The seed says where the sample begins.
    """
    lengths, voices = pool.lengths, pool.voices
    difficulty = pool.losses.sum(0) / lengths
    third = np.searchsorted(np.quantile(difficulty, [1 / 3, 2 / 3]), difficulty)
    order = sorted(range(len(lengths)), key=lambda index: (voices[index], third[index], lengths[index], index))
    start = np.random.default_rng(seed).random()
    positions = ((start + np.arange(count)) * len(order) / count).astype(int) % len(order)
    return sorted(order[position] for position in positions)


def ranking_selection(pool: Pool, count: int, seed: int) -> list[int]:
    """Greedily the utterances that rank models, and predict their losses, most nearly as the target does.

    One after the other, the utterance joins that makes the mean concordance with the target over all pairs of models
    (Kendall's tau without ties) less `ERROR_WEIGHT` times the root mean squared error largest.
    Nothing is random: the seed is not used.
    """
    losses, lengths, target = pool.losses, pool.lengths, pool.target
    first, second = np.triu_indices(len(target), 1)
    agreed = np.sign(target[first] - target[second])
    chosen: list[int] = []
    lost, length = np.zeros(len(target)), 0
    for _ in range(min(count, len(lengths))):
        left = np.setdiff1d(np.arange(len(lengths)), chosen)
        rates = (lost[:, None] + losses[:, left]) / (length + lengths[left])
        concordance = agreed @ np.sign(rates[first] - rates[second]) / len(agreed)
        error = np.sqrt(((rates - target[:, None]) ** 2).mean(0))
        best = left[np.argmax(concordance - ERROR_WEIGHT * error)]
        chosen.append(int(best))
        lost, length = lost + losses[:, best], length + int(lengths[best])
    return sorted(chosen)


SELECTIONS: dict[str, Selection] = {
    "random": random_selection,
    "stratified": stratified_selection,
    "ranking": ranking_selection,
}
"""Name -> function."""
