"""The truncated SVD of matrices, plain and weighted by what they are multiplied with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from shrinkml_env.compression.canonical import one_thread
from shrinkml_env.compression.factors import Factors
from shrinkml_env.compression.layers import Layer, Matrix
from shrinkml_env.compression.protocol import CompressibleModel
from shrinkml_env.progress import watched

__all__ = ["SVD", "WhitenedSVD", "kept_energy", "weights_of"]


class WhitenedSVD:
    """The truncated SVD of W S, with S^-1 taken to the right factor: W S = L Sigma R^T, so W = L Sigma (R^T S^-1).

    Of all factors of a rank these have the least squared error (W - U V) S (Eckart-Young): with S a square root of the
    second moment E[x x^T] of what W is multiplied with, the least expected squared error of W x. With S = I it is the
    plain SVD.

    The decomposition is computed once, in float64, with the sign that makes the largest entry of each left vector
    positive. Each column of U is as long as its row of V, so that neither loses precision when they are rounded to the
    model's `storage_dtype`.

    Args:
        model: An uncompressed model; only read here, not kept.
        roots: Matrix name -> S, float64: (n, n) lower triangular and regular; or (m,), positive, the diagonal of a root
            for the rows, where the matrix is multiplied from the left, as an embedding is. I where there is none.
        matrices: Names of the matrices to factor; None for all of the model's layers.

    Attributes:
        singular_values: Sigma.

    Raises:
        ValueError: A matrix is not a parameter of the model, or holds NaN or infinity.
    """

    name: str

    def __init__(
        self, model: CompressibleModel, roots: Mapping[str, Tensor], matrices: Iterable[str] | None = None
    ) -> None:
        self.key = f"{self.name}-{str(model.storage_dtype).removeprefix('torch.')}"
        self.singular_values: dict[str, Tensor] = {}
        self._factors: dict[str, Factors] = {}
        with one_thread(), torch.no_grad():
            for matrix, weight in watched(weights_of(model, matrices), "factoring", "matrix"):
                dense = weight.detach().to("cpu", torch.float64).reshape(matrix.rows, matrix.columns)
                if not dense.isfinite().all():
                    raise ValueError(f"matrix {matrix.name!r} holds NaN or infinity")
                values, u, v = _decompose(dense, roots.get(matrix.name))
                self.singular_values[matrix.name] = values
                self._factors[matrix.name] = Factors(
                    u.to(model.storage_dtype).float(), v.to(model.storage_dtype).float()
                )

    def factors(self, matrix: str, rank: int) -> Factors:
        """See `Factorisation.factors`."""
        if matrix not in self._factors:
            raise ValueError(f"matrix {matrix!r} was not factored; there are {', '.join(self._factors)}")
        u, v = self._factors[matrix]
        if not 1 <= rank <= len(v):
            raise ValueError(f"matrix {matrix!r}: rank must be in 1..{len(v)}, got {rank!r}")
        # Copies, so that training a compressed model cannot change what the next one is made from.
        return Factors(
            u=u[:, :rank].clone(memory_format=torch.contiguous_format),
            v=v[:rank].clone(memory_format=torch.contiguous_format),
        )


class SVD(WhitenedSVD):
    """The plain truncated SVD, which has the least squared error of all factors of a rank (Eckart-Young).

    Each singular value's square root goes to both factors.

    Args:
        model: As `WhitenedSVD`, and so are the errors.
        matrices: As `WhitenedSVD`.
    """

    name = "svd"

    def __init__(self, model: CompressibleModel, matrices: Iterable[str] | None = None) -> None:
        super().__init__(model, {}, matrices)


def weights_of(model: CompressibleModel, matrices: Iterable[str] | None = None) -> list[tuple[Matrix, nn.Parameter]]:
    """The matrices of an uncompressed model's layers, or the named ones of them, with the parameters that hold them.

    Raises:
        ValueError: A name is none of these, or the model or a part of it is compiled.
    """
    for path, module in cast(nn.Module, model).named_modules():
        if "_orig_mod" in module._modules:
            what = f"module {path!r}" if path else "the model"
            raise ValueError(
                f"{what} is what torch.compile returned, which computes with the original weights: give what was"
                " compiled (`_orig_mod`), and compile the result"
            )
    parameters = dict(cast(nn.Module, model).named_parameters())
    known = {matrix.name: matrix for layer in model.layers for matrix in layer.matrices}
    found = []
    for name in known if matrices is None else matrices:
        if name not in known or name not in parameters:
            raise ValueError(f"matrix {name!r} is no parameter of this model's layers (or is compressed already)")
        found.append((known[name], parameters[name]))
    return found


def _decompose(dense: Tensor, root: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Singular values, U and V of a matrix (m, n), as `WhitenedSVD` has them."""
    rows = root is not None and root.dim() == 1
    if root is not None:
        dense = root[:, None] * dense if rows else dense @ root
    left, values, right = torch.linalg.svd(dense, full_matrices=False)
    largest = left.gather(0, left.abs().argmax(dim=0, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0)
    left, right = left * signs, right * signs.T
    scales = values.sqrt(), values.sqrt()
    if root is not None:
        if rows:
            left /= root[:, None]
        else:
            right = torch.linalg.solve_triangular(root, right, upper=False, left=False)
        lengths = left.norm(dim=0), right.norm(dim=1)
        common = (values * lengths[0] * lengths[1]).sqrt()
        scales = common / lengths[0], common / lengths[1]
    return values, left * scales[0], right * scales[1][:, None]


def kept_energy(layer: Layer, rank: int, singular_values: Mapping[str, Tensor]) -> float:
    """Share of the squared singular values that a rank keeps, in [0, 1]: the mean over the layer's matrices.

    A matrix that the rank leaves dense keeps 1, and so does one of nothing but zeros.
    """
    shares = []
    for matrix in layer.matrices:
        energy = singular_values[matrix.name].detach().cpu().double().square()
        total = float(energy.sum())
        shares.append(float(energy[:rank].sum()) / total if matrix.is_factored(rank) and total > 0 else 1.0)
    return min(1.0, sum(shares) / len(shares))
