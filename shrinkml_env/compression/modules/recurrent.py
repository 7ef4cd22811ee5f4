"""LSTMs and GRUs with factored matrices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.rnn import PackedSequence, unpack_sequence

from shrinkml_env.compression.factors import Factors
from shrinkml_env.compression.modules.base import Execution, LowRank, vectors

__all__ = ["LowRankGRU", "LowRankGRUCell", "LowRankLSTM", "LowRankLSTMCell", "lstm_cell"]


class _LowRankRecurrent(LowRank):
    """The base class of LSTM, GRU and their cells, which runs a torch module of the original type, the kernel.

    If there is only one input matrix (a cell; one layer, one direction) and it is factored, the inputs are projected by
    V and the kernel's input matrix is U. All other factored matrices are multiplied out before the kernel runs, since a
    fused kernel with a dense W_hh is mostly faster than a loop over time steps with two thin matrices. The kernel is
    not a submodule, so that it adds nothing to the state or the parameter count. Gradients reach U and V.
    """

    replaced: ClassVar[type[nn.Module]]
    kernel_settings: ClassVar[tuple[str, ...]]

    def __init__(self, module: nn.Module, factors: Mapping[str, Factors]) -> None:
        super().__init__(module, factors)
        self._names = [name for name, _ in module.named_parameters(recurse=False)]
        inputs = [matrix.name for matrix in self.matrices if matrix.kind.endswith("_ih")]
        self._single_input = inputs[0] if len(inputs) == 1 else None

    @property
    def executions(self) -> tuple[Execution, ...]:
        """See `LowRank.executions`; ``"merged"`` is another one only if a single input matrix is factored."""
        return ("factored", "merged") if self._single_input in self.ranks else ("factored",)

    @property
    def _projected(self) -> str | None:
        """The name of the parameter whose V projects the inputs; None if there is none."""
        return self._single_input if self._single_input in self.ranks and self.execution != "merged" else None

    def _kernel_weights(self) -> dict[str, Tensor]:
        weights = {name: self._product(name) if name in self.ranks else self._parameters[name] for name in self._names}
        if self._projected is not None:
            weights[self._projected] = self._factor(self._projected, "u")
        return {name: weight for name, weight in weights.items() if weight is not None}

    def _empty_kernel(self) -> nn.Module:
        settings = {name: getattr(self, name) for name in self.kernel_settings}
        if self._projected is not None:
            settings["input_size"] = self.ranks[self._projected]
        if settings.get("num_layers") == 1:
            settings["dropout"] = 0.0  # with one layer it would only cause a warning
        return self.replaced(**settings, device="meta")

    def _frozen_kernel(self) -> nn.Module:
        kernel = self._empty_kernel().requires_grad_(False)
        weights = {name: weight.detach() for name, weight in self._kernel_weights().items()}
        kernel.load_state_dict(weights, assign=True)
        if isinstance(kernel, nn.RNNBase):
            kernel.flatten_parameters()
        return kernel

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Compute as the replaced module does; padded, unbatched and packed sequences are accepted."""
        if self._projected is not None:
            if isinstance(input, PackedSequence):
                input = input._replace(data=self._reduce(self._projected, input.data))
            else:
                input = self._reduce(self._projected, input)
        if self._wants_gradient():
            kernel = self._empty_kernel().train(self.training)
            return torch.func.functional_call(kernel, self._kernel_weights(), (input, hx))
        return self._cached(f"kernel, {self.execution}", self._frozen_kernel).train(self.training)(input, hx)


