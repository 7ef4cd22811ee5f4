"""The base class of low-rank modules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from shrinkml_env.compression.factors import Factors, expand_right, times_right
from shrinkml_env.compression.layers import Matrix

__all__ = ["RESERVED", "Execution", "LowRank", "named_matrices", "take_over", "vectors"]


Execution = Literal["factored", "merged", "stepwise"]
"""The way in which a `LowRank` module computes: ``"factored"`` multiplies with its factors, ``"merged"`` with their
product, as the original does, and ``"stepwise"`` runs an LSTM in a loop over time, to use the factors of W_hh too."""


class LowRank(nn.Module, ABC):
    """A module that replaces another one and holds some of its matrices as factors.

    A low-rank module is a subclass of the type that it replaces, and takes over the module's hooks, buffers and plain
    attributes. A factored parameter `weight` becomes the parameters `weight_u`, (m, r), and `weight_v`, (r, n); in
    pivoting form `weight_v` is T, (r, n - r), and the buffer `weight_order`, (n,), holds the order (see `Factors`). The
    other parameters are those of the replaced module. The attribute `weight` still exists: it returns the product, in
    the original's shape. Products are cached until a factor changes, unless gradients are required; the cache is not
    part of the state.

    Args:
        module: The module to replace.
        factors: Parameter name in the module -> its factors. A factor that is an `nn.Parameter` is used as it is, so
            that several modules can share it.

    Attributes:
        matrices: The replaced module's matrices, named by parameter.
        ranks: Name of each factored parameter -> rank.
        execution: One of `executions`, set by `optimise_for_inference`; not part of the state.

    Raises:
        ValueError: A name is not a matrix of the module that can be factored, or factors have the wrong shape.
    """

    kind: ClassVar[str]
    """The `Layer.kind` of the modules that the class replaces."""

    @staticmethod
    @abstractmethod
    def matrix_kinds(module: Any) -> dict[str, str]:
        """Return the parameters of a module that can be factored: name -> `Matrix.kind`, in order of application."""

    @staticmethod
    @abstractmethod
    def matrix_inputs(module: Any, call: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
        """Return the vectors that one call of a module multiplied its matrices with.

        Args:
            module: A module of a type that this class replaces, in evaluation mode.
            call: Argument name -> value of the call of `forward`.
            output: The call's return value.

        Returns:
            Parameter name -> the vectors, (positions, n); for an embedding the indices of its rows, (positions,)
            integers. Parameters of modules below are included if `module` applies them without a call.
        """

    def __init__(self, module: nn.Module, factors: Mapping[str, Factors]) -> None:
        take_over(self, module)
        self.matrices = named_matrices(module, self.matrix_kinds(module))
        self.ranks: dict[str, int] = {}
        self.execution: Execution = "factored"
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
    def executions(self) -> tuple[Execution, ...]:
        """The ways in which this module can compute, equal up to rounding; the default first."""
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
        """Return the replaced module's settings, and the ranks."""
        return ", ".join(filter(None, (super().extra_repr(), f"ranks={self.ranks}")))

    def shape(self, name: str) -> torch.Size:
        """Return the shape that a factored parameter has in the replaced module."""
        return self._shapes[name]

    def _factor(self, name: str, suffix: str) -> Tensor:
        factor = self._parameters[f"{name}_{suffix}"]
        assert factor is not None
        return factor

    def factors(self, name: str) -> Factors:
        """Return the factors of a matrix: the parameters themselves, and in pivoting form the order of the columns."""
        return Factors(self._factor(name, "u"), self._factor(name, "v"), self._buffers.get(f"{name}_order"))

    def hold(self, name: str, factors: Factors) -> None:
        """Hold other factors of a matrix, parameters of the same rank, in place of the present ones."""
        self._parameters[f"{name}_u"], self._parameters[f"{name}_v"] = (cast(nn.Parameter, f) for f in factors[:2])
        self._buffers.pop(f"{name}_order", None)
        if factors.order is not None:
            self.register_buffer(f"{name}_order", factors.order.to(factors.u.device, copy=True))
        self.refresh()

    def refresh(self) -> None:
        """Compute again what is kept for inference; needed after writes through ``parameter.data`` alone."""
        self._cache.clear()

    def _product(self, name: str) -> Tensor:
        """Return U V in the shape of the replaced parameter."""
        return self.factors(name).product.view(self._shapes[name])

    def _reduce(self, name: str, inputs: Tensor) -> Tensor:
        """Return V x for each input vector x: (..., n) -> (..., r)."""
        _, v, order = self.factors(name)
        return times_right(inputs, v, order)

    def _right(self, name: str) -> Tensor:
        """Return V, (r, n)."""
        _, v, order = self.factors(name)
        return expand_right(v, order)

    def _wants_gradient(self) -> bool:
        return torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())

    def _cached(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return the value of `compute`, a function of the parameters; it is cached until a parameter changes.

        What is written through ``parameter.data`` is not seen: `refresh` is to be called afterwards.
        """
        if self._wants_gradient():
            return compute()
        # A parameter has changed if it was written in place or got other memory. Inference tensors have no version, but
        # outside inference mode they cannot be written.
        state = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in (*self.parameters(), *self.buffers())]
        cached = self._cache.get(key)
        if cached is None or cached[0] != state:
            # The value must be usable in any mode of the next call.
            device = next(self.parameters()).device.type
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
                cached = self._cache[key] = state, compute()
        return cached[1]


RESERVED = frozenset(
    {"matrices", "ranks", "execution", "_shapes", "_cache", "_names", "_single_input", *dir(LowRank)}
) - set(dir(nn.Module))
"""Attribute names that low-rank modules use; a module that has one of them cannot be replaced."""


def take_over(target: nn.Module, source: nn.Module) -> None:
    """Give a new module the attributes of another; containers of parameters, hooks etc. are copied, their items shared.

    The result of `nn.Module.compile` is not taken over, since it computes with the source's weights.
    """
    containers = vars(nn.Module())
    for name, value in vars(source).items():
        own = name in containers and isinstance(value, dict | set)
        target.__dict__[name] = value.copy() if own else value
    target.__dict__.pop("_compiled_call_impl", None)


def named_matrices(module: nn.Module, kinds: Mapping[str, str]) -> tuple[Matrix, ...]:
    """Return the matrices of the parameters that `kinds` names (parameter name -> `Matrix.kind`)."""
    parameters = dict(module.named_parameters(recurse=False))
    return tuple(
        Matrix(name, rows=len(parameters[name]), columns=parameters[name][0].numel(), kind=kind)
        for name, kind in kinds.items()
    )


def vectors(inputs: Tensor) -> Tensor:
    """Flatten inputs into a list of vectors: (..., n) -> (positions, n)."""
    parts = inputs.unbind() if inputs.is_nested else [inputs]
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
