"""Modules that hold some of their matrices as two factors, and the table of the module types that can be compressed.

To support another module type, write its `LowRank` class and enter it in `LOW_RANK_MODULES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.rnn import PackedSequence, unpack_sequence

from shrinkml_env.compression.layers import Matrix
from shrinkml_env.compression.svd import Factors

__all__ = [
    "LOW_RANK_MODULES",
    "Form",
    "LowRank",
    "LowRankConv1d",
    "LowRankEmbedding",
    "LowRankGRU",
    "LowRankGRUCell",
    "LowRankLSTM",
    "LowRankLSTMCell",
    "LowRankLinear",
    "LowRankMultiheadAttention",
    "module_kind",
    "module_matrices",
]


Form = Literal["factored", "merged", "stepwise"]
"""How a `LowRank` module computes: with its factors; with their products, as the original does; with the factors of an
LSTM's W_hh as well, in a loop over time instead of a kernel."""


class LowRank(nn.Module, ABC):
    """Stands in for a module, with two factors in place of some of its matrices.

    A factored parameter `weight` is held as parameters `weight_u` (m, r) and `weight_v` (r, n); the others are the
    replaced module's own. Reading `weight` still works and gives the product, in the original's shape. Products are
    kept for the next call while the factors do not change and no gradient is wanted; they are not part of the state.

    Args:
        module: What is replaced.
        factors: Parameter name in the module -> its factors; those that are `nn.Parameter`s are held as they are, so
            that several modules can share them.

    Attributes:
        matrices: The replaced module's matrices, named by parameter.
        ranks: Parameter name -> rank, of the factored ones.
        form: One of `forms`, chosen by `optimise_for_inference`; no part of the state either.
    """

    kind: ClassVar[str]
    """The `Layer.kind` of the modules it replaces."""

    settings: ClassVar[tuple[str, ...]]
    """Attributes taken over from the replaced module."""

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
        super().__init__()
        self.training = module.training
        self.matrices = module_matrices(module)
        self.ranks: dict[str, int] = {}
        self.form: Form = "factored"
        self._shapes: dict[str, torch.Size] = {}
        self._cache: dict[str, tuple[object, Any]] = {}
        for name in self.settings:
            setattr(self, name, getattr(module, name))
        sizes = {matrix.name: (matrix.rows, matrix.columns) for matrix in self.matrices}
        for name in factors:
            if name not in sizes:
                raise ValueError(f"{type(module).__name__} has no matrix {name!r} that can be factored")
        for name, parameter in module._parameters.items():
            if parameter is None or name not in factors:
                self.register_parameter(name, parameter)
                continue
            u, v = factors[name]
            rank = len(v)
            if (tuple(u.shape), tuple(v.shape)) != ((sizes[name][0], rank), (rank, sizes[name][1])):
                shapes = f"{tuple(u.shape)} and {tuple(v.shape)}"
                raise ValueError(f"{name}: factors {shapes} do not fit a matrix {sizes[name]}")
            self.ranks[name] = rank
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
        """The settings and ranks, for `repr`."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in (*self.settings, "ranks"))

    def shape(self, name: str) -> torch.Size:
        """The shape of the replaced module's parameter that is held as factors."""
        return self._shapes[name]

    def _factor(self, name: str, suffix: str) -> Tensor:
        factor = self._parameters[f"{name}_{suffix}"]
        assert factor is not None
        return factor

    def _product(self, name: str) -> Tensor:
        """U @ V in the shape of the replaced parameter."""
        return (self._factor(name, "u") @ self._factor(name, "v")).view(self._shapes[name])

    def _wants_gradient(self) -> bool:
        return torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())

    def _cached(self, key: str, compute: Callable[[], Any]) -> Any:
        """What `compute` makes of the parameters, computed again only when one of them has changed."""
        if self._wants_gradient():
            return compute()
        # A parameter counts as changed when it was written in place or given other memory. Inference tensors have
        # no version, but cannot be written either outside inference mode.
        state = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.parameters()]
        cached = self._cache.get(key)
        if cached is None or cached[0] != state:
            # The result must serve whatever modes the next call runs in.
            device = next(self.parameters()).device.type
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
                cached = self._cache[key] = state, compute()
        return cached[1]


