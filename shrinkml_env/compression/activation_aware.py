"""The SVD that keeps a model's outputs rather than its weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from shrinkml_env.checks import is_number
from shrinkml_env.compression.calibration import second_moments
from shrinkml_env.compression.canonical import content_bytes, digest, one_thread
from shrinkml_env.compression.protocol import CompressibleModel
from shrinkml_env.compression.svd import WhitenedSVD, weights_of

__all__ = ["ActivationAwareSVD"]

SMALLEST_DAMPING = 1e-9
"""The condition number of a damped moment is at most 1 + n / damping, which float64 must resolve."""


class ActivationAwareSVD(WhitenedSVD):
    """Factors with the least expected squared error of each matrix's outputs, E ||W x - U V x||^2.

    x is what the original multiplies W with while it recognises calibration speech (`second_moments`). With
    E[x x^T] = S S^T the error is ||(W - U V) S||^2, which the truncated SVD of W S makes least. The closed form is that
    of reduced-rank regression (Izenman 1975); for language models see SVD-LLM (arXiv 2403.07378), which takes S from a
    Cholesky decomposition as is done here, and ASVD (arXiv 2312.05821), whose S is diagonal.

    The moment M is damped: (M / mean diagonal + damping I) / (1 + damping), so that it never is singular, however
    little speech there is, and does not depend on the scale of x. A large damping gives the plain SVD.

    Args:
        model: An uncompressed model in evaluation mode; only used here, not kept.
        waveforms: Calibration speech, 1-D float32 samples at 16 kHz. Take it from the training data.
        damping: At least 1e-9.
        matrices: Names of the matrices to factor; None for all of the model's layers. One that the speech does not
            use is factored by the plain SVD, with a warning.

    Attributes:
        singular_values: Their squares are what each triplet contributes to the damped expected squared output.

    Raises:
        ValueError: There is no speech, the damping is too small, a matrix is not a parameter of the model, or
            something holds NaN or infinity.
    """

    name = "activation_aware"

    def __init__(
        self,
        model: CompressibleModel,
        waveforms: Sequence[Tensor],
        damping: float = 0.01,
        matrices: Iterable[str] | None = None,
    ) -> None:
        if not waveforms:
            raise ValueError("activation-aware factorisation needs calibration speech: there is no waveform")
        if not (is_number(damping) and SMALLEST_DAMPING <= damping < math.inf):
            raise ValueError(f"damping must be a number of at least {SMALLEST_DAMPING:g}, got {damping!r}")
        names = [matrix.name for matrix, _ in weights_of(model, matrices)]
        moments = second_moments(model, waveforms, names)
        unused = [name for name in names if name not in moments]
        if unused:
            warnings.warn(f"the calibration speech does not use {', '.join(unused)}: plain SVD for them", stacklevel=2)
        with one_thread():
            roots = {name: _root(name, moment, damping) for name, moment in moments.items()}
        super().__init__(model, roots, names)
        # Not the moments: what is computed in floating point may differ in its last digits.
        self.key += f"-{damping!r}-{digest(map(content_bytes, waveforms))}"


def _root(name: str, moment: Tensor, damping: float) -> Tensor:
    """A root of a damped second moment: lower triangular, or the diagonal where that is all."""
    if not moment.isfinite().all():
        raise ValueError(f"matrix {name!r}: what the calibration speech multiplies it with holds NaN or infinity")
    scale = moment.mean() if moment.dim() == 1 else moment.diagonal().mean()
    # Inputs that are always zero say nothing: M = I.
    share = 1.0 / (1.0 + damping) if scale > 0 else 0.0
    damped = moment * (share / scale.clamp(min=torch.finfo(scale.dtype).tiny))
    if moment.dim() == 1:
        return (damped + (1.0 - share)).sqrt()
    damped.diagonal().add_(1.0 - share)
    root: Tensor = torch.linalg.cholesky(damped)
    return root
