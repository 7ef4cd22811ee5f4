"""A LAS model as two exportable programs: from samples to the encoder's states, and one step of the decoder.

They compute the same as the model for one utterance, without padding, and keep matrices factored. All operations can be
exported with dynamic lengths, which is not true of torch's STFT, `nn.LSTM` and pooling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.nn import functional

from shrinkml_env.asr.features import FFT, FLOOR, HOP, MIN_STD, WINDOW, LogMel
from shrinkml_env.asr.las import LAS
from shrinkml_env.asr.las_modules import BidirectionalLSTM
from shrinkml_env.compression.factors import expand_right, times_right
from shrinkml_env.compression.modules import LowRank, lstm_cell

__all__ = ["DecoderStep", "EncoderProgram", "OnnxLSTM", "ScanLSTM", "min_samples"]


def min_samples(model: LAS) -> int:
    """Return the smallest number of samples that the encoder's program accepts, enough for two states.

    Pad shorter waveforms with zeros.
    """
    return max(FFT // 2 + 1, HOP * math.prod(model.config.time_reduction))


class Product(nn.Module):
    """The product with a matrix, dense or factored as in its module: x -> W x.

    Args:
        module: An `nn.LSTM` or `nn.LSTMCell`, or a low-rank module in its place.
        name: Name of the parameter.
        order: Order of the gates, each a quarter of the rows, as indices into torch's order; None keeps torch's order.
    """

    def __init__(self, module: nn.Module, name: str, order: Sequence[int] | None = None) -> None:
        super().__init__()
        factored = isinstance(module, LowRank) and name in module.ranks
        left = _in_order(_parameter(module, f"{name}_u" if factored else name), order)
        self.left = nn.Parameter(left, requires_grad=False)
        self.right = nn.Parameter(_parameter(module, f"{name}_v"), requires_grad=False) if factored else None
        columns = module.factors(name).order if isinstance(module, LowRank) and factored else None
        self.register_buffer("order", None if columns is None else columns.int())

    order: Tensor | None

    def share_right(self, other: Product) -> None:
        """Use another product's right factor if it is the same, so that a program holds it once."""
        if self.right is None or other.right is None or not torch.equal(self.right, other.right):
            return
        if self.order is None or other.order is None or torch.equal(self.order, other.order):
            self.right, self.order = other.right, other.order

    def reduce(self, inputs: Tensor) -> Tensor:
        """Multiply by the right factor: (..., n) -> (..., r); return the inputs unchanged if the matrix is dense."""
        return inputs if self.right is None else times_right(inputs, self.right, self.order)

    def expanded(self) -> Tensor:
        """Return the right factor V of a factored matrix, (r, n)."""
        assert self.right is not None
        return expand_right(self.right, self.order)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute W x for each input x: (..., n) -> (..., m)."""
        return functional.linear(self.reduce(inputs), self.left)

    def dense(self) -> Tensor:
        """Return W, (m, n)."""
        return self.left if self.right is None else self.left @ self.expanded()


def _parameter(module: nn.Module, name: str) -> Tensor:
    return cast(Tensor, module._parameters[name]).detach().clone()


def _in_order(values: Tensor, order: Sequence[int] | None) -> Tensor:
    return values if order is None else torch.cat([values.chunk(4)[gate] for gate in order])


class ScanLSTM(nn.Module):
    """A `BidirectionalLSTM` by torch's scan over time, with both directions in the same batched products."""

    def __init__(self, source: BidirectionalLSTM) -> None:
        super().__init__()
        ways = (source.forward_lstm, source.backward_lstm)
        ahead, behind = (Product(way, "weight_ih_l0") for way in ways)
        behind.share_right(ahead)
        self.inputs = nn.ModuleList([ahead, behind])
        bias = [_parameter(way, "bias_ih_l0") + _parameter(way, "bias_hh_l0") for way in ways]
        self.bias = nn.Parameter(torch.stack(bias), requires_grad=False)
        self.recurrent = nn.ModuleList(Product(way, "weight_hh_l0") for way in ways)

    def products(self) -> list[Tensor]:
        """Return the matrices to multiply states by, in order: (2, n, r) and (2, r, m) if factored, or (2, n, m)."""
        recurrent: Any = list(self.recurrent)
        if all(product.right is not None for product in recurrent):
            # If the directions' ranks differ, factors are padded with zeros, which do not change the product.
            rank = max(len(product.right) for product in recurrent)
            factors = [
                [functional.pad(product.expanded(), (0, 0, 0, rank - len(product.right))) for product in recurrent],
                [functional.pad(product.left, (0, rank - len(product.right))) for product in recurrent],
            ]
        else:
            factors = [[product.dense() for product in recurrent]]
        return [torch.stack(pair).mT.contiguous() for pair in factors]

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute (time, size) -> (time, 2 * units)."""
        ahead, behind = (product(part) for product, part in zip(self.inputs, (inputs, inputs.flip(0)), strict=True))
        gates = torch.stack([ahead, behind], dim=1) + self.bias
        products = self.products()

        def step(state: list[Tensor], gates: Tensor) -> tuple[list[Tensor], Tensor]:
            hidden, cell = state
            recurrent = hidden[:, None]
            for matrix in products:
                recurrent = torch.bmm(recurrent, matrix)
            hidden, cell = lstm_cell(gates + recurrent[:, 0], cell)
            return [hidden, cell], hidden.clone()

        start = gates.new_zeros(2, gates.shape[2] // 4)
        _, outputs = scan(step, [start, start.clone()], gates)
        return torch.cat([outputs[:, 0], outputs[:, 1].flip(0)], dim=1)


class OnnxLSTM(nn.Module):
    """A `BidirectionalLSTM` as two LSTM operators of ONNX; it can only be exported, not run in torch."""

    def __init__(self, source: BidirectionalLSTM) -> None:
        super().__init__()
        self.ahead = _OnnxDirection(source.forward_lstm, "forward")
        self.behind = _OnnxDirection(source.backward_lstm, "reverse")
        self.behind.inputs.share_right(self.ahead.inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute (time, size) -> (time, 2 * units)."""
        return torch.cat([self.ahead(inputs), self.behind(inputs)], dim=1)


