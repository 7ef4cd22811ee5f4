"""The effect of small changes of a model's matrices on the probabilities of its transcripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from shrinkml_env.checks import whole_number
from shrinkml_env.compression.canonical import one_thread
from shrinkml_env.compression.layers import Layer
from shrinkml_env.compression.protocol import CompressibleModel, PredictiveModel, require_predictions
from shrinkml_env.compression.svd import weights_of
from shrinkml_env.progress import track

__all__ = ["SampledGradients", "row_weights", "sampled_gradients"]

SMALLEST_WEIGHT = 0.05
"""A row counts at least so much, its matrix's mean weight being 1: little speech may not use it by chance."""


@dataclass(frozen=True, slots=True)
class SampledGradients:
    """The gradients of one utterance.

    Attributes:
        matrices: Name of a matrix or stack -> the gradient of log p(units), (m, n) float32.
        units: The number of units that p is of, the end of the transcript included.
    """

    matrices: Mapping[str, Tensor]
    units: int


def sampled_gradients(
    model: CompressibleModel, waveforms: Iterable[Tensor], layers: Sequence[Layer], draws: int = 1, seed: int = 0
) -> Iterator[SampledGradients]:
    """Return an iterator over each utterance's gradients of the log-probability of units that the model has drawn.

    The decoder is teacher-forced with the model's own transcript, and each unit is drawn from the distribution that the
    model predicts there. The mean of the gradients' outer products is the Fisher information, whose quadratic form is
    the second-order expansion of the divergence KL(p || q) that a change of the weights brings about.

    Args:
        model: An uncompressed `PredictiveModel` in evaluation mode. While the iterator runs, all of its parameters
            require gradients; afterwards those that did before.
        waveforms: 1-D float32 samples at 16 kHz.
        layers: Its layers, whose matrices and stacks are wanted.
        draws: Gradients for each utterance.
        seed: Seed of the draws.

    Raises:
        ValueError: The model does not predict probabilities of its transcripts, `draws` is not at least 1, or, when it
            is reached, an utterance is too long to be recognised in one piece.
    """
    return _sampled(require_predictions(model), waveforms, layers, whole_number("draws", draws, least=1), seed)


def _sampled(
    model: PredictiveModel, waveforms: Iterable[Tensor], layers: Sequence[Layer], draws: int, seed: int
) -> Iterator[SampledGradients]:
    matrices = {matrix.name: [block.name for block in matrix.blocks] for layer in layers for matrix in layer.matrices}
    parameters = [weight for _, weight in weights_of(model, [name for names in matrices.values() for name in names])]
    frozen = [weight for weight in cast(nn.Module, model).parameters() if not weight.requires_grad]
    generator = torch.Generator().manual_seed(seed)
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        for waveform in waveforms:
            with _differentiable():
                (text,) = [hypothesis.text for hypothesis in model.recognise([waveform])]
                state = model.begin([waveform])
                for stage in range(len(model.stages)):
                    state = model.advance(stage, state)
                (log_probabilities,) = model.predict([waveform], state, [text])
            for draw in range(draws):
                with _differentiable():
                    drawn = torch.multinomial(log_probabilities.detach().exp().cpu(), 1, generator=generator)
                    found = torch.autograd.grad(
                        log_probabilities.gather(1, drawn.to(log_probabilities.device)).sum(),
                        parameters,
                        retain_graph=draw + 1 < draws,
                        allow_unused=True,
                    )
                gradients = iter(
                    torch.zeros_like(weight) if gradient is None else gradient
                    for weight, gradient in zip(parameters, found, strict=True)
                )
                yield SampledGradients(
                    {
                        name: torch.cat([next(gradients).detach().flatten(1).float().cpu() for _ in names])
                        for name, names in matrices.items()
                    },
                    len(drawn),
                )
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


@contextmanager
def _differentiable() -> Iterator[None]:
    # cuDNN has no gradients of recurrent modules in evaluation mode.
    with (
        one_thread(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.backends.cudnn.flags(enabled=False),
    ):
        yield


def row_weights(
    model: CompressibleModel, waveforms: Sequence[Tensor], layers: Sequence[Layer], roots: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weight of each output of each matrix: how much the probability of the transcripts depends on it.

    The weight of row i is the root of the sum over utterances of g_i M^-1 g_i^T, with g_i the row of the sampled
    gradient and M = S S^T the moment of the matrix's inputs, relative to the mean over the rows. With one position an
    utterance, g = d x^T, it would be the root mean square of d_i = dlog p / dy_i, but for a common factor: the diagonal
    of the output's part in a Kronecker-factored Fisher information (Martens and Grosse 2015, arXiv 1503.05671).

    Args:
        model: As `sampled_gradients`, and so are the errors.
        waveforms: As `sampled_gradients`.
        layers: As `sampled_gradients`.
        roots: Name of a matrix or stack -> S, (n, n) lower triangular; I where there is none.

    Returns:
        Name of a matrix or stack -> (m,) float64, of mean 1 before small ones are raised to `SMALLEST_WEIGHT`.
    """
    sums: dict[str, Tensor] = {}
    for sample in sampled_gradients(model, track(waveforms, "weighing rows", "utterance"), layers):
        with one_thread():
            for name, gradient in sample.matrices.items():
                whitened = gradient.double()
                if name in roots:
                    whitened = torch.linalg.solve_triangular(roots[name].mT, whitened, upper=True, left=False)
                squares = whitened.square().sum(dim=1)
                sums[name] = sums[name] + squares if name in sums else squares
    weights = {name: total.sqrt() for name, total in sums.items()}
    return {
        name: (weight / weight.mean().clamp(min=torch.finfo(weight.dtype).tiny)).clamp(min=SMALLEST_WEIGHT)
        for name, weight in weights.items()
    }
