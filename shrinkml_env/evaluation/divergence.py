"""The divergence of a compressed model's predictions from the original's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from shrinkml_env.compression import CompressibleModel, Factorisation, PredictiveModel
from shrinkml_env.compression.canonical import one_thread
from shrinkml_env.data.utterance import Utterance
from shrinkml_env.evaluation.measurer import Measurer, Ranks
from shrinkml_env.evaluation.result import Counts
from shrinkml_env.evaluation.stages import StagedRecogniser

__all__ = ["DivergenceMeasurer", "mean_divergence", "summed_divergences"]


def mean_divergence(original: Sequence[Tensor], compressed: Sequence[Tensor]) -> float:
    """Return KL(p || q) of the next unit's distributions, averaged over all units and ends of all utterances.

    p are the original's distributions and q the compressed model's, both teacher-forced with the original's
    transcripts: the quantity that distillation minimises (Hinton et al. 2015, arXiv 1503.02531). A WER changes only
    where another unit becomes the best one; the divergence changes with every probability, so that a few utterances
    tell similar models apart.

    Args:
        original: Log-probabilities of each utterance, (units and end, vocabulary); see `PredictiveModel.predict`.
        compressed: The compressed model's, of the same shapes.

    Returns:
        Nats a unit, at least 0; 0 for equal distributions.
    """
    mean = sum(summed_divergences(original, compressed)) / sum(len(p) for p in original)
    # Rounding can bring the divergence of almost equal distributions slightly below 0. NaN, which no comparison holds
    # for, stays NaN.
    return 0.0 if mean < 0 else mean


def summed_divergences(original: Sequence[Tensor], compressed: Sequence[Tensor]) -> list[float]:
    """Return for each utterance the sum of KL(p || q) over its units and its end; arguments as `mean_divergence`.

    A unit that the original never writes, of log-probability minus infinity, adds nothing.
    """
    return [
        float(functional.kl_div(q.double(), p.double(), reduction="none", log_target=True)[~p.isneginf()].sum())
        for p, q in zip(original, compressed, strict=True)
    ]


class DivergenceMeasurer(Measurer):
    """A measurer that also measures the divergence of each compressed model from the original.

    Args:
        model: A `PredictiveModel`, in evaluation mode.
        utterances: The utterance set, see `Measurer`.
        factorisation: The way in which matrices are factored; None is plain SVD.
        memory: Bytes for features and activations that configurations share; 0 keeps nothing.
        workers: Number of processes.

    Raises:
        ValueError: For the reasons of `Measurer`, or because the model has no method `predict`.
    """

    arithmetic: ClassVar[tuple[Any, ...]] = ("divergence",)

    def __init__(
        self,
        model: CompressibleModel,
        utterances: Sequence[Utterance],
        factorisation: Factorisation | None = None,
        memory: int = 0,
        workers: int = 1,
    ) -> None:
        if not isinstance(model, PredictiveModel):
            raise ValueError(
                f"a {type(model).__name__} does not predict distributions of the next unit, so no divergence can be "
                "measured: it lacks the method `predict` of shrinkml_env.compression.PredictiveModel; take a reward of "
                "the WER"
            )
        super().__init__(model, utterances, factorisation, memory, workers)

    def __call__(self, ranks: Ranks) -> Counts:
        """Measure one configuration."""
        model, staged = self._of(ranks)
        with one_thread():
            transcripts, predictions = staged.recognise_and_predict(model, ranks, self._original_texts)
            divergence = mean_divergence(self._original_predictions, _checked(model, ranks, predictions))
        return replace(self.counts(transcripts), divergence=divergence)

    def by_utterance(self, ranks: Ranks) -> list[float]:
        """Return the divergence of one configuration utterance by utterance: sums over the units and the end."""
        with one_thread():
            return summed_divergences(self._original_predictions, self._predict(ranks))

    @property
    def units(self) -> list[int]:
        """The number of units of each utterance, its end included."""
        return [len(p) for p in self._original_predictions]

    def _predict(self, ranks: Ranks) -> list[Tensor]:
        """Return a configuration's distributions under teacher forcing with the original's transcripts.

        The references would not do: a model that writes capitals and commas never produces their normalised text.
        """
        model, staged = self._of(ranks)
        return _checked(model, ranks, staged.predict(model, ranks, self._original_texts))

    def _of(self, ranks: Ranks) -> tuple[PredictiveModel, StagedRecogniser]:
        """Return a configuration's model, and what recognises with it."""
        model = self.compressed(ranks) if ranks else self.model
        assert self._staged is not None
        assert isinstance(model, PredictiveModel)
        return model, self._staged

    @cached_property
    def _original_texts(self) -> list[str]:
        """The original's transcripts."""
        return [hypothesis.text for hypothesis in self.recognise(self.model, {})]

    @cached_property
    def _original_predictions(self) -> list[Tensor]:
        """The original's distributions, see `PredictiveModel.predict`."""
        return self._predict({})

    def __getstate__(self) -> dict[str, Any]:
        # Distributions are large, and quick to compute again.
        dropped = ("_original_texts", "_original_predictions")
        return {name: value for name, value in vars(self).items() if name not in dropped}


def _checked(model: PredictiveModel, ranks: Ranks, predictions: list[Tensor]) -> list[Tensor]:
    """Return predictions after checking them.

    Raises:
        ValueError: One is NaN.
    """
    if any(bool(prediction.isnan().any()) for prediction in predictions):
        raise ValueError(
            f"the method `predict` of {type(model).__name__} returned log-probabilities that are NaN, at the ranks "
            f"{dict(ranks)}"
        )
    return predictions
