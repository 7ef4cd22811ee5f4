"""Selection of proxy sets: a few utterances that represent a larger set.

The methods use only the length of each utterance, its speaker, and the losses of some compressed models, and return
indices into the pool. Losses are word errors and lengths numbers of words, so that their ratio is a WER; or losses are
nats and lengths numbers of units, and the ratio is the divergence.
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
        losses: Word errors, or nats, of each model in each utterance, (models, utterances).
        lengths: Number of reference words, or of units, of each utterance, (utterances,).
        voices: Speaker of each utterance.
        target: WER, a fraction, or divergence of each model on the set to represent, (models,).
    """

    losses: NDArray[np.float64]
    lengths: NDArray[np.int64]
    voices: Sequence[str]
    target: NDArray[np.float64]


Selection = Callable[[Pool, int, int], list[int]]
"""A function of (pool, count, seed) that returns the indices of the chosen utterances, ascending."""


def random_selection(pool: Pool, count: int, seed: int) -> list[int]:
    """Choose `count` utterances at random."""
    return sorted(np.random.default_rng(seed).permutation(len(pool.lengths))[:count].tolist())


def stratified_selection(pool: Pool, count: int, seed: int) -> list[int]:
    """Choose a systematic sample of the pool, sorted by voice, then difficulty, then length.

    Difficulty is the loss per length over all compressed models, in thirds of the pool. The seed determines the first
    position.
    """
    lengths, voices = pool.lengths, pool.voices
    difficulty = pool.losses.sum(0) / lengths
    third = np.searchsorted(np.quantile(difficulty, [1 / 3, 2 / 3]), difficulty)
    order = sorted(range(len(lengths)), key=lambda index: (voices[index], third[index], lengths[index], index))
    start = np.random.default_rng(seed).random()
    positions = ((start + np.arange(count)) * len(order) / count).astype(int) % len(order)
    return sorted(order[position] for position in positions)


def ranking_selection(pool: Pool, count: int, seed: int) -> list[int]:
    """Choose utterances greedily such that their losses agree with the target in ranking and in value.

    Each step adds the utterance that maximises the mean concordance with the target over all pairs of models (Kendall's
    tau without ties) minus `ERROR_WEIGHT` times the root mean squared error. The seed is not used.
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
"""Name -> method of selection."""
