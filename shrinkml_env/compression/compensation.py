"""Factors that make up for what the compression of the matrices before has changed."""

from __future__ import annotations

import copy
import json
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor

from shrinkml_env.compression.calibration import watched_inputs
from shrinkml_env.compression.canonical import content_bytes, digest, one_thread
from shrinkml_env.compression.factors import Factors
from shrinkml_env.compression.layers import Matrix, matrix_ranks
from shrinkml_env.compression.protocol import PredictiveModel, State
from shrinkml_env.compression.svd import WhitenedSVD, decompose, weights_of
from shrinkml_env.progress import track

__all__ = ["CompensatedSVD"]


DAMPINGS = (0.01, 0.1, 1.0, 10.0, math.inf)
"""How much a matrix may hold on to its original values; infinity leaves them."""

METRIC = 0.01
"""Damping of the moment in which a matrix is truncated, as `ActivationAwareSVD` has it."""


class CompensatedSVD(WhitenedSVD):
    """Factors for one configuration, each fitted to what the compressed model multiplies its matrix with.

    The matrices are fitted one after the other, in the order in which speech passes through them. Let x be what the
    original multiplies W with, and x' what it is multiplied with where the matrices before are compressed already. The
    full-rank W~ with the least E ||W x - W~ x'||^2 + d m ||W - W~||^2, m being the mean square of an entry of x', is

        W~ = W (E[x x'^T] + d m I) (E[x' x'^T] + d m I)^-1

    and W' the matrix of rank r with the least E ||D (W~ - W') x'||^2, with the row weights D of `factorisation`: a
    reduced-rank regression (Izenman 1975). So a matrix corrects the errors of those before it, without gradients, as in
    PSVD (Interspeech 2021) and SVD-LLM (arXiv 2403.07378). The decoder hears the original's transcripts.

    How much a matrix holds on to its values, d, is chosen for each by the error E ||D (W x - W' x')||^2 on held-out
    speech: each half of the utterances is judged with what the other half gives.

    All this takes two recognitions of the speech for each matrix, of its own stage of the model, and holds for these
    ranks only. So a search goes without it, and the model that it has found is made with it.

    Args:
        model: An uncompressed model in evaluation mode; not changed.
        waveforms: Calibration speech, 1-D float32 samples at 16 kHz; at least two utterances.
        ranks: Layer or matrix name -> rank, as `compress` takes them.
        factorisation: The factors to begin with, of this model.

    Attributes:
        dampings: Name of each matrix or stack -> d; infinite if no other is better, so that W~ = W.

    Raises:
        ValueError: There is not enough speech, or a name or a rank is wrong.
    """

    name = "compensated"

    def __init__(
        self,
        model: PredictiveModel,
        waveforms: Sequence[Tensor],
        ranks: Mapping[str, int],
        factorisation: WhitenedSVD,
    ) -> None:
        if len(waveforms) < 2:
            raise ValueError(f"compensation needs calibration speech: {len(waveforms)} utterances are too few")
        # Begin with the decompositions that there are, not with new ones.
        self.__dict__.update({name: copy.copy(value) for name, value in vars(factorisation).items()})
        self.dampings: dict[str, float] = {}
        self._ranks = matrix_ranks(self.layers, ranks)
        self._fit(model, waveforms)
        chosen = json.dumps(self._ranks, sort_keys=True).encode()
        self.key += f"-compensated-{digest([chosen, *map(content_bytes, waveforms)])}"

    def factors(self, matrix: str, rank: int) -> Factors:
        """See `Factorisation.factors`.

        Raises:
            ValueError: The matrix is unknown, or this is not the rank for which it was fitted.
        """
        if rank != self._ranks.get(matrix, rank):
            raise ValueError(f"matrix {matrix!r} was fitted for rank {self._ranks[matrix]}, not {rank!r}")
        return super().factors(matrix, rank)

    def _fit(self, model: PredictiveModel, waveforms: Sequence[Tensor]) -> None:
        """Fit the matrices, stage by stage and in a stage one by one."""
        compressed = copy.deepcopy(model)
        matrices = {m.blocks[0].name: m for layer in self.layers for m in layer.matrices if m.name in self._ranks}
        for matrix in matrices.values():
            self._put(compressed, matrix)
        with one_thread(), torch.inference_mode():
            speech = _Speech((model, compressed), waveforms)
            for stage in track(range(len(model.stages) + 1), "compensating", "stage"):
                for name in speech.order(stage):
                    if name in matrices:
                        self._regress(model, matrices[name], speech.moments(stage, name))
                        self._put(compressed, matrices[name])
                speech.advance(stage)

    def _regress(self, model: PredictiveModel, matrix: Matrix, halves: tuple[_Moments, _Moments]) -> None:
        """Fit one matrix or stack."""
        weights = weights_of(model, [block.name for block in matrix.blocks])
        dense = torch.cat([weight.detach().to("cpu", torch.float64).flatten(1) for _, weight in weights])
        rows = self.row_weights.get(matrix.name)
        rank = self._ranks[matrix.name]

        def held_out(fitted: Sequence[Tensor]) -> float:
            """The error of matrices, each on the half at its place, less what all have in common."""
            return sum(half.error(dense, one, rows) for half, one in zip(halves, fitted, strict=True))

        errors = {}
        for damping in DAMPINGS:
            fitted = []
            for half in reversed(halves):
                values, left, right = decompose(half.regressed(dense, damping), half.root, rows)
                fitted.append((left[:, :rank] * values[:rank]) @ right[:rank])
            errors[damping] = held_out(fitted)
        best = self.dampings[matrix.name] = min(errors, key=errors.__getitem__)
        both = halves[0] + halves[1]
        self._keep(matrix, both.regressed(dense, best), both.root)
        self._orders = {key: order for key, order in self._orders.items() if key[0] != matrix.name}

    def _product(self, matrix: Matrix) -> Tensor:
        """Return W', (m, n) float64."""
        u, v, order = super().factors(matrix.name, self._ranks[matrix.name])
        return Factors(u.double(), v.double(), order).product

    def _put(self, compressed: PredictiveModel, matrix: Matrix) -> None:
        """Write the product of a matrix's factors into the dense stand-in of the compressed model."""
        product = self._product(matrix)
        blocks = weights_of(compressed, [block.name for block in matrix.blocks])
        parts = torch.split(product, [block.rows for block in matrix.blocks])
        for rows, (_, weight) in zip(parts, blocks, strict=True):
            weight.data.copy_(rows.view(weight.shape))


