"""The SVD that keeps a model's outputs rather than its weights."""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shrinkml_env.checks import number
from shrinkml_env.compression.calibration import second_moments
from shrinkml_env.compression.canonical import content_bytes, digest, one_thread
from shrinkml_env.compression.gradients import row_weights
from shrinkml_env.compression.layers import FactorForm, Layer, arrange_layers
from shrinkml_env.compression.protocol import CompressibleModel
from shrinkml_env.compression.store import Store, recognition_content, remembered
from shrinkml_env.compression.svd import WhitenedSVD, weights_of

__all__ = ["ActivationAwareSVD"]

SMALLEST_DAMPING = 1e-9
"""The condition number of a damped moment is at most 1 + n / damping, which float64 must resolve."""

LARGEST_KEPT = 2**25
"""Moments of more numbers than this are not kept in a store: they are as large as many models."""

SAME = 1e-9
"""Moments of the same vectors, added up in another order, differ by less than this share of their norm."""


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
        form: The form of the factors.
        share_inputs: Matrices of a layer that read the same vectors (both directions' W_ih of a bidirectional LSTM, the
            projections of keys and values) are stacked and share one right factor. They are found by their moments,
            which then are equal.
        weigh_rows: An output counts as much as the transcripts' probability depends on it (`row_weights`); for a
            `PredictiveModel`.
        more: Further speech for the moments, such as augmented copies of the waveforms; the row weights, which take
            gradients, go without it.
        store: Where the moments and the row weights are kept; None computes them every time.

    Attributes:
        singular_values: Their squares are what each triplet contributes to the damped expected squared output.

    Raises:
        ValueError: There is no speech, the damping is too small, a matrix is not a parameter of the model, the model
            does not predict probabilities for `weigh_rows`, or something holds NaN or infinity.
    """

    name = "activation_aware"

    def __init__(
        self,
        model: CompressibleModel,
        waveforms: Sequence[Tensor],
        damping: float = 0.01,
        matrices: Iterable[str] | None = None,
        form: FactorForm = "factors",
        share_inputs: bool = False,
        weigh_rows: bool = False,
        more: Sequence[Tensor] = (),
        store: Store | None = None,
    ) -> None:
        if not waveforms:
            raise ValueError("activation-aware factorisation needs calibration speech: there is no waveform")
        number("damping", damping, at_least=SMALLEST_DAMPING)
        names = [matrix.name for matrix, _ in weights_of(model, matrices)]
        moments = _moments(model, [*waveforms, *more], names, store)
        unused = [name for name in names if name not in moments]
        if unused:
            warnings.warn(f"the calibration speech does not use {', '.join(unused)}: plain SVD for them", stacklevel=2)
        layers = arrange_layers(model.layers, form, _same_inputs(model.layers, moments) if share_inputs else ())
        roots: dict[str, Tensor] = {}
        rows: dict[str, Tensor] = {}
        with one_thread():
            for matrix in [matrix for layer in layers for matrix in layer.matrices]:
                # The parts of a stack have the same moment.
                moment = moments.get(matrix.blocks[0].name)
                if moment is not None:
                    # A matrix that is only looked up is multiplied from the left.
                    (rows if moment.dim() == 1 else roots)[matrix.name] = _root(matrix.name, moment, damping)
        wanted = _within(layers, set(names))
        if weigh_rows:
            weights = _row_weights(
                model, waveforms, wanted, roots, f"{damping!r} {digest(map(content_bytes, more))}", store
            )
            rows = {name: weights[name] * rows.get(name, 1.0) for name in weights}
        super().__init__(model, layers, roots, rows, [matrix.name for layer in wanted for matrix in layer.matrices])
        # Not the moments: what is computed in floating point may differ in its last digits.
        self.key += f"-{damping!r}-{digest(map(content_bytes, [*waveforms, *more]))}"
        self.key += "-shared" * share_inputs + "-rows" * weigh_rows
        if weigh_rows and more:
            self.key += f"-{len(waveforms)}"  # the row weights are of these alone


def _within(layers: Iterable[Layer], names: Set[str]) -> list[Layer]:
    """Return the layers with those of their matrices and stacks that consist of the named matrices."""
    kept = []
    for layer in layers:
        matrices = tuple(m for m in layer.matrices if all(block.name in names for block in m.blocks))
        if matrices:
            kept.append(replace(layer, matrices=matrices))
    return kept


def _moments(
    model: CompressibleModel, waveforms: Sequence[Tensor], names: Sequence[str], store: Store | None
) -> dict[str, Tensor]:
    """Return the `second_moments`, from a store where they are in one; made symmetric from their lower triangles."""
    sizes = {matrix.name: matrix.columns for matrix, _ in weights_of(model, names)}
    if sum(size**2 for size in sizes.values()) > LARGEST_KEPT:
        store = None

    def content() -> Iterator[bytes]:
        yield json.dumps(["moments", 2, names]).encode()
        yield from recognition_content(model)
        yield from map(content_bytes, waveforms)

    def compute() -> dict[str, Any]:
        return {name: _written(moment) for name, moment in second_moments(model, waveforms, names).items()}

    known = remembered(store, content(), f"moments, {len(waveforms)} utterances,", compute)
    return {name: _read(value, sizes[name]) for name, value in known.items()}


def _written(moment: Tensor) -> dict[str, str]:
    """Return a moment as JSON has it: its float64 numbers in base64, of a matrix those of the lower triangle."""
    values = moment if moment.dim() == 1 else moment[_lower(len(moment))]
    kind = "diagonal" if moment.dim() == 1 else "lower triangle"
    return {kind: base64.b64encode(values.numpy().tobytes()).decode()}


def _read(value: Mapping[str, str], size: int) -> Tensor:
    """Return the moment of which `_written` made a JSON object; a matrix is (size, size)."""
    ((kind, text),) = value.items()
    values = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float64)
    if kind == "diagonal":
        return values
    moment = torch.zeros(size, size, dtype=torch.float64)
    moment[_lower(size)] = values
    return moment + moment.tril(-1).T


def _lower(size: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.tril_indices(size, size)
    return rows, columns


def _row_weights(
    model: CompressibleModel,
    waveforms: Sequence[Tensor],
    layers: Sequence[Layer],
    roots: Mapping[str, Tensor],
    moments: str,
    store: Store | None,
) -> dict[str, Tensor]:
    """Return the `row_weights`, from a store where they are in one.

    Args:
        model: As `row_weights`, and so are the next three.
        waveforms: Its speech.
        layers: Its layers.
        roots: Square roots of the moments.
        moments: The settings that the roots depend on, besides the model and the speech.
        store: Where the weights are kept.
    """

    def content() -> Iterator[bytes]:
        names = [[matrix.name for matrix in layer.matrices] for layer in layers]
        yield json.dumps(["row weights", 2, moments, names]).encode()
        yield from recognition_content(model)
        yield from map(content_bytes, waveforms)

    def compute() -> dict[str, Any]:
        weights = row_weights(model, waveforms, layers, roots)
        return {name: weight.tolist() for name, weight in weights.items()}

    known = remembered(store, content(), f"row weights, {len(waveforms)} utterances,", compute)
    return {name: torch.tensor(weight, dtype=torch.float64) for name, weight in known.items()}


def _same_inputs(layers: Iterable[Layer], moments: Mapping[str, Tensor]) -> list[list[str]]:
    """Return the groups of matrices of one layer that have the same moment: they read the same vectors."""
    groups: list[list[str]] = []
    for layer in layers:
        found: list[list[str]] = []
        for matrix in layer.matrices:
            moment = moments.get(matrix.name)
            if moment is None or moment.dim() == 1:
                continue
            # Sums in another order differ in their last digits.
            same = (group for group in found if _close(moments[group[0]], moment))
            group = next(same, None)
            if group is None:
                found.append([matrix.name])
            else:
                group.append(matrix.name)
        groups += [group for group in found if len(group) > 1]
    return groups


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= SAME * one.norm())


def _root(name: str, moment: Tensor, damping: float) -> Tensor:
    """Return a root of a damped second moment: lower triangular, or the diagonal where that is all."""
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
