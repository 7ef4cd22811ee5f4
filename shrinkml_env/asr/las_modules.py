"""The parts of a `LAS` model: bidirectional LSTM encoder, location-aware attention, LSTM decoder over subwords."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from shrinkml_env.asr.decoding import DecoderState
from shrinkml_env.asr.features import lengths_mask
from shrinkml_env.checks import number, whole_number

__all__ = [
    "BidirectionalLSTM",
    "Decoder",
    "Encoder",
    "EncoderLayer",
    "LASConfig",
    "LocationAwareAttention",
    "max_pool_time",
    "take_frames",
]

_LOWEST = -1e4
"""Used as minus infinity under a maximum; every floating-point dtype can represent it."""


@dataclass(frozen=True, slots=True)
class LASConfig:
    """Sizes of a `LAS` model.

    Attributes:
        mel_channels: Number of log-mel channels.
        encoder_units: Encoder LSTM units per direction.
        time_reduction: For each encoder layer, the number of frames that are max-pooled into one.
        attention_units: Dimension of queries, keys and location features.
        location_width: Kernel size of the location convolution, in frames; odd.
        embedding_units: Dimension of the subword embedding.
        decoder_units: Units of the decoder's LSTM.
        readout_units: Units of the hidden layer between the decoder's state and the output.
        dropout: Dropout probability in training, in [0, 1].

    Raises:
        ValueError: A size is below 1, there is no encoder layer, or another number is out of range.
    """

    mel_channels: int = 80
    encoder_units: int = 192
    time_reduction: tuple[int, ...] = (3, 2, 1, 1, 1, 1)
    attention_units: int = 128
    location_width: int = 31
    embedding_units: int = 128
    decoder_units: int = 320
    readout_units: int = 256
    dropout: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "time_reduction", tuple(self.time_reduction))  # a config file gives a list
        if not self.time_reduction:
            raise ValueError("time_reduction must have a number for each encoder layer, and has none")
        sizes = {field.name: getattr(self, field.name) for field in fields(self)}
        number("dropout", sizes.pop("dropout"), at_least=0, at_most=1)
        for factor in sizes.pop("time_reduction"):
            whole_number("time_reduction", factor, least=1)
        for name, size in sizes.items():
            whole_number(name, size, least=1)
        if self.location_width % 2 == 0:
            raise ValueError(f"location_width must be odd, got {self.location_width}")

    def encoder_lengths(self, frames: int) -> list[int]:
        """Return the number of input frames of each encoder layer, and last the output frames of the last layer."""
        lengths = [frames]
        for factor in self.time_reduction:
            lengths.append(math.ceil(lengths[-1] / factor))
        return lengths


class BidirectionalLSTM(nn.Module):
    """Two LSTMs, of which the second reads each utterance reversed within its own length.

    It is exact on padded batches without packed sequences, which are far slower on CPUs.
    """

    def __init__(self, input_size: int, units: int) -> None:
        super().__init__()
        self.forward_lstm = nn.LSTM(input_size, units, batch_first=True)
        self.backward_lstm = nn.LSTM(input_size, units, batch_first=True)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Compute (batch, time, input_size) -> (batch, time, 2 * units); outputs at padded frames are arbitrary."""
        reverse = self.reversal(lengths, inputs.shape[1])
        ahead, _ = self.forward_lstm(inputs)
        behind, _ = self.backward_lstm(take_frames(inputs, reverse))
        return torch.cat([ahead, take_frames(behind, reverse)], dim=2)

    @staticmethod
    def reversal(lengths: Tensor, size: int) -> Tensor:
        """Return the frame indices, (batch, size), that reverse each utterance; the same indices restore its order."""
        time = torch.arange(size, device=lengths.device)
        # Padding keeps its place, so that the permutation is its own inverse.
        return torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)


def take_frames(inputs: Tensor, index: Tensor) -> Tensor:
    """Select frames of each utterance: inputs (batch, time, size), indices (batch, time) -> (batch, time, size)."""
    batch, time, size = inputs.shape
    # Selecting rows of one large matrix is several times faster on CPUs than a gather of single numbers.
    rows = index + time * torch.arange(batch, device=index.device)[:, None]
    return inputs.reshape(batch * time, size).index_select(0, rows.view(-1)).view(batch, time, size)


def _tanh(inputs: Tensor) -> Tensor:
    """Compute tanh, several times faster on CPUs than torch.tanh; they differ by about float32's rounding of 1."""
    return 2 * torch.sigmoid(2 * inputs) - 1


