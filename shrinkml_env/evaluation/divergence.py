"""How far a compressed model's predictions are from the original's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

__all__ = ["mean_divergence"]


def mean_divergence(original: Sequence[Tensor], compressed: Sequence[Tensor]) -> float:
    """KL(p || q) of the next unit's distributions, averaged over all units and ends of all utterances.

    p are the original's distributions and q the compressed model's, both told what the original writes so far: the
    quantity that distillation makes small (Hinton et al. 2015, arXiv 1503.02531). A WER changes only where the best
    unit is another one; this changes with every probability, so that a few utterances tell similar models apart.

    Args:
        original: For each utterance log-probabilities, (units and end, vocabulary); see `PredictiveModel.predict`.
        compressed: The same of the other model.

    Returns:
        Nats a unit; 0 for equal distributions.
    """
    total = sum(
        float(functional.kl_div(q.double(), p.double(), reduction="sum", log_target=True))
        for p, q in zip(original, compressed, strict=True)
    )
    # Rounding leaves distributions that are almost equal a little below 0.
    return max(0.0, total / sum(len(p) for p in original))
