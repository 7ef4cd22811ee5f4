"""The base of all modules that hold some of their matrices as factors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from shrinkml_env.compression.factors import Factors, expand_right, times_right
from shrinkml_env.compression.layers import Matrix

__all__ = ["RESERVED", "Form", "LowRank", "named_matrices", "take_over", "vectors"]


Form = Literal["factored", "merged", "stepwise"]
"""How a `LowRank` module computes: with its factors; with their products, as the original does; with the factors of an
LSTM's W_hh as well, in a loop over time instead of a kernel."""


class LowRank(nn.Module, ABC):
    """Stands in for a module, with factors in place of some of its matrices.

    A low-rank module derives from the type that it replaces, and begins as a copy of the module: hooks, buffers and
    plain attributes are the module's. A factored parameter `weight` is held as parameters `weight_u` (m, r) and
    `weight_v` (r, n); in pivoting form `weight_v` is T, (r, n - r), beside a buffer `weight_order`, (n,) (see
    `Factors`). The other parameters are the replaced module's own. Reading `weight` still works and gives the product,
    in the original's shape. Products are kept for the next call while the factors do not change and no gradient is
    wanted; they are not part of the state.

    Args:
        module: What is replaced.
        factors: Parameter name in the module -> its factors; one that is an `nn.Parameter` is held as it is, so
            that several modules can share it.

    Attributes:
        matrices: The replaced module's matrices, named by parameter.
        ranks: Parameter name -> rank, of the factored ones.
        form: One of `forms`, chosen by `optimise_for_inference`; no part of the state either.
    """

    kind: ClassVar[str]
    """The `Layer.kind` of the modules it replaces."""

    @staticmethod
    @abstractmethod
    def matrix_kinds(module: Any) -> dict[str, str]:
        """Parameter name -> `Matrix.kind`, of what can be factored in a module to be replaced; order of application."""

    @staticmethod
    @abstractmethod
    def matrix_inputs(module: Any, call: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
        """What one call of a module to be replaced has multiplied its matrices with.

        Args:
            module: In evaluation mode, of a type that this class replaces.
            call: The arguments of `forward` that were given, by name.
            output: What it returned.

        Returns:
            Parameter name (of the module, or of one below that it computes without calling it) -> the vectors,
            (positions, n); of an embedding the rows that were looked up, (positions,) integers.
        """

    def __init__(self, module: nn.Module, factors: Mapping[str, Factors]) -> None:
        take_over(self, module)
        self.matrices = named_matrices(module, self.matrix_kinds(module))
        self.ranks: dict[str, int] = {}
        self.form: Form = "factored"
        self._shapes: dict[str, torch.Size] = {}
        self._cache: dict[str, tuple[object, Any]] = {}
        sizes = {matrix.name: (matrix.rows, matrix.columns) for matrix in self.matrices}
        for name in factors:
            if name not in sizes:
                raise ValueError(f"{type(module).__name__} has no matrix {name!r} that can be factored")
        self._parameters.clear()
        for name, parameter in module._parameters.items():
            if parameter is None or name not in factors:
                self.register_parameter(name, parameter)
                continue
            u, v, order = factors[name]
            rank = len(v)
            kept = 0 if order is None else rank
            if (tuple(u.shape), tuple(v.shape)) != ((sizes[name][0], rank), (rank, sizes[name][1] - kept)):
                shapes = f"{tuple(u.shape)} and {tuple(v.shape)}"
                raise ValueError(f"{name}: factors {shapes} do not fit a matrix {sizes[name]}")
            self.ranks[name] = rank
            if order is not None:
                self.register_buffer(f"{name}_order", order.to(parameter.device, copy=True))
            self._shapes[name] = parameter.shape
            for suffix, factor in ("u", u), ("v", v):
                if not isinstance(factor, nn.Parameter):
                    factor = nn.Parameter(factor.to(parameter.device, parameter.dtype), parameter.requires_grad)
                self.register_parameter(f"{name}_{suffix}", factor)

    @property
    def forms(self) -> tuple[Form, ...]:
        """All ways in which this module can compute the same up to rounding, the usual one first."""
        return "factored", "merged"

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("ranks", ()):
            return self._cached(name, lambda: self._product(name))
        return super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": {}}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._cache.clear()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        """Return what the replaced module says, and the ranks."""
        return ", ".join(filter(None, (super().extra_repr(), f"ranks={self.ranks}")))

    def shape(self, name: str) -> torch.Size:
        """The shape of the replaced module's parameter that is held as factors."""
        return self._shapes[name]

    def _factor(self, name: str, suffix: str) -> Tensor:
        factor = self._parameters[f"{name}_{suffix}"]
        assert factor is not None
        return factor

    def factors(self, name: str) -> Factors:
        """Return what holds a matrix: the parameters themselves, and the order of its columns in pivoting form."""
        return Factors(self._factor(name, "u"), self._factor(name, "v"), self._buffers.get(f"{name}_order"))

    def _product(self, name: str) -> Tensor:
        """Return U V in the shape of the replaced parameter."""
        return self.factors(name).product.view(self._shapes[name])

    def _reduce(self, name: str, inputs: Tensor) -> Tensor:
        """Return V x for each x: (..., n) -> (..., r)."""
        _, v, order = self.factors(name)
        return times_right(inputs, v, order)

    def _right(self, name: str) -> Tensor:
        """Return V, (r, n)."""
        _, v, order = self.factors(name)
        return expand_right(v, order)

    def _wants_gradient(self) -> bool:
        return torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())

    def _cached(self, key: str, compute: Callable[[], Any]) -> Any:
        """What `compute` makes of the parameters, computed again only when one of them has changed."""
        if self._wants_gradient():
            return compute()
        # A parameter counts as changed when it was written in place or given other memory. Inference tensors have
        # no version, but cannot be written either outside inference mode.
        state = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in (*self.parameters(), *self.buffers())]
        cached = self._cache.get(key)
        if cached is None or cached[0] != state:
            # The result must serve whatever modes the next call runs in.
            device = next(self.parameters()).device.type
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
                cached = self._cache[key] = state, compute()
        return cached[1]


RESERVED = frozenset(
    {"matrices", "ranks", "form", "_shapes", "_cache", "_names", "_single_input", *dir(LowRank)}
) - set(dir(nn.Module))
"""Names that every low-rank module needs for itself."""


def take_over(target: nn.Module, source: nn.Module) -> None:
    """Give a new module all that another has: the containers of parameters, hooks etc. copied, what they hold shared.

    What `nn.Module.compile` made of the source stays with the source: it computes with that one's weights.
    """
    containers = vars(nn.Module())
    for name, value in vars(source).items():
        own = name in containers and isinstance(value, dict | set)
        target.__dict__[name] = value.copy() if own else value
    target.__dict__.pop("_compiled_call_impl", None)


def named_matrices(module: nn.Module, kinds: Mapping[str, str]) -> tuple[Matrix, ...]:
    """Those of a module's own parameters that have a kind, parameter name -> kind."""
    parameters = dict(module.named_parameters(recurse=False))
    return tuple(
        Matrix(name, rows=len(parameters[name]), columns=parameters[name][0].numel(), kind=kind)
        for name, kind in kinds.items()
    )


def vectors(inputs: Tensor) -> Tensor:
    """(..., n) -> (positions, n)."""
    parts = inputs.unbind() if inputs.is_nested else [inputs]
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
