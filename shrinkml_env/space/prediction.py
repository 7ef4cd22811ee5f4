"""The damage that each layer is predicted to do at each rank, without any evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from shrinkml_env.compression import (
    CompressibleModel,
    Factorisation,
    Layer,
    calibration_waveforms,
    compress,
    decompress,
    matrix_ranks,
    sampled_gradients,
)
from shrinkml_env.compression.canonical import content_bytes, one_thread
from shrinkml_env.compression.store import Store, recognition_content, remembered
from shrinkml_env.data.sets import UtteranceSpec
from shrinkml_env.evaluation.evaluator import Evaluator
from shrinkml_env.progress import track

__all__ = ["Prediction", "predict_damage", "predict_for"]


@runtime_checkable
class _Nested(Protocol):
    """A factorisation whose products of all ranks are the sums of the first of the same triplets."""

    def triplets(self, matrix: str) -> tuple[Tensor, Tensor]:
        """Return U, (m, k), and V, (k, n)."""


@dataclass(frozen=True)
class Prediction:
    """A prediction of the divergence that each matrix alone causes at each rank.

    Attributes:
        damage: Name of a matrix or stack -> (k + 1,) float64 for the ranks 0 to k = min(m, n): nats a unit,
            non-increasing, the last one being 0.
    """

    damage: Mapping[str, np.ndarray]

    def of(self, layer: Layer, rank: int) -> float:
        """Return the predicted divergence of a model with this layer at a rank and all others dense, in nats a unit.

        Matrices that share the rank add up; one that the rank leaves dense adds nothing.
        """
        return float(
            sum(self.damage[matrix.name][rank] for matrix in layer.matrices if matrix.is_factored(rank)),
        )

    @classmethod
    def mean(cls, predictions: Sequence[Self]) -> Self:
        """Return the geometric mean of predictions for the same matrices.

        It depends on the proportions within each prediction only: one that is several times as large in all, as one
        from a compressed model is, counts no more for that. What one of them predicts to do no harm does none.
        """
        first, *_ = predictions
        return cls(
            {
                name: np.prod([one.damage[name] for one in predictions], axis=0) ** (1 / len(predictions))
                for name in first.damage
            }
        )

    def to_json(self) -> dict[str, list[float]]:
        """Return name -> damage as JSON has it."""
        return {name: damage.tolist() for name, damage in self.damage.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Sequence[float]]) -> Self:
        """Read what `to_json` made."""
        return cls({name: np.array(damage, np.float64) for name, damage in value.items()})


def predict_for(
    evaluator: Evaluator,
    calibration: UtteranceSpec,
    draws: int,
    seed: int = 0,
    at: Mapping[str, int] | None = None,
) -> Prediction:
    """Return `predict_damage` for an evaluator's model and factors, from its cache where it was made before.

    Args:
        evaluator: Has the model, the factorisation and the cache.
        calibration: The speech of the gradients, as `load_utterances` takes it; training speech of the model.
        draws: As `predict_damage`.
        seed: As `predict_damage`.
        at: Name of each layer of the evaluator -> rank; otherwise as `predict_damage`.

    Raises:
        ValueError: As `predict_damage`; or there is no such speech, or it is too short for the model.
        FileNotFoundError: The folder of the speech is missing.
    """
    waveforms = calibration_waveforms(evaluator.model, calibration)
    ranks = None if at is None else evaluator.matrix_ranks(at)
    return predict_damage(evaluator.model, evaluator.factorisation, waveforms, draws, seed, evaluator.cache, ranks)


def predict_damage(
    model: CompressibleModel,
    factorisation: Factorisation,
    waveforms: Sequence[Tensor],
    draws: int = 1,
    seed: int = 0,
    store: Store | None = None,
    at: Mapping[str, int] | None = None,
) -> Prediction:
    """Predict the divergence from the original that each matrix causes at each rank, by gradients on some speech.

    For a matrix W, its product W_r of rank r, and the gradients G_u of `sampled_gradients`,

        p(r) = 1 / units * sum over utterances u of 1/2 <G_u, W_r - W>^2

    and made non-increasing in r: the second-order expansion of the divergence, with the Fisher information estimated
    from units that the model has drawn itself. Since W_r - W is minus the sum of the triplets behind r, one cumulative
    sum over u_k^T G_u v_k gives it for every rank. It costs a gradient for each utterance and no evaluation. It tells
    well which of two ranks does less harm; large harm it underestimates, several times over where a layer is ruined,
    since the expansion holds for small changes only, and errors of several matrices are taken as independent.

    The gradients may as well be those of a model that is compressed already, on the transcripts that it writes itself:
    then they tell by how much a matrix moves that model, beside the errors of all others, which make most models more
    sensitive, and some parts of them more than others.

    Args:
        model: An uncompressed `PredictiveModel` in evaluation mode; not changed.
        factorisation: Prepared for it.
        waveforms: 1-D float32 samples at 16 kHz; those that the factorisation was calibrated on serve.
        draws: Gradients for each utterance: more of them make the estimate steadier.
        seed: Seed of the draws.
        store: Keeps the prediction, by the content of all that it depends on; None makes it every time.
        at: Layer or matrix name -> rank: the gradients are taken of the model of these ranks, other matrices being
            dense; None takes the original.

    Raises:
        ValueError: The model does not predict probabilities of its transcripts, the factorisation has no triplets, or a
            name or a rank in `at` is wrong.
    """
    ranks = matrix_ranks(factorisation.layers, {} if at is None else at)

    def content() -> Iterator[bytes]:
        where = [sorted(ranks.items())] if ranks else []
        yield json.dumps(["predicted damage", 2, factorisation.key, draws, seed, *where]).encode()
        yield from recognition_content(model)
        yield from map(content_bytes, waveforms)

    def compute() -> dict[str, list[float]]:
        taken = model
        if ranks:
            with torch.inference_mode(False):  # Else autograd refuses the parameters that decompress makes.
                taken = decompress(compress(model, ranks, factorisation))
        return _predict(taken, factorisation, waveforms, draws, seed).to_json()

    subject = f"predicted damage, {len(waveforms)} utterances, {factorisation.name},"
    return Prediction.from_json(remembered(store, content(), subject, compute))


def _predict(
    model: CompressibleModel, factorisation: Factorisation, waveforms: Sequence[Tensor], draws: int, seed: int
) -> Prediction:
    """Compute what `predict_damage` returns."""
    if not isinstance(factorisation, _Nested):
        raise ValueError(
            f"factorisation {factorisation.name!r} does not give the triplets that its products are sums of"
        )
    names = [matrix.name for layer in factorisation.layers for matrix in layer.matrices]
    triplets = {name: tuple(factor.float() for factor in factorisation.triplets(name)) for name in names}
    changes: dict[str, list[Tensor]] = {name: [] for name in names}
    units = 0
    heard = track(waveforms, "predicting damage", "utterance")
    for sample in sampled_gradients(model, heard, factorisation.layers, draws, seed):
        units += sample.units
        with one_thread():
            for name, gradient in sample.matrices.items():
                u, v = triplets[name]
                changes[name].append(((u.T @ gradient) * v).sum(dim=1).double())
    return Prediction({name: _damage(torch.stack(found), units) for name, found in changes.items()})


def _damage(changes: Tensor, units: int) -> np.ndarray:
    """Return the damage at the ranks 0..k from each triplet's share in each utterance's change, (utterances, k)."""
    removed = changes.flip(1).cumsum(1).flip(1)
    damage = torch.cat([removed.square().sum(0) / (2 * units), torch.zeros(1, dtype=torch.float64)])
    # More rank never predicts more damage: what a rank does is at least what any larger one does.
    found: np.ndarray = damage.flip(0).cummax(0).values.flip(0).numpy()
    return found
