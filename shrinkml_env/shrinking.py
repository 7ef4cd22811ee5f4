"""The compression of a model to a size in one call, without a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from shrinkml_env.compression import (
    ActivationAwareSVD,
    CompressibleModel,
    compress,
    count_parameters,
    parameters_at,
    ranks_by_matrix,
    require_length,
)
from shrinkml_env.data.sets import UtteranceSpec, load_utterances
from shrinkml_env.evaluation import EvaluationCache
from shrinkml_env.evaluation.evaluator import group_layers
from shrinkml_env.space.closed_form import least_damage
from shrinkml_env.space.formation import Full
from shrinkml_env.space.prediction import predict_damage

__all__ = ["shrink"]

ModelT = TypeVar("ModelT", bound=CompressibleModel)


def shrink(model: ModelT, size: float, speech: UtteranceSpec, dense: Sequence[str] = ()) -> ModelT:
    """Compress a model to a size, with the best factors and the ranks of the least predicted damage.

    Factors in pivoting form with shared inputs and weighed rows, a rank for every matrix, in closed form: what
    `experiments.compress` begins with. Nothing is searched for and nothing is evaluated; factors and prediction are
    computed from the speech, without its texts, and kept in the evaluation cache.

    Args:
        model: An uncompressed `PredictiveModel` in evaluation mode, such as a LAS model or Whisper; not changed.
        size: The largest share of the model's parameters to keep, above 0 and at most 1.
        speech: Calibration speech, as `load_utterances` takes it: some hundred utterances, as similar as possible to
            what the model is for. Their texts are not used and may be empty.
        dense: Patterns of the names of layers that stay dense: ``["decoder.*"]`` compresses the encoder alone. `size`
            counts them all the same.

    Returns:
        The compressed model, which `save_compressed` saves. It has the largest size that is allowed, or a few
        parameters less.

    Raises:
        ValueError: The size is out of range or out of reach, the model gives no probabilities, an utterance is too
            short for it, or a pattern matches no layer.
        FileNotFoundError: The folder of the speech is missing.
    """
    if not 0 < size <= 1:
        raise ValueError(f"size must be above 0 and at most 1, a share of the parameters, got {size!r}")
    utterances = load_utterances(speech, "speech")
    for utterance in utterances:
        require_length(model, utterance.waveform.numel(), f"utterance {utterance.id!r}")
    waveforms = [utterance.waveform for utterance in utterances]
    cache = EvaluationCache()
    factors = ActivationAwareSVD(model, waveforms, form="pivoting", share_inputs=True, weigh_rows=True, store=cache)
    layers = group_layers(factors.layers, "matrix", dense)
    space = Full(max(layer.break_even for layer in layers))(layers)
    total = count_parameters(model)
    fixed = total - sum(layer.parameters(layer.max_rank) for layer in space.layers)
    smallest = parameters_at(total, space.layers, space.smallest)
    if size * total < smallest:
        raise ValueError(f"size={size:g} is out of reach: with rank 1 everywhere {smallest / total:.3f} is left")
    ranks = least_damage(space, predict_damage(model, factors, waveforms, store=cache), int(size * total) - fixed)
    return compress(model, ranks_by_matrix(layers, ranks), factors)