class LowRankLinear(LowRank):
    """`nn.Linear` as y = U (V x) + b."""

    kind = "linear"
    settings = ("in_features", "out_features")

    @staticmethod
    def matrix_kinds(module: nn.Linear) -> dict[str, str]:
        """See `LowRank.matrix_kinds`."""
        return {"weight": "linear"}

    @staticmethod
    def matrix_inputs(module: nn.Linear, call: Mapping[str, Any], output: Tensor) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`."""
        return {"weight": _vectors(call["input"])}

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`: (..., n) -> (..., m)."""
        if self.form == "merged":
            return F.linear(input, self.weight, self.bias)
        return F.linear(F.linear(input, self._factor("weight", "v")), self._factor("weight", "u"), self.bias)


class LowRankEmbedding(LowRank):
    """`nn.Embedding` as a look-up in U, (tokens, r), and a product with V, (r, dimension).

    Its kind is that of a linear map of one-hot vectors; where it is tied to an output layer both share the factors.
    """

    kind = "linear"
    settings = ("num_embeddings", "embedding_dim", "padding_idx")

    @staticmethod
    def matrix_kinds(module: nn.Embedding) -> dict[str, str]:
        """See `LowRank.matrix_kinds`; one that rescales its rows at look-up (`max_norm`) stays dense."""
        return {"weight": "embedding"} if module.max_norm is None else {}

    @staticmethod
    def matrix_inputs(module: nn.Embedding, call: Mapping[str, Any], output: Tensor) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`."""
        return {"weight": call["input"].reshape(-1)}

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Embedding`: (...) integers -> (..., dimension)."""
        if self.form == "merged":
            return F.embedding(input, self.weight, self.padding_idx)
        return F.embedding(input, self._factor("weight", "u"), self.padding_idx) @ self._factor("weight", "v")


class LowRankMultiheadAttention(LowRank):
    """`nn.MultiheadAttention` with factored input projections.

    Where queries, keys and values have one size their projections are one matrix, (3 m, n), with one V. The output
    projection is a `Linear` of its own below this module.
    """

    kind = "linear"
    settings = ("embed_dim", "kdim", "vdim", "num_heads", "head_dim", "dropout", "batch_first")
    _qkv_same_embed_dim = False  # Keeps `nn.TransformerEncoderLayer` from its fused kernel, which wants dense weights.

    @staticmethod
    def matrix_kinds(module: nn.MultiheadAttention) -> dict[str, str]:
        """See `LowRank.matrix_kinds`; attention with additional keys and values stays dense."""
        if module.bias_k is not None or module.add_zero_attn:
            return {}
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        return {name: "linear" for name in names if getattr(module, name) is not None}

    @staticmethod
    def matrix_inputs(module: nn.MultiheadAttention, call: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`.

        One matrix for queries, keys and values counts all that its three parts are multiplied with. The output
        projection is computed without a call of it.
        """
        query, key, value = (_vectors(call[name]) for name in ("query", "key", "value"))
        inputs = {"q_proj_weight": query, "k_proj_weight": key, "v_proj_weight": value}
        if module.in_proj_weight is not None:
            same = call["query"] is call["key"] is call["value"]
            inputs = {"in_proj_weight": query if same else torch.cat([query, key, value])}
        attention = LowRankMultiheadAttention(module, {})
        attention.out_proj = nn.Identity()
        attended, _ = attention(**{**call, "need_weights": False})
        return {**inputs, "out_proj.weight": _vectors(attended)}

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Takes and returns what `nn.MultiheadAttention` does; `is_causal` is a hint that the mask makes needless."""
        if query.is_nested:  # So `nn.TransformerEncoder` packs a padded batch; it asks for no weights.
            alone = [self(part, part, part, need_weights=False)[0] for part in query.unbind()]
            return torch.nested.as_nested_tensor(alone), None
        if query.dim() == 2:
            query, key, value = _once(lambda part: part.unsqueeze(0), query, key, value)
            padding = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
            output, weights = self._attend(query, key, value, padding, attn_mask, need_weights, average_attn_weights)
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        if not self.batch_first:
            query, key, value = _once(lambda part: part.transpose(0, 1), query, key, value)
        output, weights = self._attend(
            query, key, value, key_padding_mask, attn_mask, need_weights, average_attn_weights
        )
        return output if self.batch_first else output.transpose(0, 1), weights

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        padding: Tensor | None,
        mask: Tensor | None,
        need_weights: bool,
        average: bool,
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v = (
            part.view(*part.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
            for part in self._project(query, key, value)
        )
        mask = _added(mask, q.dtype)
        if mask is not None and mask.dim() == 3:
            mask = mask.view(-1, self.num_heads, *mask.shape[1:])
        if padding is not None:
            padding = _added(padding, q.dtype)[:, None, None]  # type: ignore[index]
            mask = padding if mask is None else mask + padding
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(2, 3) / self.head_dim**0.5
            weights = F.dropout(torch.softmax(scores if mask is None else scores + mask, dim=3), dropout)
            attended = weights @ v
            weights = weights.mean(1) if average else weights
        else:
            attended = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), weights

    def _project(self, *inputs: Tensor) -> list[Tensor]:
        """Queries, keys and values, (batch, time, embed_dim) each."""
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        if self.form == "merged":
            names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
            same = "in_proj_weight" in self.ranks
            weights = self.in_proj_weight.chunk(3) if same else [getattr(self, name) for name in names]
            return [F.linear(*part) for part in zip(inputs, weights, biases, strict=True)]
        if "in_proj_weight" in self.ranks:
            hidden = _once(lambda part: F.linear(part, self._factor("in_proj_weight", "v")), *inputs)
            parts = zip(hidden, self._factor("in_proj_weight", "u").chunk(3), biases, strict=True)
            return [F.linear(*part) for part in parts]
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
            return [F.linear(*part) for part in zip(inputs, weights, biases, strict=True)]
        projected = []
        for name, part, bias in zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), inputs, biases, strict=True):
            if name in self.ranks:
                part, weight = F.linear(part, self._factor(name, "v")), self._factor(name, "u")
            else:
                weight = getattr(self, name)
            projected.append(F.linear(part, weight, bias))
        return projected


