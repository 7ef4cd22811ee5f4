"""The truncated SVD of matrices, plain or weighted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from shrinkml_env.compression.canonical import content_bytes, digest, one_thread
from shrinkml_env.compression.factors import Factors, order_dtype
from shrinkml_env.compression.layers import FactorForm, Layer, Matrix, arrange_layers
from shrinkml_env.compression.pivoting import column_order, interpolation
from shrinkml_env.compression.protocol import CompressibleModel
from shrinkml_env.progress import track

__all__ = ["SVD", "WhitenedSVD", "kept_energy", "require_not_compiled", "weights_of"]


class WhitenedSVD:
    """The truncated SVD of D W S, with D^-1 multiplied into the left factor and S^-1 into the right one.

    D W S = L Sigma R^T, so W = (D^-1 L) Sigma (R^T S^-1). Among all matrices W' of a rank, the truncation minimises the
    squared Frobenius norm of D (W - W') S (Eckart-Young). If S is a square root of the second moment E[x x^T] of the
    inputs x of W, this is the expected squared error of the outputs, weighted by the diagonal matrix D. With S = D = I
    it is the plain SVD.

    The decomposition is computed once, in float64; signs are such that the largest entry of each left vector is
    positive. With two factors, each column of U has the same norm as its row of V, so that neither loses precision when
    they are rounded to the model's `storage_dtype`. In pivoting form U consists of columns of W', which `column_order`
    chooses.

    Args:
        model: An uncompressed model; it is only read, and not kept.
        layers: The model's layers in the form to factor them (`arrange_layers`).
        roots: Matrix name -> S, (n, n) float64, lower triangular and regular; I for a matrix without an entry.
        rows: Matrix name -> the diagonal of D, (m,) float64, positive; I for a matrix without an entry.
        matrices: Names of the matrices to factor; None for all.

    Attributes:
        layers: The argument `layers`.
        singular_values: Matrix name -> the diagonal of Sigma, (min(m, n),) float64, descending.
        row_weights: The argument `rows`.

    Raises:
        ValueError: A matrix is not a parameter of the model, or holds NaN or infinity.
    """

    name: str

    def __init__(
        self,
        model: CompressibleModel,
        layers: Sequence[Layer],
        roots: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
        matrices: Iterable[str] | None = None,
    ) -> None:
        self.layers = tuple(layers)
        forms = {matrix.form for layer in self.layers for matrix in layer.matrices}
        self.key = "-".join([self.name, str(model.storage_dtype).removeprefix("torch."), *sorted(forms - {"factors"})])
        self.singular_values: dict[str, Tensor] = {}
        self._storage_dtype = model.storage_dtype
        self._triplets: dict[str, tuple[Tensor, Tensor]] = {}
        self._pivoting: set[str] = set()
        self._orders: dict[tuple[str, int], Tensor] = {}
        self.row_weights = dict(rows)
        factored = _named(self.layers, matrices)
        self._blocks = [block.name for matrix in factored for block in matrix.blocks]
        self._source = _content(model, self._blocks)
        with one_thread(), torch.no_grad():
            for matrix in track(factored, "factoring", "matrix"):
                self._keep(matrix, dense_values(model, matrix), roots.get(matrix.name))

    def _keep(self, matrix: Matrix, dense: Tensor, root: Tensor | None) -> None:
        """Keep the decomposition of one matrix or stack in place of an earlier one, given its values and its S."""
        weights = self.row_weights.get(matrix.name)
        values, left, right = decompose(dense, root, weights)
        self.singular_values[matrix.name] = values
        if matrix.form == "pivoting":
            self._pivoting.add(matrix.name)
            self._triplets[matrix.name] = (left * values).float(), right
            self._orders = {key: order for key, order in self._orders.items() if key[0] != matrix.name}
        else:
            u, v = _balance(values, left, right, plain=root is None and weights is None)
            # Rounded once, not for each rank.
            self._triplets[matrix.name] = self._rounded(u), self._rounded(v)

    def require_model(self, model: CompressibleModel) -> None:
        """Check that a model has the matrices that were decomposed.

        Raises:
            ValueError: It is another model, or its weights have changed.
        """
        if _content(model, self._blocks) != self._source:
            raise ValueError("the factors are of another model, or of earlier weights of this one: make them anew")

    def triplets(self, matrix: str) -> tuple[Tensor, Tensor]:
        """Return U, (m, k), and V, (k, n); the first r columns of U and rows of V are the factors of rank r.

        Raises:
            ValueError: The matrix is unknown.
        """
        if matrix not in self._triplets:
            raise ValueError(f"matrix {matrix!r} was not factored; there are {', '.join(self._triplets)}")
        return self._triplets[matrix]

    def factors(self, matrix: str, rank: int) -> Factors:
        """See `Factorisation.factors`."""
        u, v = self.triplets(matrix)
        if not 1 <= rank <= len(v):
            raise ValueError(f"matrix {matrix!r}: rank must be in 1..{len(v)}, got {rank!r}")
        u, v = u[:, :rank], v[:rank]
        if matrix in self._pivoting:
            return self._pivot(matrix, u, v)
        # Copies, so that training a compressed model does not change the factors of the next one.
        return Factors(
            u=u.clone(memory_format=torch.contiguous_format),
            v=v.clone(memory_format=torch.contiguous_format),
        )

    def _pivot(self, matrix: str, u: Tensor, v: Tensor) -> Factors:
        """Return the pivoting form of the product of U, (m, r), and V, (r, n)."""
        rank = len(v)
        with one_thread():
            order = self._orders.get((matrix, rank))
            if order is None:
                order = self._orders[matrix, rank] = column_order(v)
            columns = u @ v[:, order[:rank]].to(u.dtype)
            others = interpolation(v, order)
        return Factors(self._rounded(columns), self._rounded(others), order.to(order_dtype(len(order))))

    def _rounded(self, factor: Tensor) -> Tensor:
        return factor.to(self._storage_dtype).float()


class SVD(WhitenedSVD):
    """The plain truncated SVD, which minimises the squared error of the matrix at every rank (Eckart-Young).

    Two factors are both scaled by the square roots of the singular values.

    Args:
        model: An uncompressed model.
        matrices: Names of the matrices to factor; None for all.
        form: The form of the factors.

    Raises:
        ValueError: A matrix is not a parameter of the model, or holds NaN or infinity.
    """

    name = "svd"

    def __init__(
        self, model: CompressibleModel, matrices: Iterable[str] | None = None, form: FactorForm = "factors"
    ) -> None:
        super().__init__(model, arrange_layers(model.layers, form), {}, {}, matrices)


def require_not_compiled(model: nn.Module) -> None:
    """Check that neither a model nor a part of it is what `torch.compile` returned.

    Raises:
        ValueError: The model or a part of it is compiled.
    """
    for path, module in model.named_modules():
        if "_orig_mod" in module._modules:
            what = f"module {path!r}" if path else "the model"
            raise ValueError(
                f"{what} is what torch.compile returned, which computes with the original weights: give what was"
                " compiled (`_orig_mod`), and compile the result"
            )


def weights_of(model: CompressibleModel, matrices: Iterable[str] | None = None) -> list[tuple[Matrix, nn.Parameter]]:
    """Return the matrices of an uncompressed model's layers with their parameters.

    Args:
        model: The model.
        matrices: Names of the matrices to return; None for all.

    Raises:
        ValueError: A name is not a matrix of the layers, or the model or a part of it is compiled.
    """
    require_not_compiled(cast(nn.Module, model))
    parameters = dict(cast(nn.Module, model).named_parameters())
    known = {matrix.name: matrix for layer in model.layers for matrix in layer.matrices}
    found = []
    for name in known if matrices is None else matrices:
        if name not in known or name not in parameters:
            raise ValueError(f"matrix {name!r} is not a parameter of this model's layers (or is compressed already)")
        found.append((known[name], parameters[name]))
    return found


def _content(model: CompressibleModel, names: Iterable[str]) -> str:
    """Return the digest of a model's matrices."""
    return digest(content_bytes(weight) for _, weight in weights_of(model, names))


def _named(layers: Sequence[Layer], names: Iterable[str] | None) -> list[Matrix]:
    """Return the matrices and stacks of layers, all or the named ones."""
    known = {matrix.name: matrix for layer in layers for matrix in layer.matrices}
    wanted = list(known) if names is None else list(names)
    for name in wanted:
        if name not in known:
            raise ValueError(f"matrix {name!r} is not a parameter of this model's layers (or is compressed already)")
    return [known[name] for name in wanted]


def dense_values(model: CompressibleModel, matrix: Matrix) -> Tensor:
    """Return the values of a matrix or stack of an uncompressed model, (m, n) float64 on the CPU."""
    blocks = weights_of(model, [block.name for block in matrix.blocks])
    dense = torch.cat([weight.detach().to("cpu", torch.float64).flatten(1) for _, weight in blocks])
    if not dense.isfinite().all():
        raise ValueError(f"matrix {matrix.name!r} holds NaN or infinity")
    return dense


def decompose(dense: Tensor, root: Tensor | None, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return Sigma, D^-1 L and R^T S^-1 of a matrix W, (m, n); see `WhitenedSVD`."""
    if rows is not None:
        dense = rows[:, None] * dense
    if root is not None:
        dense = dense @ root
    left, values, right = torch.linalg.svd(dense, full_matrices=False)
    largest = left.gather(0, left.abs().argmax(dim=0, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0)
    left, right = left * signs, right * signs.T
    if rows is not None:
        left /= rows[:, None]
    if root is not None:
        right = torch.linalg.solve_triangular(root, right, upper=False, left=False)
    return values, left, right


def _balance(values: Tensor, left: Tensor, right: Tensor, plain: bool) -> tuple[Tensor, Tensor]:
    """Multiply the singular values into U and V, such that each column of U has the same norm as its row of V."""
    if plain:
        scales = values.sqrt(), values.sqrt()
    else:
        lengths = left.norm(dim=0), right.norm(dim=1)
        common = (values * lengths[0] * lengths[1]).sqrt()
        scales = common / lengths[0], common / lengths[1]
    return left * scales[0], right * scales[1][:, None]


def kept_energy(layer: Layer, rank: int, singular_values: Mapping[str, Tensor]) -> float:
    """Return the share of the squared singular values that a rank keeps, in [0, 1]: the mean over the layer's matrices.

    The share of a matrix that stays dense at this rank, or that is zero, is 1.
    """
    shares = []
    for matrix in layer.matrices:
        energy = singular_values[matrix.name].detach().cpu().double().square()
        total = float(energy.sum())
        shares.append(float(energy[:rank].sum()) / total if matrix.is_factored(rank) and total > 0 else 1.0)
    return min(1.0, sum(shares) / len(shares))