class EncoderLayer(nn.Module):
    """A bidirectional LSTM, layer normalisation, and max-pooling over time."""

    def __init__(self, input_size: int, units: int, time_reduction: int) -> None:
        super().__init__()
        self.lstm = BidirectionalLSTM(input_size, units)
        self.norm = nn.LayerNorm(2 * units)
        self.time_reduction = time_reduction

    def forward(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (batch, time, input_size) -> (batch, ceil(time / time_reduction), 2 * units), and the new lengths."""
        return self.reduce(self.lstm(inputs, lengths), lengths)

    def reduce(self, outputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise and pool: (batch, time, 2 * units) -> (batch, reduced time, 2 * units), and the new lengths."""
        return max_pool_time(self.norm(outputs), lengths, self.time_reduction)


def max_pool_time(outputs: Tensor, lengths: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Max-pool groups of `factor` frames within each utterance: (batch, time, size) -> (batch, reduced time, size).

    Args:
        outputs: The frames; padding is overwritten in place.
        lengths: Number of frames of each utterance, (batch,).
        factor: Number of frames in a group.

    Returns:
        The pooled frames and the new lengths, (batch,).
    """
    if factor > 1:
        padding = ~lengths_mask(lengths, outputs.shape[1])[:, :, None]
        # Finite, because some groups consist of padding only.
        outputs = outputs.masked_fill_(padding, _LOWEST)
        missing = -outputs.shape[1] % factor
        if missing:
            outputs = functional.pad(outputs, (0, 0, 0, missing), value=_LOWEST)
        outputs = outputs.view(len(outputs), -1, factor, outputs.shape[2]).amax(2)
        lengths = -(-lengths // factor)
    return outputs, lengths


class Encoder(nn.Module):
    """The encoder: a stack of layers that turns features into states, and reduces their number in time."""

    def __init__(self, config: LASConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.make_layers(config))
        self.dropout = nn.Dropout(config.dropout)

    @staticmethod
    def make_layers(config: LASConfig) -> list[nn.Module]:
        """Return layers with random weights."""
        sizes = [config.mel_channels] + [2 * config.encoder_units] * (len(config.time_reduction) - 1)
        return [
            EncoderLayer(size, config.encoder_units, factor)
            for size, factor in zip(sizes, config.time_reduction, strict=True)
        ]

    def advance(self, index: int, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute one layer: (batch, time, size) -> (batch, reduced time, 2 * units), and the new lengths, (batch,)."""
        states, lengths = self.layers[index](states, lengths)
        return self.dropout(states), lengths

    def lstm_weights(self, index: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return W_ih, W_hh and the sum of both biases of one layer, for the forward and for the backward LSTM."""
        lstm: Any = self.layers[index].lstm
        return [
            (part.weight_ih_l0, part.weight_hh_l0, part.bias_ih_l0 + part.bias_hh_l0)
            for part in (lstm.forward_lstm, lstm.backward_lstm)
        ]

    def trace(self, features: Tensor, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the states, (batch, time, 2 * units), and lengths, (batch,), after each layer."""
        states = features
        for index in range(len(self.layers)):
            states, lengths = self.advance(index, states, lengths)
            yield states, lengths

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute all layers: (batch, frames, channels) -> (batch, time, 2 * units), and the new lengths, (batch,)."""
        *_, last = self.trace(features, lengths)
        return last


class LocationAwareAttention(nn.Module):
    """Additive attention that depends on its earlier weights (Chorowski et al. 2015, arXiv 1506.07503).

    e_t = w . tanh(W s + V h_t + (F * a)_t), where a is the sum of all earlier weights.
    """

    def __init__(self, config: LASConfig) -> None:
        super().__init__()
        units, width = config.attention_units, config.location_width
        self.query = nn.Linear(config.decoder_units, units, bias=False)
        self.key = nn.Linear(2 * config.encoder_units, units)
        self.location = nn.Conv1d(1, units, width, padding=width // 2, bias=False)
        self.energy = nn.Linear(units, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor, history: Tensor) -> Tensor:
        """Return the attention weights, (batch, time).

        Args:
            query: The decoder's hidden state, (batch, units).
            keys: The projected encoder states, (batch, time, attention_units).
            mask: True for frames that are not padding, (batch, time).
            history: The sum of all earlier weights, (batch, time).
        """
        located = self.location(history[:, None]).transpose(1, 2)
        energies = self.energy(_tanh(self.query(query)[:, None] + keys + located)).squeeze(2)
        # In float32 also under autocast, because the weights are summed over the utterance.
        return torch.softmax(energies.masked_fill(~mask, -torch.inf), dim=1, dtype=torch.float32)


class Decoder(nn.Module):
    """The decoder, which predicts one subword at a time from the encoder's states."""

    def __init__(self, config: LASConfig, vocabulary: int) -> None:
        super().__init__()
        context = 2 * config.encoder_units
        self.units = config.decoder_units
        self.embedding = nn.Embedding(vocabulary, config.embedding_units)
        self.attention = LocationAwareAttention(config)
        self.lstm = nn.LSTMCell(config.embedding_units + context, config.decoder_units)
        self.readout = nn.Linear(config.decoder_units + context, config.readout_units)
        self.output = nn.Linear(config.readout_units, vocabulary)
        self.dropout = nn.Dropout(config.dropout)

    def start(self, encoded: Tensor, lengths: Tensor) -> DecoderState:
        """Return the state before the first subword."""
        batch, time, context = encoded.shape
        return DecoderState(
            values=encoded,
            keys=self.attention.key(encoded),
            mask=lengths_mask(lengths, time),
            hidden=encoded.new_zeros(batch, self.units),
            cell=encoded.new_zeros(batch, self.units),
            context=encoded.new_zeros(batch, context),
            history=torch.zeros(batch, time, device=encoded.device),
        )

    def step(self, state: DecoderState, previous: Tensor) -> tuple[Tensor, DecoderState]:
        """Compute one step: previous subwords (batch,) -> logits of the next (batch, vocabulary), and the new state."""
        embedded = self.dropout(self.embedding(previous))
        hidden, cell = self.lstm(torch.cat([embedded, state.context], dim=1), (state.hidden, state.cell))
        weights = self.attention(hidden, state.keys, state.mask, state.history)
        context = torch.bmm(weights[:, None], state.values).squeeze(1)
        readout = torch.tanh(self.readout(torch.cat([hidden, context], dim=1)))
        logits = self.output(self.dropout(readout))
        return logits, replace(state, hidden=hidden, cell=cell, context=context, history=state.history + weights)