class _OnnxDirection(nn.Module):
    """One direction of `OnnxLSTM`: one LSTM operator.

    The right factor of W_ih is applied before the operator. A factored W_hh stays factored in the file; the product of
    its factors is a constant expression, which onnxruntime computes once when it loads the file.
    """

    ORDER = (0, 3, 1, 2)
    """The indices in torch's order of ONNX's gates: input, output, forget, cell."""

    def __init__(self, source: nn.Module, direction: str) -> None:
        super().__init__()
        self.inputs, self.recurrent = (Product(source, f"weight_{part}_l0", self.ORDER) for part in ("ih", "hh"))
        bias = [_in_order(_parameter(source, f"bias_{part}_l0"), self.ORDER) for part in ("ih", "hh")]
        self.bias = nn.Parameter(torch.cat(bias), requires_grad=False)
        self.direction = direction

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute (time, size) -> (time, units)."""
        units = len(self.bias) // 8
        weights = [weight[None] for weight in (self.inputs.left, self.recurrent.dense(), self.bias)]
        outputs = torch.onnx.ops.symbolic(
            "LSTM",
            [self.inputs.reduce(inputs)[:, None], *weights],
            {"hidden_size": units, "direction": self.direction},
            dtype=inputs.dtype,
            shape=(inputs.shape[0], 1, 1, units),
            version=14,
        )
        return outputs[:, 0, 0]


class EncoderProgram(nn.Module):
    """The encoder: from the samples of one utterance to the attention's values and keys.

    Args:
        model: The model.
        lstm: Makes the replacement of each `BidirectionalLSTM`: `ScanLSTM` or `OnnxLSTM`.
    """

    def __init__(self, model: LAS, lstm: Callable[[BidirectionalLSTM], nn.Module]) -> None:
        super().__init__()
        self.features = Features(model.features)
        layers: Any = model.encoder.layers
        self.lstms = nn.ModuleList(lstm(layer.lstm) for layer in layers)
        self.norms = nn.ModuleList(layer.norm for layer in layers)
        self.factors = model.config.time_reduction
        self.key = model.decoder.attention.key

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Encode samples at 16 kHz, (samples,): return values, (time, 2 * units), and keys, (time, attention units)."""
        states = self.features(waveform)
        for lstm, norm, factor in zip(self.lstms, self.norms, self.factors, strict=True):
            states = norm(lstm(states))
            if factor > 1:
                size = states.shape[0]
                windows = factor * torch.arange((size + factor - 1) // factor)[:, None] + torch.arange(factor)
                # An incomplete last window is filled with the last frame, which does not change the maximum.
                states = states[windows.clamp(max=size - 1)].amax(1)
        return states, self.key(states)


class Features(nn.Module):
    """The features of `LogMel`, equal up to rounding."""

    def __init__(self, source: LogMel) -> None:
        super().__init__()
        self.register_buffer("window", source.window.clone())
        self.register_buffer("filters", source.filters.clone())

    window: Tensor
    filters: Tensor

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the features of at least `min_samples` samples: (samples,) -> (frames, channels)."""
        # The position of the window in the transform changes only the phase.
        padded = functional.pad(waveform[None], (WINDOW // 2, WINDOW // 2), mode="reflect")[0]
        spectrum = torch.fft.rfft(padded.unfold(0, WINDOW, HOP) * self.window, n=FFT)
        energies = torch.log(torch.view_as_real(spectrum).square().sum(-1) @ self.filters + FLOOR)
        centred = energies - energies.mean(0, keepdim=True)
        return centred / (centred.square().mean(0, keepdim=True).sqrt() + MIN_STD)


class DecoderStep(nn.Module):
    """One step of the decoder, for any number of hypotheses ("rows") of one utterance."""

    def __init__(self, model: LAS) -> None:
        super().__init__()
        decoder = model.decoder
        self.embedding, self.readout, self.output = decoder.embedding, decoder.readout, decoder.output
        attention = decoder.attention
        self.query, self.location, self.energy = attention.query, attention.location, attention.energy
        self.inputs, self.recurrent = (Product(decoder.lstm, name) for name in ("weight_ih", "weight_hh"))
        bias = _parameter(decoder.lstm, "bias_ih") + _parameter(decoder.lstm, "bias_hh")
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(
        self,
        previous: Tensor,
        values: Tensor,
        keys: Tensor,
        hidden: Tensor,
        cell: Tensor,
        context: Tensor,
        history: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Compute the logits of the next unit and the new state; the state before the first unit is zeros.

        Args:
            previous: Previous units, (rows,).
            values: Values of `EncoderProgram`, (time, values).
            keys: Keys of `EncoderProgram`, (time, keys).
            hidden: LSTM output, (rows, units).
            cell: LSTM cell state, (rows, units).
            context: Last output of the attention, (rows, values).
            history: Sum of the attention weights so far, (rows, time).

        Returns:
            Logits, (rows, vocabulary); then the new hidden, cell, context and history.
        """
        inputs = torch.cat([self.embedding(previous), context], dim=1)
        hidden, cell = lstm_cell(self.inputs(inputs) + self.recurrent(hidden) + self.bias, cell)
        located = self.location(history[:, None]).transpose(1, 2)
        energies = self.energy(torch.tanh(self.query(hidden)[:, None] + keys + located)).squeeze(2)
        weights = torch.softmax(energies, dim=1)
        context = weights @ values
        readout = torch.tanh(self.readout(torch.cat([hidden, context], dim=1)))
        return self.output(readout), hidden, cell, context, history + weights
