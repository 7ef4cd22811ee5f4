"""Two plain reference implementations of an evaluation, for comparison with the evaluator.

A: for each configuration, compute the SVD of every matrix, replace matrices by truncated products, and recognise one
utterance at a time.
B: compute singular vectors once, and recognise padded batches of 32 utterances sorted by length; otherwise as A.

Both run bidirectional ``nn.LSTM`` modules on packed sequences, implement the other modules in the straightforward way,
decode greedily until every utterance of the batch has ended, and count word errors with jiwer.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import jiwer
import torch
from torch import Tensor, nn
from torch.nn import functional

from shrinkml_env import Utterance
from shrinkml_env.asr import LAS
from shrinkml_env.asr.features import lengths_mask
from shrinkml_env.asr.las_modules import BidirectionalLSTM, EncoderLayer, LocationAwareAttention
from shrinkml_env.compression import Factorisation, matrix_ranks

__all__ = ["Careful", "Straightforward", "spell"]

BATCH = 32


class PackedLSTM(nn.Module):
    """A bidirectional nn.LSTM on packed sequences with the weights of a `BidirectionalLSTM`."""

    def __init__(self, source: BidirectionalLSTM) -> None:
        super().__init__()
        size, units = source.forward_lstm.input_size, source.forward_lstm.hidden_size
        self.lstm = nn.LSTM(size, units, batch_first=True, bidirectional=True)
        self.copy_from(source)

    @torch.no_grad()
    def copy_from(self, source: BidirectionalLSTM) -> None:
        """Copy the weights."""
        for suffix, lstm in ("", source.forward_lstm), ("_reverse", source.backward_lstm):
            for name, parameter in lstm.named_parameters():
                getattr(self.lstm, name + suffix).copy_(parameter)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Compute (batch, time, input_size) -> (batch, time, 2 * units)."""
        packed = nn.utils.rnn.pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return outputs


