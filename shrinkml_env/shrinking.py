"""The compression of a model to a size in one call, without a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch

from shrinkml_env.checks import number
from shrinkml_env.compression import (
    CompressibleModel,
    compress,
    count_parameters,
    parameters_at,
    ranks_by_matrix,
    require_storable,
)
from shrinkml_env.compression.canonical import one_thread
from shrinkml_env.compression.compress import require_original
from shrinkml_env.compression.factorisations import BEST, make_factorisation
from shrinkml_env.compression.layers import group_layers
from shrinkml_env.compression.protocol import in_training_mode, require_predictions
from shrinkml_env.data.sets import UtteranceSpec, load_utterances
from shrinkml_env.data.utterance import Utterance
from shrinkml_env.evaluation import EvaluationCache
from shrinkml_env.space.allocation import largest_within
from shrinkml_env.space.closed_form import least_damage
from shrinkml_env.space.formation import Full
from shrinkml_env.space.prediction import Prediction, predict_damage

__all__ = ["shrink"]

ModelT = TypeVar("ModelT", bound=CompressibleModel)


def shrink(model: ModelT, size: float, speech: UtteranceSpec, dense: Sequence[str] = ()) -> ModelT:
    """Compress a model to a size, with the best factors and the ranks of the least predicted damage.

    Factors in pivoting form with shared inputs and weighed rows, and a rank for every matrix, in closed form: the
    damage is predicted for the original, and again for the model that this prediction gives (`least_damage`). Nothing
    is searched for and nothing is evaluated; factors and prediction are computed from the speech, without its texts,
    and kept in the evaluation cache.

    Args:
        model: An uncompressed `PredictiveModel` in evaluation mode, such as a LAS model or Whisper; not changed.
        size: The largest share of the model's parameters to keep, above 0 and at most 1.
        speech: Calibration speech, as `load_utterances` takes it: some hundred utterances, as similar as possible to
            what the model is for. Texts are not used: those of `Utterance` objects may be empty.
        dense: Patterns of the names of layers that stay dense: ``["decoder.*"]`` compresses the encoder alone. `size`
            counts them all the same.

    Returns:
        The compressed model, which `save_compressed` saves. It has the largest size that is allowed or a few parameters
        less; it is smaller where no matrix is predicted to do any more damage.

    Raises:
        ValueError: The size is out of range or out of reach; the model gives no probabilities, is in training mode,
            compressed or quantised already, or not rounded to its `storage_dtype`; an utterance is too short for it,
            or too long to be recognised in one piece; or a pattern matches no layer.
        FileNotFoundError: The folder of the speech is missing.
    """
    size = number("size", size, above=0, at_most=1, meaning="a share of the model's parameters")
    if isinstance(model, str):
        raise ValueError(f"shrink takes a model, not its name: shrink(load_model({model!r}), ...)")
    require_original(model)
    require_storable(model)
    if in_training_mode(model):
        raise ValueError("the model is in training mode, in which dropout changes every measurement: call eval()")
    dense = dense if isinstance(dense, str) else tuple(dense)
    group_layers(tuple(model.layers), "matrix", dense)  # raises an error for a wrong pattern
    utterances = load_utterances(speech, "speech")
    _require_predictable(model, max(utterances, key=lambda utterance: utterance.waveform.numel()))
    cache = EvaluationCache()
    factors = make_factorisation(model, BEST | {"calibration": utterances}, cache)
    layers = group_layers(factors.layers, "matrix", dense)
    space = Full(max(layer.break_even for layer in layers))(layers)
    total = count_parameters(model)
    fixed = total - sum(layer.parameters(layer.max_rank) for layer in space.layers)
    smallest = parameters_at(total, space.layers, space.smallest)
    most = largest_within(size, total)
    if most < smallest:
        raise ValueError(
            f"size={size:g} allows {most:,} parameters, and with rank 1 wherever a rank may be chosen {smallest:,} of "
            f"{total:,} are left"
        )
    waveforms = [utterance.waveform for utterance in utterances]

    def predict(at: Mapping[str, int] | None) -> Prediction:
        matrices = None if at is None else ranks_by_matrix(layers, at)
        return predict_damage(model, factors, waveforms, store=cache, at=matrices)

    ranks = least_damage(space, predict, most - fixed, rounds=2)
    return compress(model, ranks_by_matrix(layers, ranks), factors)


def _require_predictable(model: CompressibleModel, utterance: Utterance) -> None:
    """Check that a model gives probabilities, and that it does so for an utterance, before anything slow is done."""
    predictive, waveforms = require_predictions(model), [utterance.waveform]
    try:
        with one_thread(), torch.inference_mode():
            state = predictive.begin(waveforms)
            for stage in range(len(predictive.stages)):
                state = predictive.advance(stage, state)
            predictive.predict(waveforms, state, [""])
    except ValueError as error:
        raise ValueError(f"speech: utterance {utterance.id!r}: {error}") from error
