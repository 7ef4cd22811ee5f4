"""The recogniser: bidirectional LSTM encoder, location-aware attention, LSTM decoder over subwords."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from shrinkml_env.asr.decoding import DecoderState, Decoding, beam_search, greedy_search
from shrinkml_env.asr.features import LogMel, lengths_mask, num_frames
from shrinkml_env.asr.tokenizer import Tokenizer, normalise
from shrinkml_env.compression import (
    Hypothesis,
    Layer,
    State,
    Workload,
    find_layers,
    recognise_in_batches,
    recognise_in_stages,
    register_architecture,
)

__all__ = ["LAS", "LASConfig", "Outputs"]

_LOWEST = -1e4
"""Stands for minus infinity where a maximum is taken, in every number format."""


@dataclass(frozen=True, slots=True)
class LASConfig:
    """Sizes of a `LAS` model.

    Attributes:
        mel_channels: Log-mel channels.
        encoder_units: LSTM units per direction.
        time_reduction: One factor for each encoder layer: its output is max-pooled over so many frames.
        attention_units: Dimension in which queries, keys and locations meet.
        location_width: Frames that the location convolution sees; odd.
        embedding_units: Dimension of the subword embedding.
        decoder_units: Units of the decoder's LSTM.
        readout_units: Units between decoder state, context and output.
        dropout: Probability, in training.
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

    def encoder_lengths(self, frames: int) -> list[int]:
        """Frames that enter each encoder layer, and at the end those that leave the last one."""
        lengths = [frames]
        for factor in self.time_reduction:
            lengths.append(math.ceil(lengths[-1] / factor))
        return lengths


class Outputs(NamedTuple):
    """What a teacher-forced pass computes.

    Attributes:
        logits: For the targets and the end of sentence, (batch, units + 1, vocabulary).
        states: What each encoder layer hands on, (batch, time, 2 * encoder_units); the decoder attends to the last.
        lengths: Time steps of each utterance in each of them, (batch,); what stands behind is arbitrary.
    """

    logits: Tensor
    states: tuple[Tensor, ...]
    lengths: tuple[Tensor, ...]


class BidirectionalLSTM(nn.Module):
    """Two LSTMs, one of them over each utterance reversed within its own length.

    Exact on padded batches without packed sequences, which torch runs far slower on CPUs.
    """

    def __init__(self, input_size: int, units: int) -> None:
        super().__init__()
        self.forward_lstm = nn.LSTM(input_size, units, batch_first=True)
        self.backward_lstm = nn.LSTM(input_size, units, batch_first=True)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """(batch, time, input_size) -> (batch, time, 2 * units); what stands behind an utterance's end is arbitrary."""
        reverse = self.reversal(lengths, inputs.shape[1])
        ahead, _ = self.forward_lstm(inputs)
        behind, _ = self.backward_lstm(take_frames(inputs, reverse))
        return torch.cat([ahead, take_frames(behind, reverse)], dim=2)

    @staticmethod
    def reversal(lengths: Tensor, size: int) -> Tensor:
        """(batch, size): which frame stands where when each utterance is reversed, and when it is restored."""
        time = torch.arange(size, device=lengths.device)
        # Where padding begins the index stays in place, so the same gather reverses and restores.
        return torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)


def take_frames(inputs: Tensor, index: Tensor) -> Tensor:
    """Frames of each utterance, (batch, time, size) by (batch, time)."""
    batch, time, size = inputs.shape
    # Whole rows of one large matrix: several times faster on CPUs than a gather, which looks up every number.
    rows = index + time * torch.arange(batch, device=index.device)[:, None]
    return inputs.reshape(batch * time, size).index_select(0, rows.view(-1)).view(batch, time, size)


def _tanh(inputs: Tensor) -> Tensor:
    """Several times faster on CPUs than torch.tanh, and the same within float32's rounding of 1."""
    return 2 * torch.sigmoid(2 * inputs) - 1


