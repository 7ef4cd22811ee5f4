"""Recognition with many compressed versions ("forms") of one LAS model at once, for GPUs.

The first dimension of every tensor is the form, and every matrix product is one batched product over all forms
(``torch.bmm``). Factored matrices are multiplied out, since thin products do not fill a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from shrinkml_env.asr.decoding import Decoding
from shrinkml_env.asr.features import LogMel, lengths_mask
from shrinkml_env.asr.las_modules import BidirectionalLSTM, Decoder, Encoder, LASConfig
from shrinkml_env.asr.tokenizer import Tokenizer, normalise
from shrinkml_env.compression import Hypothesis
from shrinkml_env.compression.modules import lstm_cell

__all__ = ["GroupedLAS"]


class _LASParts(Protocol):
    """The attributes of a `LAS` model, compressed or not, that `GroupedLAS` uses."""

    config: LASConfig
    tokenizer: Tokenizer
    decoding: Decoding
    features: LogMel
    encoder: Encoder
    decoder: Decoder

    def get_submodule(self, target: str) -> nn.Module: ...


@dataclass(frozen=True, slots=True)
class _State:
    """The decoder's state, see `DecoderState`, with one more dimension: (forms, batch, ...) each."""

    values: Tensor
    keys: Tensor
    mask: Tensor
    hidden: Tensor
    cell: Tensor
    context: Tensor
    history: Tensor