def _vectors(inputs: Tensor) -> Tensor:
    """(..., n) -> (positions, n)."""
    parts = inputs.unbind() if inputs.is_nested else [inputs]
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _once(function: Callable[[Tensor], Tensor], *inputs: Tensor) -> list[Tensor]:
    """The function of each input, computed once where several are the same tensor."""
    found = {id(part): function(part) for part in {id(part): part for part in inputs}.values()}
    return [found[id(part)] for part in inputs]


def _added(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask as what is added to the scores: -inf where a boolean one is True."""
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -torch.inf)


class LowRankConv1d(LowRank):
    """`nn.Conv1d` as a convolution to r channels and a pointwise one; the matrix is (out, in * kernel)."""

    kind = "conv"
    settings = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")

    @staticmethod
    def matrix_kinds(module: nn.Conv1d) -> dict[str, str]:
        """See `LowRank.matrix_kinds`; grouped convolutions and padding other than with zeros stay dense."""
        return {"weight": "conv"} if module.groups == 1 and module.padding_mode == "zeros" else {}

    @staticmethod
    def matrix_inputs(module: nn.Conv1d, call: Mapping[str, Any], output: Tensor) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`: the windows that the kernel sees, zeros of the padding included."""
        inputs = F.pad(call["input"], module._reversed_padding_repeated_twice)
        windows = inputs.unfold(-1, module.dilation[0] * (module.kernel_size[0] - 1) + 1, module.stride[0])
        # (..., in, time, window) -> (..., time, in, kernel)
        seen = windows[..., :: module.dilation[0]].transpose(-3, -2)
        return {"weight": seen.reshape(-1, module.in_channels * module.kernel_size[0])}

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Conv1d`: (batch, in, time) or (in, time)."""
        if self.form == "merged":
            return F.conv1d(input, self.weight, self.bias, self.stride, self.padding, self.dilation)
        reduce = self._factor("weight", "v").view(-1, *self._shapes["weight"][1:])
        expand = self._factor("weight", "u").unsqueeze(-1)
        hidden = F.conv1d(input, reduce, None, self.stride, self.padding, self.dilation)
        return F.conv1d(hidden, expand, self.bias)


class _LowRankRecurrent(LowRank):
    """What LSTM, GRU and their cells share: a kernel of the original type that computes with fewer numbers.

    Where there is just one input matrix (a cell; one layer, one direction) and it is factored, the inputs are
    projected with V and the kernel's input matrix is U. All other factored matrices are multiplied back before the
    kernel runs: a fused kernel over a dense W_hh mostly is faster than a loop over time steps with two thin ones. The
    kernel is no submodule: nothing dense enters the state or the parameter count. Gradients reach U and V.
    """

    replaced: ClassVar[type[nn.Module]]

    def __init__(self, module: nn.Module, factors: Mapping[str, Factors]) -> None:
        super().__init__(module, factors)
        self._names = [name for name, _ in module.named_parameters(recurse=False)]
        inputs = [matrix.name for matrix in self.matrices if matrix.kind.endswith("_ih")]
        self._single_input = inputs[0] if len(inputs) == 1 else None

    @property
    def forms(self) -> tuple[Form, ...]:
        """Merged is another form only where the input matrix is single and factored."""
        return ("factored", "merged") if self._single_input in self.ranks else ("factored",)

    @property
    def _projected(self) -> str | None:
        """The parameter with whose V the inputs are projected."""
        return self._single_input if self._single_input in self.ranks and self.form != "merged" else None

    def _kernel_weights(self) -> dict[str, Tensor]:
        weights = {name: self._product(name) if name in self.ranks else self._parameters[name] for name in self._names}
        if self._projected is not None:
            weights[self._projected] = self._factor(self._projected, "u")
        return {name: weight for name, weight in weights.items() if weight is not None}

    def _empty_kernel(self) -> nn.Module:
        settings = {name: getattr(self, name) for name in self.settings}
        if self._projected is not None:
            settings["input_size"] = self.ranks[self._projected]
        if settings.get("num_layers") == 1:
            settings["dropout"] = 0.0  # It has no effect there but a warning.
        return self.replaced(**settings, device="meta")

    def _frozen_kernel(self) -> nn.Module:
        kernel = self._empty_kernel().requires_grad_(False)
        weights = {name: weight.detach() for name, weight in self._kernel_weights().items()}
        kernel.load_state_dict(weights, assign=True)
        if isinstance(kernel, nn.RNNBase):
            kernel.flatten_parameters()
        return kernel

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Takes and returns what the replaced module does, padded, unbatched and packed sequences included."""
        if self._projected is not None:
            v = self._factor(self._projected, "v")
            if isinstance(input, PackedSequence):
                input = input._replace(data=F.linear(input.data, v))
            else:
                input = F.linear(input, v)
        if self._wants_gradient():
            kernel = self._empty_kernel().train(self.training)
            return torch.func.functional_call(kernel, self._kernel_weights(), (input, hx))
        return self._cached(f"kernel, {self.form}", self._frozen_kernel).train(self.training)(input, hx)


_RNN_SETTINGS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_CELL_SETTINGS = ("input_size", "hidden_size", "bias")


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
    """What enters each layer, and its states before each step, in both directions.

    The states between stacked layers are computed anew, since the module does not return them.
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
    """(time, size) of each sequence in what a recurrent module takes or returns."""
    if isinstance(batch, PackedSequence):
        return unpack_sequence(batch)
    if batch.dim() == 2:
        return [batch]
    return tuple(batch.unbind(0 if module.batch_first else 1))


def _start(hx: Any, index: int) -> tuple[Tensor, ...] | None:
    """A sequence's initial states: (layers * directions, units) each."""
    if hx is None:
        return None
    return tuple(part if part.dim() == 2 else part[:, index] for part in (hx if isinstance(hx, tuple) else (hx,)))


def _run_layer(module: nn.RNNBase, layer: int, inputs: Tensor, start: tuple[Tensor, ...] | None) -> Tensor:
    """One of several stacked layers: (time, size) -> (time, directions * units)."""
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
    """What enters a cell, and its state before."""
    inputs, hx = _vectors(call["input"]), call.get("hx")
    state = inputs.new_zeros(len(inputs), module.hidden_size) if hx is None else hx
    return {"weight_ih": inputs, "weight_hh": _vectors(state[0] if isinstance(state, tuple) else state)}


class _LowRankLSTMBase(_LowRankRecurrent):
    """The LSTM's arithmetic outside a kernel, for one layer in one direction."""

    kind = "lstm"

    @property
    def forms(self) -> tuple[Form, ...]:
        """Stepwise where the one recurrent matrix is factored."""
        recurrent = [matrix.name for matrix in self.matrices if matrix.kind.endswith("_hh")]
        stepwise = self._single_input is not None and recurrent[0] in self.ranks
        return (*super().forms, "stepwise") if stepwise else super().forms

    def _apply_matrix(self, part: str, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """(..., n) -> (..., 4 units) by `weight_{part}` as it is held."""
        name = next(matrix.name for matrix in self.matrices if matrix.kind.endswith(part))
        if name in self.ranks:
            return F.linear(F.linear(inputs, self._factor(name, "v")), self._factor(name, "u"), bias)
        return F.linear(inputs, getattr(self, name), bias)

    def _input_gates(self, inputs: Tensor) -> Tensor:
        """What the gates hear: (..., input size) -> (..., 4 units), both biases included."""
        biases = [getattr(self, name) for name in self._names if name.startswith("bias")]
        return self._apply_matrix("_ih", inputs, sum(biases[1:], biases[0]) if biases else None)

    def _step(self, gates: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """One step of a batch: hidden and cell state, (batch, units) each."""
        into, forget, new, out = (gates + self._apply_matrix("_hh", hidden, None)).chunk(4, dim=1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(into) * torch.tanh(new)
        return torch.sigmoid(out) * torch.tanh(cell), cell


class LowRankLSTM(_LowRankLSTMBase):
    """`nn.LSTM` with factored W_ih or W_hh, of any number of layers and directions."""

    settings = _RNN_SETTINGS
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
        if self.form != "stepwise" or isinstance(input, PackedSequence):
            return super().forward(input, hx)
        batched = input.dim() == 3
        time = 1 if batched and self.batch_first else 0
        gates = self._input_gates(input if batched else input[:, None])
        zeros = gates.new_zeros(gates.shape[1 - time], self.hidden_size)
        # (1, batch, units) or, without a batch, (1, units).
        hidden, cell = (zeros, zeros) if hx is None else (state.reshape(-1, self.hidden_size) for state in hx)
        outputs = []
        for heard in gates.unbind(time):
            hidden, cell = self._step(heard, hidden, cell)
            outputs.append(hidden)
        output = torch.stack(outputs, dim=time)
        if batched:
            return output, (hidden[None], cell[None])
        return output[:, 0], (hidden, cell)


class LowRankGRU(_LowRankRecurrent):
    """`nn.GRU` with factored W_ih or W_hh, of any number of layers and directions."""

    kind = "gru"
    settings = _RNN_SETTINGS
    replaced = nn.GRU

    @staticmethod
    def matrix_kinds(module: nn.GRU) -> dict[str, str]:
        """See `LowRank.matrix_kinds`."""
        return _rnn_kinds("gru", module)

    @staticmethod
    def matrix_inputs(module: nn.GRU, call: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`."""
        return _rnn_inputs(module, call, output)


class LowRankLSTMCell(_LowRankLSTMBase):
    """`nn.LSTMCell` with factored W_ih or W_hh."""

    settings = _CELL_SETTINGS
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
        """As `nn.LSTMCell`: (batch, input size) or (input size,)."""
        if self.form != "stepwise" or input.dim() == 1:
            found: tuple[Tensor, Tensor] = super().forward(input, hx)
            return found
        zeros = input.new_zeros(len(input), self.hidden_size)
        return self._step(self._input_gates(input), *((zeros, zeros) if hx is None else hx))


class LowRankGRUCell(_LowRankRecurrent):
    """`nn.GRUCell` with factored W_ih or W_hh."""

    kind = "gru"
    settings = _CELL_SETTINGS
    replaced = nn.GRUCell

    @staticmethod
    def matrix_kinds(module: nn.GRUCell) -> dict[str, str]:
        """See `LowRank.matrix_kinds`."""
        return {"weight_ih": "gru_ih", "weight_hh": "gru_hh"}

    @staticmethod
    def matrix_inputs(module: nn.GRUCell, call: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`."""
        return _cell_inputs(module, call, output)


LOW_RANK_MODULES: dict[type[nn.Module], type[LowRank]] = {
    nn.Linear: LowRankLinear,
    NonDynamicallyQuantizableLinear: LowRankLinear,  # The output projection of `nn.MultiheadAttention`.
    nn.Embedding: LowRankEmbedding,
    nn.MultiheadAttention: LowRankMultiheadAttention,
    nn.Conv1d: LowRankConv1d,
    nn.LSTM: LowRankLSTM,
    nn.LSTMCell: LowRankLSTMCell,
    nn.GRU: LowRankGRU,
    nn.GRUCell: LowRankGRUCell,
}
"""Module type -> what replaces it. Exactly these types: a subclass may compute something else."""


def module_kind(module: nn.Module) -> str | None:
    """The `Layer.kind` of a module, or of what it replaces; None if its type cannot be compressed."""
    low_rank = type(module) if isinstance(module, LowRank) else LOW_RANK_MODULES.get(type(module))
    return None if low_rank is None else low_rank.kind


def module_matrices(module: nn.Module) -> tuple[Matrix, ...]:
    """The matrices of one module, or of the one it replaces, named by parameter; empty if there are none to factor."""
    if isinstance(module, LowRank):
        return module.matrices
    low_rank = LOW_RANK_MODULES.get(type(module))
    kinds = {} if low_rank is None else low_rank.matrix_kinds(module)
    parameters = dict(module.named_parameters(recurse=False))
    return tuple(
        Matrix(name, rows=len(parameters[name]), columns=parameters[name][0].numel(), kind=kind)
        for name, kind in kinds.items()
        if name in parameters  # Not so where another module computes the weight, as weight normalisation does.
    )
