"""Layers, the units of a search's decisions, with their matrices and the number of parameters at each rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from shrinkml_env.checks import is_number

__all__ = [
    "FactorForm",
    "Granularity",
    "Layer",
    "Matrix",
    "arrange_layers",
    "canonical_ranks",
    "group_layers",
    "matrix_ranks",
    "merge_layers",
    "name_with_form",
    "ranks_by_matrix",
    "split_layers",
    "stack_name",
]

Granularity = Literal["layer", "matrix"] | Mapping[str, Sequence[str]]
"""The choice of which matrices share a rank; see `Evaluator`."""

FactorForm = Literal["factors", "pivoting"]
"""The form in which a matrix of rank r is stored: two factors, or the pivoting form with r^2 parameters less."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """One weight matrix that can be replaced by factors, or a stack of several that read the same input.

    Attributes:
        name: Dotted path of the parameter in the model, ``"encoder.0.forward.weight_ih_l0"``; for a stack, see
            `stack_name`.
        rows: m, the matrix's output dimension.
        columns: n, its input dimension.
        kind: ``"lstm_ih"``, ``"lstm_hh"``, ``"gru_ih"``, ``"gru_hh"``, ``"linear"``, ``"conv"`` or ``"embedding"``.
        form: The form of its factors.
        parts: The matrices of a stack, from top to bottom; empty for a single matrix.
    """

    name: str
    rows: int
    columns: int
    kind: str
    form: FactorForm = "factors"
    parts: tuple[Matrix, ...] = ()

    @property
    def blocks(self) -> tuple[Matrix, ...]:
        """The matrices of the model that it consists of, from top to bottom: its parts, or itself."""
        return self.parts or (self,)

    @property
    def max_rank(self) -> int:
        """min(m, n), the rank that stands for the dense matrix."""
        return min(self.rows, self.columns)

    @property
    def break_even(self) -> int:
        """The largest rank at which the factors have fewer parameters than the matrix; 0 if there is none.

        floor((mn - 1) / (m + n)) for two factors, min(m, n) - 1 in pivoting form.
        """
        if self.form == "pivoting":
            return self.max_rank - 1
        return (self.rows * self.columns - 1) // (self.rows + self.columns)

    def is_factored(self, rank: int) -> bool:
        """Return whether the matrix is factored at this rank; otherwise it stays dense."""
        return rank <= self.break_even

    def right_parameters(self, rank: int) -> int:
        """Return the number of parameters of the right factor: rn, or r(n - r) in pivoting form."""
        return rank * (self.columns - rank if self.form == "pivoting" else self.columns)

    def parameters(self, rank: int) -> int:
        """Return the number of parameters: mn dense, r(m + n) as two factors, r(m + n - r) in pivoting form."""
        if not self.is_factored(rank):
            return self.rows * self.columns
        return rank * self.rows + self.right_parameters(rank)


@dataclass(frozen=True, slots=True)
class Layer:
    """The unit of one decision: matrices that share one rank.

    Attributes:
        name: Unique in the model.
        kind: ``"lstm"``, ``"gru"``, ``"linear"`` (embeddings and attention projections, too) or ``"conv"``.
        matrices: At least one, in the order in which they are applied.
    """

    name: str
    kind: str
    matrices: tuple[Matrix, ...]

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(m, n) of each matrix."""
        return tuple((matrix.rows, matrix.columns) for matrix in self.matrices)

    @property
    def max_rank(self) -> int:
        """The rank that stands for dense: the largest of the matrices' min(m, n)."""
        return max(matrix.max_rank for matrix in self.matrices)

    @property
    def break_even(self) -> int:
        """The largest of the matrices' break-even ranks; 0 if no rank makes the layer smaller."""
        return max(matrix.break_even for matrix in self.matrices)

    def canonical(self, rank: int) -> int:
        """Return the canonical rank: `max_rank` for a rank above break-even, otherwise the rank itself.

        Raises:
            ValueError: The rank is not an integer between 1 and `max_rank`.
        """
        if not is_number(rank) or not 1 <= rank <= self.max_rank or int(rank) != rank:
            raise ValueError(f"layer {self.name!r}: rank must be an integer in 1..{self.max_rank}, got {rank!r}")
        return int(rank) if rank <= self.break_even else self.max_rank

    def parameters(self, rank: int) -> int:
        """Return the number of parameters of this layer's matrices at a rank, biases excluded."""
        return sum(matrix.parameters(rank) for matrix in self.matrices)


