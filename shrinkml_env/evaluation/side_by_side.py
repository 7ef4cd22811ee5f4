"""The measurement of many configurations at once, on a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, ClassVar

from shrinkml_env.compression import GroupedModel, Hypothesis, in_batches
from shrinkml_env.evaluation.measurer import Measurer, Ranks
from shrinkml_env.evaluation.result import Counts

__all__ = ["SideBySideMeasurer"]

_GROUP = 8
"""Models computed at once: always this many, because the arithmetic depends on the number."""


class SideBySideMeasurer(Measurer):
    """A measurer that computes several compressed versions of a `GroupedModel` at once: one does not fill a GPU."""

    arithmetic: ClassVar[tuple[Any, ...]] = (_GROUP,)

    @property
    def chunk_size(self) -> int:
        """The number of configurations measured at once."""
        return _GROUP

    def __call__(self, ranks: Ranks) -> Counts:
        """Measure one configuration, in the arithmetic of a whole group."""
        (counts,) = self._measure_group([ranks])
        return counts

    def measure(self, configurations: Sequence[Ranks]) -> Iterator[Counts]:
        """Return an iterator over the counts of several configurations, in their order, measured group by group."""
        groups = (configurations[start : start + _GROUP] for start in range(0, len(configurations), _GROUP))
        return chain.from_iterable(map(self._measure_group, groups))

    def _measure_group(self, group: Sequence[Ranks]) -> list[Counts]:
        assert isinstance(self.model, GroupedModel)
        forms = [self.compressed(ranks) for ranks in group]
        forms += forms[-1:] * (_GROUP - len(forms))
        found: list[dict[int, Hypothesis]] = [{} for _ in group]
        for batch in in_batches([waveform.numel() for waveform in self._waveforms]):
            hypotheses = self.model.recognise_side_by_side(forms, [self._waveforms[index] for index in batch])
            for of_form, recognised in zip(found, hypotheses, strict=False):
                of_form.update(zip(batch, recognised, strict=True))
        return [self.counts([of_form[index] for index in range(len(self._waveforms))]) for of_form in found]
