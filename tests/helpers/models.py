"""Models for tests: a recogniser of another kind than the library's own, and a module with every other shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from shrinkml_env import Utterance
from shrinkml_env.compression import (
    Hypothesis,
    Layer,
    Workload,
    find_layers,
    register_architecture,
    round_to_storage,
)

ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"
WINDOW, HOP, CHANNELS = 320, 160, 40


@register_architecture("tiny_ctc")
class TinyCTC(nn.Module):
    """CTC over characters: log spectrum -> Conv1d -> GRU -> Linear -> Linear, random but seeded weights.

    Its transcripts mean nothing, but they depend on the waveform and on every matrix.
    """

    storage_dtype = torch.float16
    training_only = ("auxiliary",)

    def __init__(self, units: int = 24, seed: int = 0) -> None:
        super().__init__()
        self.units, self.seed = units, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.front = nn.Conv1d(CHANNELS, 32, kernel_size=5, stride=2, padding=2)
            self.gru = nn.GRU(32, units, batch_first=True)
            self.hidden = nn.Linear(units, 32)
            self.output = nn.Linear(32, len(ALPHABET) + 1)
            self.auxiliary = nn.Linear(units, len(ALPHABET) + 1)
            with torch.no_grad():
                for matrix in self.gru.weight_ih_l0, self.gru.weight_hh_l0, self.hidden.weight, self.output.weight:
                    matrix.mul_(4)
        round_to_storage(self)
        self.eval()

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        return find_layers(self, exclude=self.training_only)

    @property
    def decoder_settings(self) -> Mapping[str, Any]:
        return {"search": "best path"}

    def frames(self, num_samples: int) -> int:
        """Frames of the spectrum."""
        return 1 + max(0, num_samples - WINDOW) // HOP

    def logits(self, waveform: Tensor) -> Tensor:
        """(samples,) -> (frames / 2 rounded up, 1 + letters); column 0 is the blank."""
        padded = nn.functional.pad(waveform, (0, max(0, WINDOW - waveform.numel())))
        power = torch.fft.rfft(padded.unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW)).abs().square()
        spectrum = (power[:, 1:].reshape(-1, CHANNELS, 4).mean(2) + 1e-4).log()
        states = torch.tanh(self.front(spectrum.T)).T
        states, _ = self.gru(states[None])
        return self.output(torch.relu(self.hidden(states[0])))

    def recognise(self, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
        with torch.inference_mode():
            return [Hypothesis(self._decode(self.logits(waveform))) for waveform in waveforms]

    def _decode(self, logits: Tensor) -> str:
        path = torch.unique_consecutive(logits.argmax(1)).tolist()
        return self.normalise("".join(ALPHABET[unit - 1] for unit in path if unit))

    def transcribe(self, waveforms: Sequence[Tensor]) -> list[str]:
        return [hypothesis.text for hypothesis in self.recognise(waveforms)]

    def normalise(self, text: str) -> str:
        return " ".join(re.sub("[^a-z']", " ", text.lower()).split())

    def workload(self, num_samples: Sequence[int], texts: Sequence[str]) -> Workload:
        positions = sum((self.frames(samples) + 1) // 2 for samples in num_samples)
        return Workload({matrix.name: positions for layer in self.layers for matrix in layer.matrices}, other_macs=0)

    def to_config(self) -> dict[str, Any]:
        return {"units": self.units, "seed": self.seed}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TinyCTC:
        return cls(**config)


@register_architecture("everything")
class Everything(nn.Module):
    """Grouped, stacked and bidirectional LSTMs, cells, tied weights, buffers. Not a recogniser."""

    storage_dtype = torch.float32
    training_only = ()
    decoder_settings: Mapping[str, Any] = {}

    def __init__(self, units: int = 12) -> None:
        super().__init__()
        self.units = units
        self.embedding = nn.Embedding(20, units)
        self.ahead = nn.LSTM(units, units, batch_first=True)
        self.behind = nn.LSTM(units, units, batch_first=True)
        self.norm = nn.BatchNorm1d(2 * units)
        self.stack = nn.LSTM(2 * units, units, num_layers=2, bidirectional=True)
        self.lstm_cell = nn.LSTMCell(2 * units, units)
        self.gru_cell = nn.GRUCell(units, units, bias=False)
        self.projection = nn.LSTM(units, units, proj_size=3)
        self.grouped = nn.Conv1d(units, units, 3, groups=2)
        self.narrow = nn.Linear(units, 1)
        self.output = nn.Linear(units, 20)
        self.output.weight = self.embedding.weight

    @property
    def layers(self) -> tuple[Layer, ...]:
        return find_layers(self, groups={"encoder": ["ahead", "behind"]})

    def forward(self, units: Tensor) -> Tensor:
        """(batch, time) -> (batch, 20)."""
        embedded = self.embedding(units)
        ahead, _ = self.ahead(embedded)
        behind, _ = self.behind(embedded.flip(1))
        states = self.norm(torch.cat([ahead, behind.flip(1)], dim=2).transpose(1, 2)).permute(2, 0, 1)
        states, _ = self.stack(states)
        hidden, _ = self.lstm_cell(states[-1])
        return self.output(self.gru_cell(hidden))

    def to_config(self) -> dict[str, Any]:
        return {"units": self.units}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Everything:
        return cls(**config)


def tones(count: int = 3, seed: int = 0) -> list[Tensor]:
    """Waveforms with something to hear: chirps in noise, half a second and longer."""
    generator = torch.Generator().manual_seed(seed)
    waveforms = []
    for index in range(count):
        time = torch.arange(8000 + 3217 * index) / 16000
        pitch, rate = 200 + 2000 * torch.rand(2, generator=generator)
        chirp = torch.sin(2 * torch.pi * (pitch + rate * time) * time)
        waveforms.append(0.3 * chirp + 0.05 * torch.randn(len(time), generator=generator))
    return waveforms


def half_recognised(model: TinyCTC, count: int = 5, seed: int = 0) -> list[Utterance]:
    """Utterances whose references are the model's own words, the first exchanged and one added."""
    waveforms = tones(count, seed)
    texts = [" ".join(["word", *text.split()[1:], "more"]) for text in model.transcribe(waveforms)]
    return [
        Utterance(f"{seed}-{index}", "speaker", waveform, text)
        for index, (waveform, text) in enumerate(zip(waveforms, texts, strict=True))
    ]