class _LowRankRNN(_LowRankRecurrent):
    """The base class of LSTM and GRU, whose torch versions keep a list of their weights for the kernel."""

    kernel_settings = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")

    def __init__(self, module: nn.RNNBase, factors: Mapping[str, Factors]) -> None:
        super().__init__(module, factors)
        del vars(self)["_flat_weights"]  # See the property.
        self._flat_weight_refs: list[Any] = []

    @property
    def _flat_weights(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._flat_weights_names]

    def flatten_parameters(self) -> None:
        """Do nothing: the kernel's weights are flattened already."""

    def _init_flat_weights(self) -> None:
        """Do nothing: the list is computed whenever it is read."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Skips `nn.RNNBase.__setstate__`, which rebuilds a list of weights.
        nn.Module.__setstate__(self, state)  # type: ignore[no-untyped-call]


class _LowRankCell(_LowRankRecurrent):
    """The base class of the cells."""

    kernel_settings = ("input_size", "hidden_size", "bias")


def _rnn_kinds(kind: str, module: nn.RNNBase) -> dict[str, str]:
    if module.proj_size:
        return {}
    return {
        f"weight_{part}_l{layer}{suffix}": f"{kind}_{part}"
        for layer in range(module.num_layers)
        for suffix in ("", "_reverse")[: 1 + module.bidirectional]
        for part in ("ih", "hh")
    }


def _rnn_inputs(module: nn.RNNBase, call: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
    """Return the inputs of each layer and its states before each step, in both directions; see `LowRank.matrix_inputs`.

    The states of inner layers are computed again, since the module does not return them.
    """
    found: dict[str, list[Tensor]] = defaultdict(list)
    directions = 1 + module.bidirectional
    for index, (inputs, outputs) in enumerate(
        zip(_sequences(module, call["input"]), _sequences(module, output[0]), strict=True)
    ):
        start = _start(call.get("hx"), index)
        for layer in range(module.num_layers):
            own = slice(layer * directions, (layer + 1) * directions)
            before = None if start is None else tuple(part[own] for part in start)
            states = outputs if layer == module.num_layers - 1 else _run_layer(module, layer, inputs, before)
            for direction, after in enumerate(states.chunk(directions, dim=1)):
                first = after.new_zeros(1, after.shape[1]) if before is None else before[0][direction, None]
                shifted = torch.cat([after[1:], first] if direction else [first, after[:-1]])
                name = f"l{layer}_reverse" if direction else f"l{layer}"
                found[f"weight_ih_{name}"].append(inputs)
                found[f"weight_hh_{name}"].append(shifted)
            inputs = states
    return {name: torch.cat(parts) for name, parts in found.items()}


def _sequences(module: nn.RNNBase, batch: Any) -> Sequence[Tensor]:
    """Split the input or output of a recurrent module into its sequences, (time, size) each."""
    if isinstance(batch, PackedSequence):
        return unpack_sequence(batch)
    if batch.dim() == 2:
        return [batch]
    return tuple(batch.unbind(0 if module.batch_first else 1))


def _start(hx: Any, index: int) -> tuple[Tensor, ...] | None:
    """Return the initial states of one sequence, (layers * directions, units) each; None if none were given."""
    if hx is None:
        return None
    return tuple(part if part.dim() == 2 else part[:, index] for part in (hx if isinstance(hx, tuple) else (hx,)))


def _run_layer(module: nn.RNNBase, layer: int, inputs: Tensor, start: tuple[Tensor, ...] | None) -> Tensor:
    """Compute one of several stacked layers: (time, size) -> (time, directions * units)."""
    lstm = isinstance(module, nn.LSTM)
    kernel = (nn.LSTM if lstm else nn.GRU)(
        inputs.shape[1], module.hidden_size, bias=module.bias, bidirectional=module.bidirectional, device="meta"
    )
    weights: dict[str, Tensor] = {
        name.replace(f"_l{layer}", "_l0"): weight
        for name, weight in module.named_parameters()
        if name.removesuffix("_reverse").endswith(f"_l{layer}")
    }
    hx = start if start is None or lstm else start[0]
    states: Tensor = torch.func.functional_call(kernel, weights, (inputs, hx))[0]
    return states


def _cell_inputs(module: nn.RNNCellBase, call: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
    """Return the inputs of a cell and its state before the step; see `LowRank.matrix_inputs`."""
    inputs, hx = vectors(call["input"]), call.get("hx")
    state = inputs.new_zeros(len(inputs), module.hidden_size) if hx is None else hx
    return {"weight_ih": inputs, "weight_hh": vectors(state[0] if isinstance(state, tuple) else state)}


class _LowRankLSTMBase(_LowRankRecurrent):
    """The base class of LSTM and its cell, with the arithmetic of ``"stepwise"``: one layer, one direction."""

    kind = "lstm"

    @property
    def executions(self) -> tuple[Execution, ...]:
        """See `LowRank.executions`; ``"stepwise"`` needs a single recurrent matrix that is factored."""
        recurrent = [matrix.name for matrix in self.matrices if matrix.kind.endswith("_hh")]
        stepwise = self._single_input is not None and recurrent[0] in self.ranks
        return (*super().executions, "stepwise") if stepwise else super().executions

    def _apply_matrix(self, part: str, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply by `weight_{part}`, factored or dense: (..., n) -> (..., 4 units)."""
        name = next(matrix.name for matrix in self.matrices if matrix.kind.endswith(part))
        if name in self.ranks:
            return F.linear(self._reduce(name, inputs), self._factor(name, "u"), bias)
        return F.linear(inputs, getattr(self, name), bias)

    def _input_gates(self, inputs: Tensor) -> Tensor:
        """Return the inputs' contribution to the gates: (..., input size) -> (..., 4 units), both biases included."""
        biases = [getattr(self, name) for name in self._names if name.startswith("bias")]
        return self._apply_matrix("_ih", inputs, sum(biases[1:], biases[0]) if biases else None)

    def _step(self, gates: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Compute one time step of a batch; return the hidden and the cell state, (batch, units) each."""
        return lstm_cell(gates + self._apply_matrix("_hh", hidden, None), cell)


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden and the new cell state of an LSTM, in the order of gates of `nn.LSTM`.

    Args:
        gates: Pre-activations of the input, forget, cell and output gates, (..., 4 units).
        cell: Cell state, (..., units).
    """
    into, forget, new, out = gates.chunk(4, dim=-1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(into) * torch.tanh(new)
    return torch.sigmoid(out) * torch.tanh(cell), cell


class LowRankLSTM(_LowRankLSTMBase, _LowRankRNN, nn.LSTM):  # type: ignore[misc]
    """`nn.LSTM` with factored W_ih or W_hh, of any number of layers and directions."""

    replaced = nn.LSTM

    @staticmethod
    def matrix_kinds(module: nn.LSTM) -> dict[str, str]:
        """See `LowRank.matrix_kinds`; an LSTM with `proj_size` stays dense."""
        return _rnn_kinds("lstm", module)

    @staticmethod
    def matrix_inputs(module: nn.LSTM, call: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`."""
        return _rnn_inputs(module, call, output)

    def forward(self, input: Any, hx: Any = None) -> Any:
        """See `_LowRankRecurrent.forward`; packed sequences always go to the kernel."""
        if self.execution != "stepwise" or isinstance(input, PackedSequence):
            return super().forward(input, hx)
        batched = input.dim() == 3
        time = 1 if batched and self.batch_first else 0
        gates = self._input_gates(input if batched else input[:, None])
        zeros = gates.new_zeros(gates.shape[1 - time], self.hidden_size)
        # (1, batch, units) or, without a batch, (1, units).
        hidden, cell = (zeros, zeros) if hx is None else (state.reshape(-1, self.hidden_size) for state in hx)
        outputs = []
        for step_gates in gates.unbind(time):
            hidden, cell = self._step(step_gates, hidden, cell)
            outputs.append(hidden)
        output = torch.stack(outputs, dim=time)
        if batched:
            return output, (hidden[None], cell[None])
        return output[:, 0], (hidden, cell)


class LowRankGRU(_LowRankRNN, nn.GRU):  # type: ignore[misc]
    """`nn.GRU` with factored W_ih or W_hh, of any number of layers and directions."""

    kind = "gru"
    replaced = nn.GRU

    @staticmethod
    def matrix_kinds(module: nn.GRU) -> dict[str, str]:
        """See `LowRank.matrix_kinds`."""
        return _rnn_kinds("gru", module)

    @staticmethod
    def matrix_inputs(module: nn.GRU, call: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`."""
        return _rnn_inputs(module, call, output)


class LowRankLSTMCell(_LowRankLSTMBase, _LowRankCell, nn.LSTMCell):
    """`nn.LSTMCell` with factored W_ih or W_hh."""

    replaced = nn.LSTMCell

    @staticmethod
    def matrix_kinds(module: nn.LSTMCell) -> dict[str, str]:
        """See `LowRank.matrix_kinds`."""
        return {"weight_ih": "lstm_ih", "weight_hh": "lstm_hh"}

    @staticmethod
    def matrix_inputs(module: nn.LSTMCell, call: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`."""
        return _cell_inputs(module, call, output)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Compute one step, as `nn.LSTMCell` does, of inputs (batch, input size) or (input size,)."""
        if self.execution != "stepwise" or input.dim() == 1:
            found: tuple[Tensor, Tensor] = super().forward(input, hx)
            return found
        zeros = input.new_zeros(len(input), self.hidden_size)
        return self._step(self._input_gates(input), *((zeros, zeros) if hx is None else hx))


class LowRankGRUCell(_LowRankCell, nn.GRUCell):
    """`nn.GRUCell` with factored W_ih or W_hh."""

    kind = "gru"
    replaced = nn.GRUCell

    @staticmethod
    def matrix_kinds(module: nn.GRUCell) -> dict[str, str]:
        """See `LowRank.matrix_kinds`."""
        return {"weight_ih": "gru_ih", "weight_hh": "gru_hh"}

    @staticmethod
    def matrix_inputs(module: nn.GRUCell, call: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`."""
        return _cell_inputs(module, call, output)
