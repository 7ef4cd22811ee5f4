"""The LAS recogniser: bidirectional LSTM encoder, location-aware attention, LSTM decoder over subwords."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from shrinkml_env.asr.decoding import Decoding, beam_search, greedy_search
from shrinkml_env.asr.features import LogMel, num_frames
from shrinkml_env.asr.grouped import GroupedLAS
from shrinkml_env.asr.las_modules import Decoder, Encoder, LASConfig
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
from shrinkml_env.data.utterance import as_waveforms

__all__ = ["LAS", "Outputs"]


class Outputs(NamedTuple):
    """The results of a teacher-forced pass.

    Attributes:
        logits: The logits at each target and at the end of sentence, (batch, units + 1, vocabulary).
        states: The output of each encoder layer, (batch, time, 2 * encoder_units); the decoder attends to the last.
        lengths: The lengths of the utterances in each of them, (batch,); states beyond a length are arbitrary.
    """

    logits: Tensor
    states: tuple[Tensor, ...]
    lengths: tuple[Tensor, ...]


@register_architecture("las")
class LAS(nn.Module):
    """Listen, attend and spell with joint CTC/attention training.

    The CTC head (Kim et al. 2017, arXiv 1609.06773) is used in training only.

    Args:
        config: Sizes of the model.
        tokenizer: Subword units.
        decoding: Settings of the decoder.
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
        # The additional unit is CTC's blank.
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
        """All settings that the transcripts depend on, JSON-able."""
        return asdict(self.decoding)

    def forward(self, features: Tensor, lengths: Tensor, previous: Tensor) -> Outputs:
        """Compute a teacher-forced pass, for training.

        Args:
            features: Zero-padded features, (batch, frames, channels).
            lengths: Number of frames of each utterance, (batch,).
            previous: The decoder's input before each target and the end of sentence, (batch, units + 1); the first one
                is the end-of-sentence unit.
        """
        states, reduced = zip(*self.encoder.trace(features, lengths), strict=True)
        return Outputs(self._teacher_forced(states[-1], reduced[-1], previous), states, reduced)

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The layers in each stage: one stage for each encoder layer; `finish` computes attention and decoder."""
        return tuple((f"encoder.{index}",) for index in range(len(self.config.time_reduction)))

    def begin(self, waveforms: Sequence[Tensor]) -> State:
        """Return the features, (batch, frames, channels), and their lengths, (batch,)."""
        features, lengths = self.features(waveforms)
        return features, lengths

    def advance(self, stage: int, state: State) -> State:
        """Compute one encoder layer."""
        states, lengths = state
        return self.encoder.advance(stage, states, lengths)

    def finish(self, waveforms: Sequence[Tensor], state: State) -> list[Hypothesis]:
        """Decode the transcripts from the encoder's states."""
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
        previous = pad_sequence([torch.tensor([end, *text]) for text in units], batch_first=True, padding_value=end)
        logits = self._teacher_forced(encoded, lengths, previous.to(encoded.device))
        return [row[: len(text) + 1].log_softmax(1) for row, text in zip(logits, units, strict=True)]

    def _teacher_forced(self, encoded: Tensor, lengths: Tensor, previous: Tensor) -> Tensor:
        state = self.decoder.start(encoded, lengths)
        logits = []
        for units in previous.unbind(1):
            step, state = self.decoder.step(state, units)
            logits.append(step)
        return torch.stack(logits, dim=1)

    def recognise(self, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
        """Recognise one batch of waveforms: float32 samples at 16 kHz, (samples,) each."""
        return recognise_in_stages(self, waveforms)

    @staticmethod
    def recognise_side_by_side(forms: Sequence[LAS], waveforms: Sequence[Tensor]) -> list[list[Hypothesis]]:
        """See `GroupedModel`; greedy search uses batched matrix products over the models, see `GroupedLAS`."""
        if forms[0].decoding.beam_size != 1:
            return [form.recognise(waveforms) for form in forms]
        return GroupedLAS(forms).recognise(waveforms)

    def transcribe(self, waveforms: Sequence[Tensor]) -> list[str]:
        """Return the transcripts of any number of waveforms: samples at 16 kHz, (samples,) each.

        Full scale is 1 for floats; int16 samples, NumPy arrays and the shape (1, samples) are converted.

        Raises:
            ValueError: The argument is not a list, or an item is not a waveform, is empty, or holds NaN.
        """
        return [hypothesis.text for hypothesis in recognise_in_batches(self, as_waveforms(waveforms))]

    def normalise(self, text: str) -> str:
        """Return the text in lower case, with only letters, apostrophes and single spaces."""
        return normalise(text)

    def workload(self, num_samples: Sequence[int], texts: Sequence[str]) -> Workload:
        """See `CompressibleModel`.

        Encoder matrices count once for each frame of their layer, decoder matrices once for each reference unit and the
        end.
        """
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
        # Multiply-adds for each pair of frame and step: location convolution, energy, weighted sum of the values.
        attention = self.config.attention_units * (self.config.location_width + 1) + 2 * self.config.encoder_units
        return Workload(positions=positions, other_macs=attended * attention)

    def to_config(self) -> dict[str, Any]:
        """Return sizes, tokenizer and decoder settings, JSON-able."""
        return {
            "model": asdict(self.config),
            "tokenizer": self.tokenizer.to_text(),
            "decoding": asdict(self.decoding),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a model with random weights, in evaluation mode."""
        return cls(
            LASConfig(**config["model"]), Tokenizer.from_text(config["tokenizer"]), Decoding(**config["decoding"])
        ).eval()