def split_layers(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Return one layer for every matrix, named after the matrix: ``granularity="matrix"``."""
    return tuple(
        Layer(name=matrix.name, kind=layer.kind, matrices=(matrix,)) for layer in layers for matrix in layer.matrices
    )


def stack_name(names: Sequence[str]) -> str:
    """Return the name of a stack of matrices: common parts of their paths once, different parts joined by ``+``.

    ``lstm.ahead.weight_ih_l0`` and ``lstm.behind.weight_ih_l0`` give ``lstm.ahead+behind.weight_ih_l0``.
    """
    paths = [name.split(".") for name in names]
    shortest = min(map(len, paths)) - 1
    head = next((i for i in range(shortest) if len({path[i] for path in paths}) > 1), shortest)
    tail = next((i for i in range(shortest - head) if len({path[-1 - i] for path in paths}) > 1), shortest - head)
    middle = "+".join(".".join(path[head : len(path) - tail]) for path in paths)
    return ".".join([*paths[0][:head], middle, *paths[0][len(paths[0]) - tail :]])


def arrange_layers(
    layers: Iterable[Layer], form: FactorForm = "factors", shared: Iterable[Sequence[str]] = ()
) -> tuple[Layer, ...]:
    """Return layers with the form of their factors set, and with matrices that share a right factor joined into stacks.

    Args:
        layers: The model's layers.
        form: The form of all factors.
        shared: Groups of at least two matrix names of one layer. The matrices of a group read the same input and share
            one right factor; they become a stack in the place of the first one.

    Raises:
        ValueError: The matrices of a group are unknown, belong to different layers or differ in their number of
            columns, or a matrix is in two groups or twice in one.
    """
    arranged = []
    waiting = [tuple(group) for group in shared]
    for layer in layers:
        known = {matrix.name: replace(matrix, form=form) for matrix in layer.matrices}
        matrices = dict(known)
        for group in [group for group in waiting if group and group[0] in known]:
            waiting.remove(group)
            if not len(group) == len(set(group)) >= 2 or any(name not in matrices for name in group):
                raise ValueError(
                    f"layer {layer.name!r}: {', '.join(group)} are not two or more matrices of it to stack"
                )
            stack = _stack([matrices[name] for name in group])
            matrices = {
                stack.name if name == group[0] else name: stack if name == group[0] else matrix
                for name, matrix in matrices.items()
                if name == group[0] or name not in group
            }
        arranged.append(replace(layer, matrices=tuple(matrices.values())))
    if waiting:
        raise ValueError(f"no layer has a matrix {waiting[0][0] if waiting[0] else ''!r}, which is to be stacked")
    return tuple(arranged)


def _stack(parts: Sequence[Matrix]) -> Matrix:
    if len({part.columns for part in parts}) > 1:
        raise ValueError(f"{', '.join(part.name for part in parts)} differ in their number of columns")
    name = stack_name([part.name for part in parts])
    return replace(parts[0], name=name, rows=sum(part.rows for part in parts), parts=tuple(parts))


def merge_layers(layers: Sequence[Layer], blocks: Mapping[str, Sequence[str]]) -> tuple[Layer, ...]:
    """Merge layers into blocks: layers whose matrices share one rank.

    Args:
        layers: A model's layers.
        blocks: Name of a block -> names of its layers. Layers in no block are omitted: they stay dense.

    Returns:
        One layer for each block, in forward order of their first layers.

    Raises:
        ValueError: A layer is unknown or in two blocks, or a block is empty.
    """
    known = {layer.name: layer for layer in layers}
    places = {layer.name: place for place, layer in enumerate(layers)}
    merged: dict[int, Layer] = {}
    taken = set[str]()
    for block, names in blocks.items():
        for name in names:
            if name not in known:
                raise ValueError(f"block {block!r}: no layer is named {name!r}; the layers are {', '.join(known)}")
            if name in taken:
                raise ValueError(f"block {block!r}: layer {name!r} is in another block already, or here twice")
            taken.add(name)
        if not names:
            raise ValueError(f"block {block!r} has no layer")
        ordered = sorted(names, key=lambda name: places[name])
        matrices = tuple(matrix for name in ordered for matrix in known[name].matrices)
        merged[places[ordered[0]]] = Layer(block, known[ordered[0]].kind, matrices)
    return tuple(merged[place] for place in sorted(merged))


def ranks_by_matrix(layers: Sequence[Layer], ranks: Mapping[str, int]) -> dict[str, int]:
    """Return the rank of every matrix of a configuration, as `compress` takes it.

    Args:
        layers: The layers of the configuration, split or merged or not.
        ranks: Layer name -> rank; layers without an entry are dense.

    Raises:
        ValueError: A name is not among the layers, or a rank is out of range.
    """
    complete = canonical_ranks(layers, ranks)
    # A rank above a matrix's own max_rank leaves this matrix dense.
    return {matrix.name: min(complete[layer.name], matrix.max_rank) for layer in layers for matrix in layer.matrices}


def canonical_ranks(layers: Sequence[Layer], ranks: Mapping[str, int]) -> dict[str, int]:
    """Return a complete configuration of canonical ranks, in forward order; layers without an entry are dense.

    Raises:
        ValueError: A name is not among the layers, or a rank is out of range.
    """
    _require_mapping(ranks)
    names = {layer.name for layer in layers}
    unknown = [name for name in ranks if name not in names]
    if unknown:
        raise ValueError(
            f"no layer is named {unknown[0]!r}; the layers are {', '.join(layer.name for layer in layers)}"
        )
    return {layer.name: layer.canonical(ranks.get(layer.name, layer.max_rank)) for layer in layers}


def matrix_ranks(layers: Sequence[Layer], ranks: Mapping[str, int]) -> dict[str, int]:
    """Return the ranks of the matrices that a configuration factors: its canonical description for counts and caches.

    Args:
        layers: A model's layers.
        ranks: Layer or matrix name -> rank; matrices without an entry stay dense.

    Returns:
        Matrix name -> rank, only for the matrices that become factors, in forward order.

    Raises:
        ValueError: A name is unknown, a rank is out of range, or a matrix is named twice, by itself and by its layer.
    """
    _require_mapping(ranks)
    whole = {layer.name: layer for layer in layers}
    single = {part.name: part for part in split_layers(layers) if part.name not in whole}
    chosen: dict[str, int] = {}
    for name, rank in ranks.items():
        unit = whole.get(name) or single.get(name)
        if unit is None:
            raise ValueError(f"no layer is named {name!r}; the layers are {', '.join(whole)}")
        rank = unit.canonical(rank)
        for matrix in unit.matrices:
            if matrix.name in chosen:
                raise ValueError(f"matrix {matrix.name!r} is given a rank twice, by itself and by its layer")
            chosen[matrix.name] = rank
    return {
        matrix.name: chosen[matrix.name]
        for layer in layers
        for matrix in layer.matrices
        if matrix.name in chosen and matrix.is_factored(chosen[matrix.name])
    }


def _require_mapping(ranks: object) -> None:
    if not isinstance(ranks, Mapping):
        raise ValueError(f"ranks must be a mapping of layers' names to whole numbers, got {ranks!r}")


def group_layers(layers: tuple[Layer, ...], granularity: Granularity, dense: Sequence[str] = ()) -> tuple[Layer, ...]:
    """Return the layers that a search decides about: a model's layers split or merged to the granularity.

    Args:
        layers: The model's layers.
        granularity: See `Evaluator`.
        dense: Patterns of the names of layers to leave out.

    Raises:
        ValueError: The granularity is not valid, its blocks name other layers, a pattern matches no layer, or no layer
            is left.
    """
    if isinstance(dense, str):
        raise ValueError(f"dense must be a list of patterns: [{dense!r}]")
    dense = tuple(dense)
    names = [layer.name for layer in layers]
    for pattern in dense:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"dense: no layer matches {pattern!r}; the layers are {', '.join(names)}")
    layers = tuple(layer for layer in layers if not any(fnmatchcase(layer.name, pattern) for pattern in dense))
    if not layers:
        raise ValueError(f"dense: {', '.join(dense)} match all layers, none is left to compress")
    if isinstance(granularity, Mapping):
        return merge_layers(layers, granularity)
    if granularity not in ("layer", "matrix"):
        raise ValueError(f"granularity must be 'layer', 'matrix' or a mapping of blocks, got {granularity!r}")
    return layers if granularity == "layer" else split_layers(layers)


def name_with_form(factorisation: str, layers: Iterable[Layer]) -> str:
    """Return the name of a factorisation, with the form if that is not two factors: ``"svd in pivoting form"``."""
    pivoting = any(matrix.form == "pivoting" for layer in layers for matrix in layer.matrices)
    return factorisation + " in pivoting form" * pivoting
