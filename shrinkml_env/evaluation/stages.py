"""Recognition in stages, whose results are shared by configurations that begin alike."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shrinkml_env.compression import Hypothesis, Layer, PredictiveModel, StagedModel, State, in_batches

__all__ = ["StageCache", "StagedRecogniser"]


class _Entry(NamedTuple):
    state: State
    bytes: int
    seconds: float
    uses: int
    priority: float


class StageCache:
    """A stage cache keeps what flows between a model's stages for the configurations met so far, in limited memory.

    When it is full, what has saved least for its size goes first: each entry's priority is its number of uses times its
    seconds per byte, above the priority of what was thrown out last, so that old entries give way in time
    (GreedyDual-Size with frequency; Cherkasova 1998). Copies and pickles begin empty.

    Args:
        limit: Bytes; 0 keeps nothing.
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
        """Return what was put under a key, or None if it is not there any more."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        uses = entry.uses + 1
        self._entries[key] = entry._replace(uses=uses, priority=self._priority(entry, uses))
        return entry.state

    def put(self, key: object, state: State, seconds: float) -> None:
        """Keep a state that took so long to compute; it must not be changed any more."""
        size = sum(part.element_size() * part.nelement() for part in state)
        if key in self._entries or size > self.limit:
            return
        while self.bytes + size > self.limit:
            worst = min(self._entries, key=lambda known: self._entries[known].priority)
            thrown = self._entries.pop(worst)
            self._clock = thrown.priority
            self.bytes -= thrown.bytes
        entry = _Entry(state, size, seconds, 1, 0.0)
        self._entries[key] = entry._replace(priority=self._priority(entry, 1))
        self.bytes += size

    def __getstate__(self) -> dict[str, Any]:
        return vars(StageCache(self.limit))

    def _priority(self, entry: _Entry, uses: int) -> float:
        return self._clock + uses * entry.seconds / max(1, entry.bytes)


class StagedRecogniser:
    """A staged recogniser recognises fixed waveforms with many compressed forms of one model.

    The transcripts are those of `recognise_in_batches`: the same batches, the same arithmetic. Stages that were
    computed before with the same ranks are not computed again.

    Args:
        model: The original.
        layers: Its layers as they are factored (`Factorisation.layers`).
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
        """Return what a compressed form recognises.

        Args:
            model: A form that `compress` made of the original.
            ranks: Its factored matrices -> rank, as `matrix_ranks` gives them.
        """
        found: dict[int, Hypothesis] = {}
        with torch.inference_mode():
            for batch, waveforms, state in self._heard(model, ranks):
                found.update(zip(batch, model.finish(waveforms, state), strict=True))
        return [found[index] for index in range(len(self._waveforms))]

    def with_predictions(
        self, model: PredictiveModel, ranks: Mapping[str, int], texts: Sequence[str]
    ) -> tuple[list[Hypothesis], list[Tensor]]:
        """Return what a compressed form recognises, and what it predicts.

        Args:
            model: As above, and so are `ranks`.
            ranks: As above.
            texts: The transcript of each waveform that the model is told.

        Returns:
            The transcripts, and the distributions that `PredictiveModel.predict` gives.
        """
        found: dict[int, tuple[Hypothesis, Tensor]] = {}
        with torch.inference_mode():
            for batch, waveforms, state in self._heard(model, ranks):
                predicted = model.predict(waveforms, state, [texts[index] for index in batch])
                both = zip(model.finish(waveforms, state), predicted, strict=True)
                found.update(zip(batch, both, strict=True))
        hypotheses, predictions = zip(*(found[index] for index in range(len(self._waveforms))), strict=True)
        return list(hypotheses), list(predictions)

    def _heard(self, model: StagedModel, ranks: Mapping[str, int]) -> Iterator[tuple[list[int], list[Tensor], State]]:
        """Yield for every batch the places of its waveforms, the waveforms, and what comes before the end."""
        choices = [tuple(ranks.get(name) for name in stage) for stage in self._matrices]
        for number, batch in enumerate(self._batches):
            waveforms = [self._waveforms[index] for index in batch]
            yield batch, waveforms, self._before_the_end(model, number, waveforms, choices)

    def _before_the_end(
        self, model: StagedModel, number: int, waveforms: list[Tensor], choices: list[tuple[int | None, ...]]
    ) -> State:
        done = len(choices)
        while (state := self.cache.get((number, *choices[:done]))) is None and done:
            done -= 1
        # What an entry saves is the time since the one before it: that one may well be there still.
        started = time.perf_counter()
        if state is None:
            state = model.begin(waveforms)
            self.cache.put((number,), state, time.perf_counter() - started)
            started = time.perf_counter()
        for stage in range(done, len(choices)):
            state = model.advance(stage, state)
            self.cache.put((number, *choices[: stage + 1]), state, time.perf_counter() - started)
        return state