class EncoderLayer(nn.Module):
    """A bidirectional LSTM, layer normalisation, and max-pooling over time."""

    def __init__(self, input_size: int, units: int, time_reduction: int) -> None:
        super().__init__()
        self.lstm = BidirectionalLSTM(input_size, units)
        self.norm = nn.LayerNorm(2 * units)
        self.time_reduction = time_reduction

    def forward(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, time, input_size) -> (batch, ceil(time / time_reduction), 2 * units) and the new lengths."""
        return self.reduce(self.lstm(inputs, lengths), lengths)

    def reduce(self, outputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What follows the LSTM: (batch, time, 2 * units) -> (batch, reduced time, 2 * units) and the new lengths."""
        return max_pool_time(self.norm(outputs), lengths, self.time_reduction)


def max_pool_time(outputs: Tensor, lengths: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Largest values of each `factor` frames, for (batch, time, size) of these lengths; and the new lengths.

    Writes to `outputs`.
    """
    if factor > 1:
        padding = ~lengths_mask(lengths, outputs.shape[1])[:, :, None]
        # Far below anything normalised, but finite: some windows hold nothing but padding.
        outputs = outputs.masked_fill_(padding, _LOWEST)
        missing = -outputs.shape[1] % factor
        if missing:
            outputs = functional.pad(outputs, (0, 0, 0, missing), value=_LOWEST)
        outputs = outputs.view(len(outputs), -1, factor, outputs.shape[2]).amax(2)
        lengths = -(-lengths // factor)
    return outputs, lengths


class Encoder(nn.Module):
    """Features -> states, fewer in time."""

    def __init__(self, config: LASConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.make_layers(config))
        self.dropout = nn.Dropout(config.dropout)

    @staticmethod
    def make_layers(config: LASConfig) -> list[nn.Module]:
        """With random weights."""
        sizes = [config.mel_channels] + [2 * config.encoder_units] * (len(config.time_reduction) - 1)
        return [
            EncoderLayer(size, config.encoder_units, factor)
            for size, factor in zip(sizes, config.time_reduction, strict=True)
        ]

    def advance(self, index: int, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """One layer: (batch, time, size) -> (batch, reduced time, 2 * units), and the new lengths (batch,)."""
        states, lengths = self.layers[index](states, lengths)
        return self.dropout(states), lengths

    def lstm_weights(self, index: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of one layer: W_ih, W_hh and the sum of both biases, of the forward and of the backward LSTM."""
        lstm: Any = self.layers[index].lstm
        return [
            (part.weight_ih_l0, part.weight_hh_l0, part.bias_ih_l0 + part.bias_hh_l0)
            for part in (lstm.forward_lstm, lstm.backward_lstm)
        ]

    def trace(self, features: Tensor, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Layer by layer: (batch, frames, channels) -> (batch, time, 2 * units), (batch,)."""
        states = features
        for index in range(len(self.layers)):
            states, lengths = self.advance(index, states, lengths)
            yield states, lengths

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frames, channels) -> (batch, time, 2 * units), (batch,)."""
        *_, last = self.trace(features, lengths)
        return last


class LocationAwareAttention(nn.Module):
    """Additive attention that also sees where it looked before (Chorowski et al. 2015, arXiv 1506.07503).

    e_t = w . tanh(W s + V h_t + (F * a)_t) with a the sum of all earlier weights, so that what was read is known.
    """

    def __init__(self, config: LASConfig) -> None:
        super().__init__()
        units, width = config.attention_units, config.location_width
        self.query = nn.Linear(config.decoder_units, units, bias=False)
        self.key = nn.Linear(2 * config.encoder_units, units)
        self.location = nn.Conv1d(1, units, width, padding=width // 2, bias=False)
        self.energy = nn.Linear(units, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor, history: Tensor) -> Tensor:
        """Weights (batch, time) from the decoder's state, the projected keys, and the earlier weights' sum."""
        located = self.location(history[:, None]).transpose(1, 2)
        energies = self.energy(_tanh(self.query(query)[:, None] + keys + located)).squeeze(2)
        # In float32 also under autocast: the weights are summed up over the whole utterance.
        return torch.softmax(energies.masked_fill(~mask, -torch.inf), dim=1, dtype=torch.float32)


class Decoder(nn.Module):
    """One subword at a time from the encoder's states."""

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
        """The state before the first subword."""
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
        """Previous subwords (batch,) -> logits (batch, vocabulary) of the next, and the state after it."""
        embedded = self.dropout(self.embedding(previous))
        hidden, cell = self.lstm(torch.cat([embedded, state.context], dim=1), (state.hidden, state.cell))
        weights = self.attention(hidden, state.keys, state.mask, state.history)
        context = torch.bmm(weights[:, None], state.values).squeeze(1)
        readout = torch.tanh(self.readout(torch.cat([hidden, context], dim=1)))
        logits = self.output(self.dropout(readout))
        return logits, replace(state, hidden=hidden, cell=cell, context=context, history=state.history + weights)


@register_architecture("las")
class LAS(nn.Module):
    """Listen, attend and spell with joint CTC/attention training.

    Args:
        config: Sizes.
        tokenizer: Subword units.
        decoding: How to search for transcripts.

    The CTC head (Kim et al. 2017, arXiv 1609.06773) exists in training only.
    """

    architecture = "las"
    storage_dtype = torch.float16
    training_only = ("ctc.",)
    encoder_path = "encoder"
    encoder_class: ClassVar[type[Encoder]] = Encoder

    def __init__(self, config: LASConfig, tokenizer: Tokenizer, decoding: Decoding) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.decoding = decoding
        self.features = LogMel(config.mel_channels)
        self.encoder = self.encoder_class(config)
        self.decoder = Decoder(config, len(tokenizer))
        # One unit more than the tokenizer has: CTC's blank.
        self.ctc = nn.Linear(2 * config.encoder_units, len(tokenizer) + 1)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Encoder layers (both directions together), attention projections, decoder LSTM, readout and output."""
        groups = {
            f"encoder.{index}": [
                f"encoder.layers.{index}.lstm.forward_lstm",
                f"encoder.layers.{index}.lstm.backward_lstm",
            ]
            for index in range(len(self.config.time_reduction))
        }
        return find_layers(self, groups, exclude=("ctc", "decoder.attention.location", "decoder.embedding"))

    @property
    def decoder_settings(self) -> dict[str, Any]:
        """How transcripts are searched for."""
        return asdict(self.decoding)

    def forward(self, features: Tensor, lengths: Tensor, previous: Tensor) -> Outputs:
        """Teacher-forced training pass.

        Args:
            features: (batch, frames, channels), zero-padded.
            lengths: Frames of each utterance, (batch,).
            previous: What the decoder is told to have said before each of the targets and the end of sentence,
                (batch, units + 1); an end of sentence comes first.
        """
        states, reduced = zip(*self.encoder.trace(features, lengths), strict=True)
        return Outputs(self._told(states[-1], reduced[-1], previous), states, reduced)

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """Each encoder layer is one; attention and decoder are the rest."""
        return tuple((f"encoder.{index}",) for index in range(len(self.config.time_reduction)))

    def begin(self, waveforms: Sequence[Tensor]) -> State:
        """Features (batch, frames, channels) and their lengths (batch,)."""
        features, lengths = self.features(waveforms)
        return features, lengths

    def advance(self, stage: int, state: State) -> State:
        """One encoder layer."""
        states, lengths = state
        return self.encoder.advance(stage, states, lengths)

    def finish(self, waveforms: Sequence[Tensor], state: State) -> list[Hypothesis]:
        """Attend and spell."""
        encoded, lengths = state
        start = self.decoder.start(encoded, lengths)
        limits = torch.tensor([self.decoding.token_limit(waveform.numel()) for waveform in waveforms])
        search = greedy_search if self.decoding.beam_size == 1 else beam_search
        found = search(self.decoder.step, start, limits.to(encoded.device), self.tokenizer.eos, self.decoding)
        return [Hypothesis(text=normalise(self.tokenizer.decode(units)), capped=capped) for units, capped in found]

    def predict(self, waveforms: Sequence[Tensor], state: State, texts: Sequence[str]) -> list[Tensor]:
        """See `PredictiveModel.predict`; the units are subwords."""
        encoded, lengths = state
        units = [self.tokenizer.encode(text) for text in texts]
        end = self.tokenizer.eos
        told = pad_sequence([torch.tensor([end, *spelled]) for spelled in units], batch_first=True, padding_value=end)
        logits = self._told(encoded, lengths, told.to(encoded.device))
        return [row[: len(spelled) + 1].log_softmax(1) for row, spelled in zip(logits, units, strict=True)]

    def _told(self, encoded: Tensor, lengths: Tensor, previous: Tensor) -> Tensor:
        state = self.decoder.start(encoded, lengths)
        logits = []
        for units in previous.unbind(1):
            step, state = self.decoder.step(state, units)
            logits.append(step)
        return torch.stack(logits, dim=1)

    def recognise(self, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
        """Recognise one batch of waveforms, (samples,) each."""
        return recognise_in_stages(self, waveforms)

    @staticmethod
    def recognise_side_by_side(forms: Sequence[LAS], waveforms: Sequence[Tensor]) -> list[list[Hypothesis]]:
        """What several compressed forms of one model recognise in one batch, by batched matrix products over them."""
        from shrinkml_env.asr.grouped import GroupedLAS

        if forms[0].decoding.beam_size != 1:
            return [form.recognise(waveforms) for form in forms]
        return GroupedLAS(forms).recognise(waveforms)

    def transcribe(self, waveforms: Sequence[Tensor]) -> list[str]:
        """The texts of any number of waveforms: float32 samples at 16 kHz, (samples,) each."""
        return [hypothesis.text for hypothesis in recognise_in_batches(self, waveforms)]

    def normalise(self, text: str) -> str:
        """Lower case, letters and apostrophes."""
        return normalise(text)

    def workload(self, num_samples: Sequence[int], texts: Sequence[str]) -> Workload:
        """Encoder matrices work once a frame of their layer, decoder matrices once a reference unit and the end."""
        encoder = [0] * (len(self.config.time_reduction) + 1)
        steps = 0
        attended = 0
        for samples, text in zip(num_samples, texts, strict=True):
            lengths = self.config.encoder_lengths(num_frames(samples))
            encoder = [total + length for total, length in zip(encoder, lengths, strict=True)]
            units = len(self.tokenizer.encode(text)) + 1
            steps += units
            attended += units * lengths[-1]
        positions = {}
        for layer in self.layers:
            for matrix in layer.matrices:
                if matrix.name.startswith("encoder.layers."):
                    positions[matrix.name] = encoder[int(matrix.name.split(".")[2])]
                elif matrix.name.startswith("decoder.attention.key"):
                    positions[matrix.name] = encoder[-1]
                else:
                    positions[matrix.name] = steps
        # For every frame and step: location convolution, energy, and the context's weighted sum.
        attention = self.config.attention_units * (self.config.location_width + 1) + 2 * self.config.encoder_units
        return Workload(positions=positions, other_macs=attended * attention)

    def to_config(self) -> dict[str, Any]:
        """Sizes, tokenizer and search, as JSON."""
        return {
            "model": asdict(self.config),
            "tokenizer": self.tokenizer.to_text(),
            "decoding": asdict(self.decoding),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A model with random weights, in evaluation mode."""
        return cls(
            LASConfig(**config["model"]), Tokenizer.from_text(config["tokenizer"]), Decoding(**config["decoding"])
        ).eval()
