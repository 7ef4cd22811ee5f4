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
from shrinkml_env.compression.factors import Factorisation, Factors
from shrinkml_env.compression.layers import Matrix, matrix_ranks
from shrinkml_env.compression.protocol import CompressibleModel, PredictiveModel, State, require_predictions
from shrinkml_env.compression.svd import WhitenedSVD, decompose, dense_values, weights_of
from shrinkml_env.progress import track

__all__ = ["CompensatedSVD"]


DAMPINGS = (0.01, 0.1, 1.0, 10.0, math.inf)
"""Values of d, of which the best is taken for each matrix; infinity leaves its values as they are."""

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

    A matrix that is looked up keeps its factors, even if it is an output layer as well.

    All this takes two recognitions of the speech for each matrix, of its own stage of the model, and holds for these
    ranks only. So a search goes without it, and the model that it has found is made with it.

    Args:
        model: An uncompressed `PredictiveModel` in evaluation mode; not changed.
        waveforms: Calibration speech, 1-D float32 samples at 16 kHz; at least two utterances.
        ranks: Layer or matrix name -> rank, as `compress` takes them.
        factorisation: The factors to begin with, `SVD` or `ActivationAwareSVD` of this model.

    Attributes:
        dampings: Name of each matrix or stack that was fitted -> d; infinite if no other is better, so that W~ = W.

    Raises:
        ValueError: The model does not predict probabilities or is in training mode, the factorisation is of another
            kind, there is not enough speech or it is not finite, or a name or a rank is wrong.
    """

    name = "compensated"

    def __init__(
        self,
        model: CompressibleModel,
        waveforms: Sequence[Tensor],
        ranks: Mapping[str, int],
        factorisation: Factorisation,
    ) -> None:
        model = require_predictions(model)
        if not isinstance(factorisation, WhitenedSVD):
            given = getattr(factorisation, "name", factorisation)
            raise ValueError(f"compensation begins with an SVD, plain or activation-aware, not {given!r}")
        if len(waveforms) < 2:
            raise ValueError(f"compensation needs calibration speech: {len(waveforms)} utterances are too few")
        if not all(waveform.isfinite().all() for waveform in waveforms):
            raise ValueError("calibration speech holds samples that are NaN or infinite")
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
            for stage, names in enumerate(track(speech.order(), "compensating", "stage")):
                for name in names:
                    if name in matrices:
                        self._regress(model, matrices[name], speech.moments(stage, name))
                        self._put(compressed, matrices[name])
                speech.advance(stage)

    def _regress(self, model: PredictiveModel, matrix: Matrix, halves: tuple[Moments, Moments]) -> None:
        """Fit one matrix or stack."""
        # A half of the speech in which all inputs are zero says nothing: the matrix keeps its factors.
        if any(half.own.trace() == 0 for half in halves):
            return
        dense = dense_values(model, matrix)
        damping = best_damping(dense, halves, self.row_weights.get(matrix.name), self._ranks[matrix.name])
        self.dampings[matrix.name] = damping
        both = halves[0] + halves[1]
        self._keep(matrix, both.regressed(dense, damping), both.root)

    def _put(self, compressed: PredictiveModel, matrix: Matrix) -> None:
        """Write the product of a matrix's factors into the dense stand-in of the compressed model."""
        u, v, order = self.factors(matrix.name, self._ranks[matrix.name])
        product = Factors(u.double(), v.double(), order).product
        blocks = weights_of(compressed, [block.name for block in matrix.blocks])
        parts = torch.split(product, [block.rows for block in matrix.blocks])
        for rows, (_, weight) in zip(parts, blocks, strict=True):
            weight.data.copy_(rows.view(weight.shape))


@dataclass(frozen=True, slots=True)
class Moments:
    """The moments of what a matrix is multiplied with: sums over positions.

    Attributes:
        own: Sum of x' x'^T, (n, n) float64.
        cross: Sum of x x'^T, (n, n) float64.
    """

    own: Tensor
    cross: Tensor

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.own + other.own, self.cross + other.cross)

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


def best_damping(dense: Tensor, halves: tuple[Moments, Moments], rows: Tensor | None, rank: int) -> float:
    """Return the damping with the least error, each half judged with what the other half gives.

    Args:
        dense: W, (m, n) float64.
        halves: The moments on each half of the speech.
        rows: The diagonal of D, (m,); None is I.
        rank: The rank of W'.
    """
    errors = dict.fromkeys(DAMPINGS, 0.0)
    for fitted_on, judged_on in (halves, halves[::-1]):
        for damping in DAMPINGS:
            values, left, right = decompose(fitted_on.regressed(dense, damping), fitted_on.root, rows)
            errors[damping] += judged_on.error(dense, (left[:, :rank] * values[:rank]) @ right[:rank], rows)
    return min(errors, key=errors.__getitem__)


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

    def _run(self, stage: int, place: int, which: int, state: State) -> State:
        """Return the state after a stage, one past the last for the decoder, of the original (0) or the other (1).

        The decoder begins with the state before the last stage. What is behind that, such as keys and values of all
        frames, is too large to be kept for every utterance.
        """
        model = self.models[which]
        if stage < len(model.stages):
            return model.advance(stage, state)
        for last in range(max(0, stage - 1), stage):
            state = model.advance(last, state)
        model.predict([self.waveforms[place]], state, [self.texts[place]])
        return state

    def advance(self, stage: int) -> None:
        """Go on to the next stage."""
        if stage < len(self.models[0].stages) - 1:
            self.states = [
                (self._run(stage, place, 0, original), self._run(stage, place, 1, compressed))
                for place, (original, compressed) in enumerate(self.states)
            ]

    def order(self) -> list[list[str]]:
        """Return for each stage the matrices that are multiplied with vectors in it, and are not looked up, in order.

        It is found with the first utterance.
        """
        stages = len(self.models[0].stages)
        called: list[dict[str, bool]] = [{} for _ in range(stages + 1)]
        state = self.states[0][0]
        for stage, found in enumerate(called):

            def watch(name: str, vectors: Tensor, found: dict[str, bool] = found) -> None:
                found[name] = found.get(name, True) and vectors.is_floating_point()

            with watched_inputs(self.models[0], watch):
                after = self._run(stage, 0, 0, state)
            state = after if stage < stages - 1 else state
        # The decoder runs through the last stage once more.
        *_, last, decoder = [{}, *called]
        called[-1] = {name: multiplied for name, multiplied in decoder.items() if name not in last}
        return [[name for name, multiplied in found.items() if multiplied] for found in called]

    def moments(self, stage: int, name: str) -> tuple[Moments, Moments]:
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

    def _moments(self, stage: int, place: int, found: tuple[list[Tensor], list[Tensor]]) -> Moments:
        """Return the moments of one utterance, from the vectors that a run of the stage appends to `found`."""
        for which in (0, 1):
            found[which].clear()
            self._run(stage, place, which, self.states[place][which])
        before, after = (torch.cat(parts).cpu() for parts in found)
        return Moments(after.T @ after, before.T @ after)