@dataclass(frozen=True, slots=True)
class _Moments:
    """The moments of what a matrix is multiplied with: sums over positions.

    Attributes:
        own: Sum of x' x'^T, (n, n) float64.
        cross: Sum of x x'^T, (n, n) float64.
    """

    own: Tensor
    cross: Tensor

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(self.own + other.own, self.cross + other.cross)

    def _ridge(self, damping: float) -> Tensor:
        return damping * self.own.diagonal().mean() * torch.eye(len(self.own), dtype=self.own.dtype)

    @property
    def root(self) -> Tensor:
        """A root of the moment of x', damped a little, (n, n) lower triangular."""
        root: Tensor = torch.linalg.cholesky(self.own + self._ridge(METRIC))
        return root

    def regressed(self, dense: Tensor, damping: float) -> Tensor:
        """Return W~ for W, (m, n)."""
        if math.isinf(damping):
            return dense
        ridge = self._ridge(damping)
        wanted: Tensor = torch.cholesky_solve((dense @ (self.cross + ridge)).T, torch.linalg.cholesky(self.own + ridge))
        return wanted.T

    def error(self, dense: Tensor, fitted: Tensor, rows: Tensor | None) -> float:
        """Return the sum of ||D (W x - W' x')||^2, less that of ||D W x||^2."""
        errors = ((fitted @ self.own - 2 * dense @ self.cross) * fitted).sum(dim=1)
        return float((errors if rows is None else errors * rows.square()).sum())


class _Speech:
    """Speech on its way through the original and the compressed model, utterance by utterance and stage by stage.

    Args:
        models: The original and the compressed model.
        waveforms: The speech.
    """

    def __init__(self, models: tuple[PredictiveModel, PredictiveModel], waveforms: Sequence[Tensor]) -> None:
        self.models = models
        self.waveforms = waveforms
        self.texts = [models[0].recognise([waveform])[0].text for waveform in waveforms]
        # What `begin` returns does not depend on the ranks.
        self.states: list[tuple[State, State]] = [(state, state) for state in map(self._begin, waveforms)]

    def _begin(self, waveform: Tensor) -> State:
        return self.models[0].begin([waveform])

    def _run(self, stage: int, place: int, which: int) -> State:
        """Return the state after a stage, one past the last for the decoder, of the original (0) or the other (1)."""
        model, state = self.models[which], self.states[place][which]
        if stage < len(model.stages):
            return model.advance(stage, state)
        model.predict([self.waveforms[place]], state, [self.texts[place]])
        return state

    def advance(self, stage: int) -> None:
        """Go on to the next stage."""
        if stage < len(self.models[0].stages):
            self.states = [(self._run(stage, i, 0), self._run(stage, i, 1)) for i in range(len(self.states))]

    def order(self, stage: int) -> list[str]:
        """Return the names of the matrices that are multiplied with vectors in a stage, in order."""
        seen: dict[str, bool] = {}
        with watched_inputs(self.models[0], lambda name, vectors: seen.setdefault(name, vectors.is_floating_point())):
            self._run(stage, 0, 0)
        return [name for name, multiplied in seen.items() if multiplied]

    def moments(self, stage: int, name: str) -> tuple[_Moments, _Moments]:
        """Return the moments of a matrix on each half of the speech."""
        found: tuple[list[Tensor], list[Tensor]] = ([], [])

        def collect(into: list[Tensor], found_name: str, vectors: Tensor) -> None:
            if found_name == name:
                into.append(vectors.double())

        original, compressed = (
            watched_inputs(model, partial(collect, into)) for model, into in zip(self.models, found, strict=True)
        )
        with original, compressed:
            first, second = (
                reduce(operator.add, (self._moments(stage, place, found) for place in places))
                for places in (range(0, len(self.waveforms), 2), range(1, len(self.waveforms), 2))
            )
        return first, second

    def _moments(self, stage: int, place: int, found: tuple[list[Tensor], list[Tensor]]) -> _Moments:
        """Return the moments of one utterance, from the vectors that a run of the stage appends to `found`."""
        for which in (0, 1):
            found[which].clear()
            self._run(stage, place, which)
        before, after = (torch.cat(parts).cpu() for parts in found)
        return _Moments(after.T @ after, before.T @ after)
