"""Timing of contenders in turns, so that other load of the machine affects all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tqdm import tqdm

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds of each contender in each round.

    Attributes:
        seconds: Contender -> seconds of each round.
    """

    seconds: Mapping[str, list[float]]

    def per(self, counts: Mapping[str, int]) -> Comparison:
        """Return the comparison of seconds per item, given the number of items in each contender's round."""
        return Comparison({name: [value / counts[name] for value in values] for name, values in self.seconds.items()})

    def median(self, name: str) -> float:
        """Return the median time of a contender, seconds."""
        return statistics.median(self.seconds[name])

    def times_faster(self, name: str, than: str) -> tuple[float, float, float]:
        """Return the median, smallest and largest ratio of times over the rounds."""
        ratios = [other / own for own, other in zip(self.seconds[name], self.seconds[than], strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def compare(contenders: Mapping[str, Callable[[int], object]], rounds: int, label: str) -> Comparison:
    """Time each contender once a round, in an order that rotates with the rounds, after a warm-up round.

    Args:
        contenders: Name -> function to time, of the number of the round (0 for the warm-up).
        rounds: Number of rounds, at least 1.
        label: The text before the progress bar.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tqdm(total=(rounds + 1) * len(names), desc=label, unit="run") as bar:
        for number in range(rounds + 1):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                started = time.perf_counter()
                contenders[name](number)
                if number:
                    seconds[name].append(time.perf_counter() - started)
                bar.update()
    return Comparison(seconds)
