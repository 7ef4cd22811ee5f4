"""How a model's matrices are factored, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shrinkml_env.compression import SVD, ActivationAwareSVD, CompressibleModel, Factorisation, require_length
from shrinkml_env.data.sets import UtteranceSpec, load_utterances

__all__ = ["FACTORISATIONS", "ActivationAware", "Plain"]


@dataclass(frozen=True, slots=True)
class Plain:
    """The truncated SVD of the weights; see `SVD`."""

    def __call__(self, model: CompressibleModel) -> Factorisation:
        """Prepare the factors of a model's matrices."""
        return SVD(model)


@dataclass(frozen=True, slots=True)
class ActivationAware:
    """The SVD that keeps the outputs on calibration speech; see `ActivationAwareSVD`.

    Attributes:
        calibration: What `load_utterances` takes; the shipped set is training speech of the embedded model.
        damping: How far the inputs' moments are pulled towards white ones, at least 1e-9.
    """

    calibration: UtteranceSpec = "calibration"
    damping: float = 0.01

    def __call__(self, model: CompressibleModel) -> Factorisation:
        """Recognise the calibration speech, and prepare the factors of a model's matrices.

        Raises:
            ValueError: There is no such set, an utterance is too short for the model, or as `ActivationAwareSVD`.
            FileNotFoundError: The set's folder is missing.
        """
        speech = load_utterances(self.calibration)
        for utterance in speech:
            require_length(model, utterance.waveform.numel(), f"utterance {utterance.id!r}")
        return ActivationAwareSVD(model, [utterance.waveform for utterance in speech], self.damping)


FACTORISATIONS: dict[str, Callable[..., Callable[[CompressibleModel], Factorisation]]] = {
    "svd": Plain,
    "activation_aware": ActivationAware,
}
"""Name -> class; an object of it makes the factorisation of a model. The name is that of what it makes, too."""
