"""Contenders measured in turns, so that what else the machine does hits all alike."""

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
        seconds: Contender -> one number a round.
    """

    seconds: Mapping[str, list[float]]

    def per(self, counts: Mapping[str, int]) -> Comparison:
        """Seconds for each of the things that a contender does in one round."""
        return Comparison({name: [value / counts[name] for value in values] for name, values in self.seconds.items()})

    def median(self, name: str) -> float:
        """Seconds."""
        return statistics.median(self.seconds[name])

    def times_faster(self, name: str, than: str) -> tuple[float, float, float]:
        """Median, smallest and largest of the rounds' ratios of time."""
        ratios = [other / own for own, other in zip(self.seconds[name], self.seconds[than], strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def compare(contenders: Mapping[str, Callable[[int], object]], rounds: int, label: str) -> Comparison:
    """Time each contender once a round, in an order that turns with the rounds, after a round that does not count.

    Args:
        contenders: Name -> what is timed; it is given the round's number, from 0 for the one that does not count.
        rounds: At least 1.
        label: For the progress bar.
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