class PackedEncoderLayer(nn.Module):
    """An `EncoderLayer` on packed sequences."""

    def __init__(self, source: EncoderLayer) -> None:
        super().__init__()
        self.lstm = PackedLSTM(source.lstm)
        self.norm = source.norm
        self.time_reduction = source.time_reduction

    def forward(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (batch, time, input_size) -> (batch, reduced time, 2 * units), and the new lengths."""
        outputs = self.norm(self.lstm(inputs, lengths))
        if self.time_reduction > 1:
            outputs = outputs.masked_fill(~lengths_mask(lengths, outputs.shape[1])[:, :, None], -1e9)
            outputs = functional.max_pool1d(outputs.transpose(1, 2), self.time_reduction, ceil_mode=True)
            outputs = outputs.transpose(1, 2)
            lengths = torch.ceil(lengths / self.time_reduction).long()
        return outputs, lengths


class PlainAttention(nn.Module):
    """A `LocationAwareAttention` without optimisations."""

    def __init__(self, source: LocationAwareAttention) -> None:
        super().__init__()
        self.query, self.key = source.query, source.key
        self.location, self.energy = source.location, source.energy

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor, history: Tensor) -> Tensor:
        """Return the attention weights, (batch, time)."""
        located = self.location(history[:, None]).transpose(1, 2)
        energies = self.energy(torch.tanh(self.query(query)[:, None] + keys + located)).squeeze(2)
        return torch.softmax(energies.masked_fill(~mask, -torch.inf), dim=1)


@torch.inference_mode()
def spell(model: LAS, waveforms: Sequence[Tensor]) -> list[list[int]]:
    """Decode the units of each utterance of one batch greedily, until all have ended or reached their limits."""
    features = [model.features.one(waveform) for waveform in waveforms]
    lengths = torch.tensor([len(feature) for feature in features])
    encoded = nn.utils.rnn.pad_sequence(features, batch_first=True)
    for layer in model.encoder.layers:
        encoded, lengths = layer(encoded, lengths)
    state = model.decoder.start(encoded, lengths)
    limits = [model.decoding.token_limit(waveform.numel()) for waveform in waveforms]
    spelled: list[list[int]] = [[] for _ in waveforms]
    ended = [False] * len(waveforms)
    units = torch.full((len(waveforms),), model.tokenizer.eos)
    while not all(ended):
        logits, state = model.decoder.step(state, units)
        units = logits.argmax(1)
        for index, unit in enumerate(units.tolist()):
            if not ended[index]:
                ended[index] = unit == model.tokenizer.eos or len(spelled[index]) + 1 == limits[index]
                if unit != model.tokenizer.eos:
                    spelled[index].append(unit)
    return spelled


def recognise(model: LAS, waveforms: Sequence[Tensor]) -> list[str]:
    """Return the transcripts of one batch."""
    return [model.normalise(model.tokenizer.decode(units)) for units in spell(model, waveforms)]


class _Reference:
    def __init__(self, model: LAS, utterances: Sequence[Utterance]) -> None:
        self.model = model
        self.utterances = utterances

    def wer(self, ranks: Mapping[str, int]) -> float:
        """Measure the WER of a configuration; layers without an entry are dense."""
        references = [self.model.normalise(utterance.text) for utterance in self.utterances]
        return float(jiwer.wer(references, self.transcripts(ranks)))

    def compressed(self, ranks: Mapping[str, int]) -> LAS:
        """Return the model with truncated matrices in place of the original ones."""
        raise NotImplementedError

    def transcripts(self, ranks: Mapping[str, int]) -> list[str]:
        """Return the transcripts of all utterances."""
        raise NotImplementedError

    @torch.no_grad()
    def _put_back(self, matrices: Mapping[str, Tensor]) -> LAS:
        dense = copy.deepcopy(self.model)
        for name, matrix in matrices.items():
            parameter = dense.get_parameter(name)
            parameter.copy_(matrix.view(parameter.shape))
        layers: Any = dense.encoder.layers
        dense.encoder.layers = nn.ModuleList(PackedEncoderLayer(layer) for layer in layers)
        dense.decoder.attention = PlainAttention(dense.decoder.attention)  # type: ignore[assignment]
        return dense


class Straightforward(_Reference):
    """The reference A."""

    def compressed(self, ranks: Mapping[str, int]) -> LAS:
        """See the module."""
        factored = matrix_ranks(self.model.layers, ranks)
        matrices = {}
        for layer in self.model.layers:
            for matrix in layer.matrices:
                weight = self.model.get_parameter(matrix.name).detach()
                left, values, right = torch.linalg.svd(weight.reshape(matrix.rows, -1), full_matrices=False)
                if matrix.name in factored:
                    rank = factored[matrix.name]
                    matrices[matrix.name] = left[:, :rank] * values[:rank] @ right[:rank]
        return self._put_back(matrices)

    def transcripts(self, ranks: Mapping[str, int]) -> list[str]:
        """See the module."""
        model = self.compressed(ranks)
        return [recognise(model, [utterance.waveform])[0] for utterance in self.utterances]


class Careful(_Reference):
    """The reference B."""

    def __init__(self, model: LAS, utterances: Sequence[Utterance], factorisation: Factorisation) -> None:
        super().__init__(model, utterances)
        self.factorisation = factorisation

    def compressed(self, ranks: Mapping[str, int]) -> LAS:
        """See the module."""
        matrices = {}
        for name, rank in matrix_ranks(self.model.layers, ranks).items():
            factors = self.factorisation.factors(name, rank)
            matrices[name] = factors.u @ factors.v
        return self._put_back(matrices)

    def transcripts(self, ranks: Mapping[str, int]) -> list[str]:
        """See the module."""
        model = self.compressed(ranks)
        order = sorted(range(len(self.utterances)), key=lambda index: self.utterances[index].waveform.numel())
        found: dict[int, str] = {}
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            texts = recognise(model, [self.utterances[index].waveform for index in batch])
            found.update(zip(batch, texts, strict=True))
        return [found[index] for index in range(len(self.utterances))]
