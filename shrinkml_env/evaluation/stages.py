"""Recognition in stages: configurations with the same ranks in their first layers share the first stages' results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from shrinkml_env.compression import Hypothesis, Layer, PredictiveModel, StagedModel, State, in_batches

__all__ = ["StageCache", "StagedRecogniser"]

T = TypeVar("T")


class _Entry(NamedTuple):
    state: State
    bytes: int
    seconds: float
    uses: int
    priority: float


class StageCache:
    """A stage cache keeps the outputs of a model's stages, for earlier configurations, in limited memory.

    When it is full, it evicts the entry of the lowest priority: number of uses times seconds per byte, plus the
    priority of the entry evicted last, so that old entries age (GreedyDual-Size with frequency; Cherkasova 1998).
    Copies and pickles begin empty.

    Args:
        limit: Bytes, at least 0; 0 keeps nothing.

    Raises:
        ValueError: The limit is negative.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"the limit must be at least 0 bytes, got {limit}")
        self.limit = limit
        self.bytes = 0
        self._entries: dict[object, _Entry] = {}
        self._clock = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: object) -> State | None:
        """Return the state stored under a key, or None if it was evicted or never stored."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        uses = entry.uses + 1
        self._entries[key] = entry._replace(uses=uses, priority=self._priority(entry, uses))
        return entry.state

    def put(self, key: object, state: State, seconds: float) -> None:
        """Store a state, which must not be changed any more.

        Args:
            key: Any hashable.
            state: The output of a stage.
            seconds: The time that it took to compute.
        """
        size = sum(part.element_size() * part.nelement() for part in state)
        if key in self._entries or size > self.limit:
            return
        while self.bytes + size > self.limit:
            worst = min(self._entries, key=lambda known: self._entries[known].priority)
            evicted = self._entries.pop(worst)
            self._clock = evicted.priority
            self.bytes -= evicted.bytes
        entry = _Entry(state, size, seconds, 1, 0.0)
        self._entries[key] = entry._replace(priority=self._priority(entry, 1))
        self.bytes += size

    def __getstate__(self) -> dict[str, Any]:
        return vars(StageCache(self.limit))

    def _priority(self, entry: _Entry, uses: int) -> float:
        return self._clock + uses * entry.seconds / max(1, entry.bytes)


class StagedRecogniser:
    """A staged recogniser recognises fixed waveforms with many compressed versions of one model.

    The transcripts equal those of `recognise_in_batches`: the same batches, the same arithmetic. Stages whose ranks,
    and those of all stages before, are cached are not computed again.

    Args:
        model: The original.
        layers: The layers of the factorisation (`Factorisation.layers`).
        waveforms: Float32 samples at 16 kHz, (samples,) each.
        memory: Limit of the `StageCache`, bytes.
    """

    def __init__(self, model: StagedModel, layers: Sequence[Layer], waveforms: Sequence[Tensor], memory: int) -> None:
        self._waveforms = waveforms
        self._batches = in_batches([waveform.numel() for waveform in waveforms])
        names = {layer.name: layer for layer in layers}
        self._matrices = [[matrix.name for name in stage for matrix in names[name].matrices] for stage in model.stages]
        self.cache = StageCache(memory)

    def __call__(self, model: StagedModel, ranks: Mapping[str, int]) -> list[Hypothesis]:
        """Recognise all waveforms with a compressed model.

        Args:
            model: The original, compressed by `compress`.
            ranks: Name of each of its factored matrices -> rank, as `matrix_ranks` returns.

        Returns:
            The transcripts, in the order of the waveforms.
        """
        return self._of_each(model, ranks, lambda _, waveforms, state: model.finish(waveforms, state))

    def predict(self, model: PredictiveModel, ranks: Mapping[str, int], texts: Sequence[str]) -> list[Tensor]:
        """Predict the units of given texts with a compressed model.

        Args:
            model: The original, compressed by `compress`.
            ranks: Name of each of its factored matrices -> rank, as `matrix_ranks` returns.
            texts: One for each waveform, for teacher forcing.

        Returns:
            The log-probabilities that `PredictiveModel.predict` returns, for each waveform.
        """
        return self._of_each(
            model,
            ranks,
            lambda batch, waveforms, state: model.predict(waveforms, state, [texts[index] for index in batch]),
        )

    def recognise_and_predict(
        self, model: PredictiveModel, ranks: Mapping[str, int], texts: Sequence[str]
    ) -> tuple[list[Hypothesis], list[Tensor]]:
        """Return the transcripts and what `predict` returns, with the stages computed once."""

        def both(batch: list[int], waveforms: list[Tensor], state: State) -> Iterable[tuple[Hypothesis, Tensor]]:
            predicted = model.predict(waveforms, state, [texts[index] for index in batch])
            return zip(model.finish(waveforms, state), predicted, strict=True)

        hypotheses, predictions = zip(*self._of_each(model, ranks, both), strict=True)
        return list(hypotheses), list(predictions)

    def _of_each(
        self,
        model: StagedModel,
        ranks: Mapping[str, int],
        read: Callable[[list[int], list[Tensor], State], Iterable[T]],
    ) -> list[T]:
        """Return what is read of each waveform.

        Args:
            model: The original, compressed by `compress`.
            ranks: Name of each of its factored matrices -> rank.
            read: Takes the indices of a batch's waveforms, the waveforms, and their state after the last stage; returns
                one result for each.
        """
        choices = [tuple(ranks.get(name) for name in stage) for stage in self._matrices]
        found: dict[int, T] = {}
        with torch.inference_mode():
            for number, batch in enumerate(self._batches):
                waveforms = [self._waveforms[index] for index in batch]
                state = self._final_state(model, number, waveforms, choices)
                found.update(zip(batch, read(batch, waveforms, state), strict=True))
        return [found[index] for index in range(len(self._waveforms))]

    def _final_state(
        self, model: StagedModel, number: int, waveforms: list[Tensor], choices: list[tuple[int | None, ...]]
    ) -> State:
        done = len(choices)
        while (state := self.cache.get((number, *choices[:done]))) is None and done:
            done -= 1
        # An entry is worth the time since the entry before it, which may well be cached still.
        started = time.perf_counter()
        if state is None:
            state = model.begin(waveforms)
            self.cache.put((number,), state, time.perf_counter() - started)
            started = time.perf_counter()
        for stage in range(done, len(choices)):
            state = model.advance(stage, state)
            self.cache.put((number, *choices[: stage + 1]), state, time.perf_counter() - started)
        return state
