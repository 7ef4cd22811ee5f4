"""The error that compression causes in a model's activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from shrinkml_env.compression import CompressibleModel, Factorisation, Layer, canonical_ranks, compress, ranks_by_matrix

__all__ = ["ActivationError"]

KNOWN = 64
"""Errors that are kept. Observations and shaping ask for the same states, and steps for those before and after."""


class ActivationError:
    """The relative error of a layer's outputs in a compressed model, against the original's, on a few utterances.

    The layers before it are compressed as well, so that the error is the accumulated one. Each utterance is recognised
    alone. A decoder's layer is called once for every token: call i of one model is compared with call i of the other;
    a call that the compressed model lacks counts as outputs of 0.

    Args:
        model: The original.
        layers: The model's layers, whole or split into matrices, in forward order.
        waveforms: At least one, float32 samples at 16 kHz, (samples,) each.
        factorisation: The factorisation of the model.
    """

    def __init__(
        self,
        model: CompressibleModel,
        layers: Sequence[Layer],
        waveforms: Sequence[Tensor],
        factorisation: Factorisation,
    ) -> None:
        self._model = model
        self._layers = tuple(layers)
        self._waveforms = waveforms
        self._factorisation = factorisation
        self._known: dict[tuple[tuple[str, int], ...], float] = {}

    def __call__(self, ranks: Mapping[str, int]) -> float:
        """Return the error at the last layer that `ranks` names, after compressing all layers that it names.

        Args:
            ranks: Layer name -> rank; layers without an entry stay dense.

        Returns:
            The Frobenius norm of the difference over that of the original's outputs, at least 0; 0 if all layers are
            dense.

        Raises:
            ValueError: A layer is unknown or a rank is out of range.
        """
        complete = canonical_ranks(self._layers, ranks)
        if all(complete[layer.name] == layer.max_rank for layer in self._layers):
            return 0.0
        key = tuple(ranks.items())
        if key not in self._known:
            while len(self._known) >= KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = self._measure(ranks, complete)
        return self._known[key]

    def __getstate__(self) -> dict[str, Any]:
        # The outputs are large, and quick to compute again.
        return {name: value for name, value in vars(self).items() if name != "_original"}

    def _measure(self, ranks: Mapping[str, int], complete: Mapping[str, int]) -> float:
        compressed = compress(self._model, ranks_by_matrix(self._layers, complete), self._factorisation)
        modules = self._modules_of(next(layer for layer in reversed(self._layers) if layer.name in ranks))
        difference = energy = 0.0
        for original, other in zip(self._original, self._record(compressed, modules), strict=True):
            for module in modules:
                calls = other[module]
                for index, expected in enumerate(original[module]):
                    energy += float(expected.square().sum())
                    error = expected - calls[index] if index < len(calls) else expected
                    difference += float(error.square().sum())
        return (difference / energy) ** 0.5 if energy > 0 else 0.0

    @cached_property
    def _original(self) -> list[dict[str, list[Tensor]]]:
        modules = {module for layer in self._layers for module in self._modules_of(layer)}
        return self._record(self._model, modules)

    def _modules_of(self, layer: Layer) -> set[str]:
        """Return the paths of the modules whose outputs are compared."""
        paths = {block.name.rpartition(".")[0] for matrix in layer.matrices for block in matrix.blocks}
        return {self._called(path) for path in paths}

    def _called(self, path: str) -> str:
        """Return the path of the module that is called: attention uses its projection without calling it."""
        parent = path.rpartition(".")[0]
        return parent if isinstance(cast(nn.Module, self._model).get_submodule(parent), nn.MultiheadAttention) else path

    def _record(self, model: CompressibleModel, modules: set[str]) -> list[dict[str, list[Tensor]]]:
        """Return, for each waveform, module path -> its outputs, call by call."""
        found: dict[str, list[Tensor]] = {}

        def keep(path: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                found[path].append(_values(output))

            return hook

        tree = cast(nn.Module, model)
        handles = [tree.get_submodule(path).register_forward_hook(keep(path)) for path in modules]
        recorded = []
        try:
            for waveform in self._waveforms:
                found = {path: [] for path in modules}
                with torch.inference_mode():
                    model.recognise([waveform])
                recorded.append(found)
        finally:
            for handle in handles:
                handle.remove()
        return recorded


def _values(output: Any) -> Tensor:
    """Return the outputs of a module as a tensor: recurrent modules return (outputs, states), which may be packed."""
    if isinstance(output, tuple) and not isinstance(output, PackedSequence):
        output = output[0]
    values: Tensor = output.data if isinstance(output, PackedSequence) else output
    return values
