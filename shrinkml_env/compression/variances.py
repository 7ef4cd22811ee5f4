"""The variances of what a model's matrices put out while it recognises speech."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from shrinkml_env.compression.calibration import InputMoments, watched_inputs
from shrinkml_env.compression.canonical import content_bytes, one_thread
from shrinkml_env.compression.layers import Layer, Matrix
from shrinkml_env.compression.protocol import CompressibleModel
from shrinkml_env.compression.store import Store, recognition_content, remembered
from shrinkml_env.compression.svd import weights_of
from shrinkml_env.progress import track

__all__ = ["output_variances"]


def output_variances(
    model: CompressibleModel, waveforms: Sequence[Tensor], layers: Sequence[Layer], store: Store | None = None
) -> dict[str, Tensor]:
    """Return the variances of the outputs W x of each matrix along their principal axes, while a model runs.

    They are the eigenvalues of the covariance of W x, whose mean is subtracted. A matrix that is only looked up has its
    rows as outputs, as often as `second_moments` counts them; of one that is also multiplied, look-ups count as white
    inputs. Of a matrix that the speech does not use, all inputs are taken as white.

    Args:
        model: An uncompressed model in evaluation mode; not changed.
        waveforms: 1-D float32 samples at 16 kHz, recognised one at a time on one thread.
        layers: Layers with the matrices and stacks of the model to look at.
        store: Where the variances are kept; None computes them every time.

    Returns:
        Name of a matrix or stack -> (min(m, n),) float64 on the CPU, from the largest to the smallest.

    Raises:
        ValueError: The model is in training mode, or has no such matrix.
    """
    matrices = [matrix for layer in layers for matrix in layer.matrices]

    def content() -> Iterator[bytes]:
        parts = {matrix.name: [block.name for block in matrix.blocks] for matrix in matrices}
        yield json.dumps(["output variances", 1, parts]).encode()
        yield from recognition_content(model)
        yield from map(content_bytes, waveforms)

    def compute() -> dict[str, list[float]]:
        return {name: variances.tolist() for name, variances in _computed(model, waveforms, matrices).items()}

    known = remembered(store, content(), f"output variances, {len(waveforms)} utterances,", compute)
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in known.items()}


def _computed(model: CompressibleModel, waveforms: Sequence[Tensor], matrices: Sequence[Matrix]) -> dict[str, Tensor]:
    """Compute what `output_variances` returns."""
    blocks = [block.name for matrix in matrices for block in matrix.blocks]
    weights = {matrix.name: weight for matrix, weight in weights_of(model, blocks)}
    sums = {block.name: InputMoments() for matrix in matrices for block in matrix.blocks}

    def add(name: str, vectors: Tensor) -> None:
        if name in sums:
            # The last column of the moment of [x, 1] is the mean of x.
            extended = nn.functional.pad(vectors, (0, 1), value=1.0) if vectors.is_floating_point() else vectors
            sums[name].add(extended, len(weights[name]))

    with one_thread(), watched_inputs(model, add):
        for waveform in track(waveforms, "calibrating", "utterance"):
            model.recognise([waveform])
        return {
            matrix.name: _variances(
                torch.cat([weights[block.name].detach().cpu().double().flatten(1) for block in matrix.blocks]),
                # The parts of a stack have the same inputs.
                sums[matrix.blocks[0].name].moment(),
            )
            for matrix in matrices
        }


def _variances(weight: Tensor, moment: Tensor | None) -> Tensor:
    """Return what `output_variances` does for W, (m, n), and the moment of [x, 1], or the rows' frequencies, (m,)."""
    if weight.shape[0] > weight.shape[1] and (moment is None or moment.dim() == 2):
        # W = QR, and the eigenvalues of R C R^T are those of Q R C R^T Q^T but for zeros.
        weight = torch.linalg.qr(weight, mode="r").R
    if moment is None:
        covariance = weight @ weight.T
    elif moment.dim() == 1:
        mean = moment @ weight
        covariance = weight.T @ (moment[:, None] * weight) - torch.outer(mean, mean)
    else:
        second, mean = moment[:-1, :-1], moment[:-1, -1]
        covariance = weight @ (second - torch.outer(mean, mean)) @ weight.T
    variances: Tensor = torch.linalg.eigvalsh(covariance).flip(0)[: min(weight.shape)]
    return variances.clamp(min=0)
