"""Workloads of common speech encoders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Reversible, Sequence
from typing import Any

from torch import nn

from shrinkml_env.asr.recogniser import Recogniser
from shrinkml_env.compression import Matrix, Workload
from shrinkml_env.compression.modules import module_matrices

__all__ = ["convolutions", "frames_shortest", "frames_workload", "lengths_after", "matrices_below", "shortest_before"]


def convolutions(module: nn.Module) -> dict[str, Any]:
    """Return the 1-D convolutions of a module, dense or factored: path -> module, in module order."""
    return {path: part for path, part in module.named_modules() if isinstance(part, nn.Conv1d)}


def lengths_after(convolutions: Iterable[Any], length: int) -> list[int]:
    """Return the number of frames after each of a chain of convolutions.

    It is floor((length + 2 padding - kernel) / stride) + 1, and 0 if the input is shorter than the kernel.

    Args:
        convolutions: The convolutions, in the order in which they are applied.
        length: Length of the first one's input.
    """
    lengths = []
    for convolution in convolutions:
        (kernel,), (stride,), (padding,) = convolution.kernel_size, convolution.stride, convolution.padding
        length = max(0, (length + 2 * padding - kernel) // stride + 1) if length else 0
        lengths.append(length)
    return lengths


def shortest_before(convolutions: Reversible[Any]) -> int:
    """Return the smallest input length for which a chain of convolutions gives a frame (see `lengths_after`)."""
    length = 1
    for convolution in reversed(convolutions):
        (kernel,), (stride,), (padding,) = convolution.kernel_size, convolution.stride, convolution.padding
        length = max(1, (length - 1) * stride + kernel - 2 * padding)
    return length


def matrices_below(model: nn.Module) -> Iterator[tuple[str, str, Matrix]]:
    """Yield (module path, parameter path, matrix) for every matrix that can be factored, in module order."""
    for path, module in model.named_modules():
        for matrix in module_matrices(module):
            yield path, f"{path}.{matrix.name}", matrix


def frames_shortest(model: nn.Module) -> int:
    """Return the number of samples that a model of the Wav2Vec2 family needs for one frame."""
    return shortest_before([part for part in convolutions(model).values() if part.padding == (0,)])


def frames_workload(model: Recogniser, num_samples: Sequence[int]) -> Workload:
    """Return the workload of a model of the Wav2Vec2 family: convolutions, a transformer, an output for each frame.

    Convolutions without padding form a chain over the samples. A padded one (position embedding) and all other matrices
    count once for each frame. Self-attention takes 2 T^2 d multiply-adds a layer for T frames of dimension d.

    Args:
        model: The model.
        num_samples: Length of each utterance, in samples at 16 kHz.
    """
    found = convolutions(model)
    front = [path for path, part in found.items() if part.padding == (0,)]
    totals = dict.fromkeys(found, 0)
    frames = squares = 0
    for samples in num_samples:
        lengths = lengths_after((found[path] for path in front), samples)
        for path, length in zip(front, lengths, strict=True):
            totals[path] += length
        frames += lengths[-1]
        squares += lengths[-1] ** 2
        for path in found.keys() - set(front):
            totals[path] += lengths_after([found[path]], lengths[-1])[0]
    offered = {matrix.name for layer in model.layers for matrix in layer.matrices}
    other = sum(
        totals[path] * part.out_channels * part.in_channels // part.groups * part.kernel_size[0]
        for path, part in found.items()
        if f"{path}.weight" not in offered
    )
    positions = {}
    for path, name, matrix in matrices_below(model):
        if name in offered:
            positions[name] = totals.get(path, frames)
        elif path not in found:
            other += frames * matrix.rows * matrix.columns
        if path.endswith(".q_proj"):
            other += 2 * squares * matrix.rows
    return Workload(positions, other)