class GroupedLAS:
    """A group of compressed versions of one LAS model that recognise at once, by greedy search.

    Args:
        forms: At least one version of the same `LAS` model, compressed or not.

    Raises:
        ValueError: There is no form, or the models use beam search.
    """

    def __init__(self, forms: Sequence[_LASParts]) -> None:
        if not forms:
            raise ValueError("at least one form of the model is needed")
        if forms[0].decoding.beam_size != 1:
            raise ValueError("forms are recognised side by side with greedy search only: beam_size must be 1")
        self._forms = forms
        self._model = forms[0]
        self._lstms = [self._scan_weights(index) for index in range(len(self._model.encoder.layers))]
        self._query, self._key = (self._stack(f"decoder.attention.{part}.weight") for part in ("query", "key"))
        self._input, self._recurrent = (self._stack(f"decoder.lstm.weight_{part}") for part in ("ih", "hh"))
        self._readout, self._output = (self._stack(f"decoder.{part}.weight") for part in ("readout", "output"))

    def recognise(self, waveforms: Sequence[Tensor]) -> list[list[Hypothesis]]:
        """Return the hypotheses of each form for one batch of waveforms: (forms, waveforms)."""
        return [
            [Hypothesis(normalise(self._model.tokenizer.decode(units)), capped) for units, capped in of_form]
            for of_form in self.spell(waveforms)
        ]

    def spell(self, waveforms: Sequence[Tensor]) -> list[list[tuple[list[int], bool]]]:
        """Return, for each form and waveform, the subword units and whether they reached the token limit."""
        with torch.inference_mode():
            features, lengths = self._model.features(waveforms)
            states = features.expand(len(self._forms), *features.shape)
            layers: Any = self._model.encoder.layers
            for index, layer in enumerate(layers):
                outputs = self._scan(index, states, lengths)
                # Normalisation and pooling are the same in all forms, so the forms are one large batch here.
                flat, lengths = layer.reduce(outputs.flatten(0, 1), lengths.repeat(len(self._forms)))
                lengths = lengths[: features.shape[0]]
                states = flat.view(len(self._forms), -1, *flat.shape[1:])
            return self._search(states, lengths, waveforms)

    def _stack(self, name: str) -> Tensor:
        """Return a matrix of all forms, (forms, m, n); a factored one as the product of its factors."""
        path, _, parameter = name.rpartition(".")
        return torch.stack([getattr(form.get_submodule(path), parameter).detach() for form in self._forms])

    def _scan_weights(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return W_ih, W_hh and bias of an encoder layer, (2 * forms, 4 * units, ...): all forward, then backward."""
        found = [form.encoder.lstm_weights(index) for form in self._forms]

        inputs, recurrent, bias = (
            torch.stack([of_form[direction][part].detach() for direction in range(2) for of_form in found])
            for part in range(3)
        )
        return inputs, recurrent, bias

    def _scan(self, index: int, states: Tensor, lengths: Tensor) -> Tensor:
        """Run a bidirectional LSTM of all forms: (forms, batch, time, size) -> (forms, batch, time, 2 * units)."""
        inputs, recurrent, bias = self._lstms[index]
        forms, batch, time, size = states.shape
        reverse = BidirectionalLSTM.reversal(lengths, time)[None, :, :, None]
        both = torch.cat([states, states.gather(2, reverse.expand(forms, batch, time, size))])
        projected = torch.baddbmm(bias[:, None], both.flatten(1, 2), inputs.mT).view(2 * forms, batch, time, -1)
        recurrent = recurrent.mT.contiguous()
        hidden = cell = states.new_zeros(2 * forms, batch, recurrent.shape[1])
        outputs = []
        for step in projected.unbind(2):
            hidden, cell = lstm_cell(torch.baddbmm(step, hidden, recurrent), cell)
            outputs.append(hidden)
        ahead, behind = torch.stack(outputs, dim=2).chunk(2)
        return torch.cat([ahead, behind.gather(2, reverse.expand_as(behind))], dim=3)

    def _search(
        self, states: Tensor, lengths: Tensor, waveforms: Sequence[Tensor]
    ) -> list[list[tuple[list[int], bool]]]:
        model, eos = self._model, self._model.tokenizer.eos
        forms, batch, time, _ = states.shape
        limits = torch.tensor([model.decoding.token_limit(w.numel()) for w in waveforms], device=states.device)
        bias = model.decoder.attention.key.bias
        state = _State(
            values=states,
            keys=torch.baddbmm(bias.expand(forms, 1, -1), states.flatten(1, 2), self._key.mT).view(
                forms, batch, time, -1
            ),
            mask=lengths_mask(lengths, time).expand(forms, batch, time),
            hidden=states.new_zeros(forms, batch, model.config.decoder_units),
            cell=states.new_zeros(forms, batch, model.config.decoder_units),
            context=states.new_zeros(forms, batch, states.shape[3]),
            history=states.new_zeros(forms, batch, time),
        )
        tokens = torch.full((forms, batch, int(limits.max())), eos, device=states.device)
        previous = torch.full((forms, batch), eos, device=states.device)
        alive = torch.ones(forms, batch, dtype=torch.bool, device=states.device)
        ended = ~alive
        for position in range(tokens.shape[2]):
            logits, state = self._step(state, previous)
            previous = torch.where(alive, logits.argmax(2), eos)
            tokens[:, :, position] = previous
            ended |= alive & (previous == eos)
            alive &= (previous != eos) & (position + 1 < limits)
            if not alive.any():
                break
        return [
            [([token for token in row if token != eos], not done) for row, done in zip(rows, of_form, strict=True)]
            for rows, of_form in zip(tokens.tolist(), ended.tolist(), strict=True)
        ]

    def _step(self, state: _State, previous: Tensor) -> tuple[Tensor, _State]:
        """Compute `Decoder.step` for all forms."""
        decoder = self._model.decoder
        forms, batch, time = state.history.shape
        inputs = torch.cat([decoder.embedding(previous), state.context], dim=2)
        bias = decoder.lstm.bias_ih + decoder.lstm.bias_hh
        gates = torch.baddbmm(bias.expand(forms, 1, -1), inputs, self._input.mT)
        gates = torch.baddbmm(gates, state.hidden, self._recurrent.mT)
        hidden, cell = lstm_cell(gates, state.cell)
        query = torch.bmm(hidden, self._query.mT)
        attention = decoder.attention
        located = attention.location(state.history.view(forms * batch, 1, time)).transpose(1, 2)
        energies = attention.energy(torch.tanh(query[:, :, None] + state.keys + located.view(forms, batch, time, -1)))
        weights = torch.softmax(energies.squeeze(3).masked_fill(~state.mask, -torch.inf), dim=2)
        context = torch.einsum("fbt,fbtv->fbv", weights, state.values)
        joined = torch.cat([hidden, context], dim=2)
        readout = torch.tanh(torch.baddbmm(decoder.readout.bias.expand(forms, 1, -1), joined, self._readout.mT))
        logits = torch.baddbmm(decoder.output.bias.expand(forms, 1, -1), readout, self._output.mT)
        history = state.history + weights
        return logits, _State(state.values, state.keys, state.mask, hidden, cell, context, history)
