"""The divergence of a compressed model's predictions from the original's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from shrinkml_env.compression import CompressibleModel, Factorisation, Hypothesis, PredictiveModel
from shrinkml_env.compression.canonical import one_thread
from shrinkml_env.data.utterance import Utterance
from shrinkml_env.evaluation.measurer import Measurer, Ranks
from shrinkml_env.evaluation.result import Counts

__all__ = ["DivergenceMeasurer", "mean_divergence", "summed_divergences"]


def mean_divergence(original: Sequence[Tensor], compressed: Sequence[Tensor]) -> float:
    """Return KL(p || q) of the next unit's distributions, averaged over all units and ends of all utterances.

    p are the original's distributions and q the compressed model's, both told what the original writes so far: the
    quantity that distillation makes small (Hinton et al. 2015, arXiv 1503.02531). A WER changes only where the best
    unit is another one; this changes with every probability, so that a few utterances tell similar models apart.

    Args:
        original: For each utterance log-probabilities, (units and end, vocabulary); see `PredictiveModel.predict`.
        compressed: The same of the other model.

    Returns:
        Nats a unit; 0 for equal distributions.
    """
    # Rounding leaves distributions that are almost equal a little below 0.
    return max(0.0, sum(summed_divergences(original, compressed)) / sum(len(p) for p in original))


def summed_divergences(original: Sequence[Tensor], compressed: Sequence[Tensor]) -> list[float]:
    """Return for each utterance the sum of KL(p || q) over its units and its end; arguments as `mean_divergence`."""
    return [
        float(functional.kl_div(q.double(), p.double(), reduction="sum", log_target=True))
        for p, q in zip(original, compressed, strict=True)
    ]


class DivergenceMeasurer(Measurer):
    """A measurer that also tells how far each form of a model diverges from the original.

    Args:
        model: A `PredictiveModel`.
        utterances: As `Measurer`, and so are the others.
        factorisation: As `Measurer`.
        memory: As `Measurer`.
        workers: As `Measurer`.

    Raises:
        ValueError: As `Measurer`, or the model predicts nothing whose divergence could be measured.
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
                f"a {type(model).__name__} cannot tell its distributions of the next unit, so no divergence can be "
                "measured: it lacks the method `predict` of shrinkml_env.compression.PredictiveModel; take a reward of "
                "the WER"
            )
        super().__init__(model, utterances, factorisation, memory, workers)

    def __call__(self, ranks: Ranks) -> Counts:
        """Measure one configuration."""
        model = self.compressed(ranks)
        with one_thread():
            transcripts, predictions = self._predict(model, ranks)
            divergence = mean_divergence(self._predictions, predictions)
        return replace(self.counts(transcripts), divergence=divergence)

    def by_utterance(self, ranks: Ranks) -> list[float]:
        """Return the divergence of one configuration utterance by utterance: sums over the units and the end."""
        with one_thread():
            return summed_divergences(self._predictions, self._predict(self.compressed(ranks), ranks)[1])

    @property
    def units(self) -> list[int]:
        """The number of units of each utterance, its end included."""
        return [len(p) for p in self._predictions]

    def _predict(self, model: CompressibleModel, ranks: Ranks) -> tuple[list[Hypothesis], list[Tensor]]:
        """Return the transcripts, and the distributions of a model that is told what the original writes.

        Told the reference, a model that writes capitals and commas would be asked about a text that it never comes to.
        """
        assert self._staged is not None
        assert isinstance(model, PredictiveModel)
        return self._staged.with_predictions(model, ranks, self._written)

    @cached_property
    def _written(self) -> list[str]:
        """The transcripts that the original writes."""
        return [hypothesis.text for hypothesis in self.recognise(self.model, {})]

    @cached_property
    def _predictions(self) -> list[Tensor]:
        """The original's distributions."""
        return self._predict(self.model, {})[1]

    def __getstate__(self) -> dict[str, Any]:
        # Distributions are large, and soon computed again.
        return {name: value for name, value in vars(self).items() if name not in ("_written", "_predictions")}
