"""Greedy and beam search over an attention decoder, for whole batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from shrinkml_env.checks import number, whole_number
from shrinkml_env.data.utterance import SAMPLE_RATE

__all__ = ["DecoderState", "Decoding", "SearchState", "Step", "beam_search", "greedy_search"]


@dataclass(frozen=True, slots=True)
class Decoding:
    """The settings of the decoder.

    The limit on an utterance's tokens is `tokens_base` + `tokens_per_second` * duration. It depends only on the
    utterance, so that a broken model costs no more time than a sound one, and batching does not change transcripts.

    Attributes:
        beam_size: Number of hypotheses kept for each utterance, at least 1; 1 is greedy search.
        tokens_per_second: Tokens allowed for each second of speech, at least 0.
        tokens_base: Tokens allowed in addition, for any duration, at least 0.
        length_penalty: Exponent of beam search's ranking by log-probability / tokens ** length_penalty, at least 0.

    Raises:
        ValueError: A number is out of range.
    """

    beam_size: int = 1
    tokens_per_second: float = 10.0
    tokens_base: int = 8
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("beam_size", 1), ("tokens_base", 0)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least=least))
        for name in ("tokens_per_second", "length_penalty"):
            number(name, getattr(self, name), at_least=0)

    def token_limit(self, num_samples: int) -> int:
        """Return the limit on tokens, the end of sentence included, for an utterance of this many samples."""
        return self.tokens_base + math.ceil(self.tokens_per_second * num_samples / SAMPLE_RATE)


@dataclass(frozen=True, slots=True)
class DecoderState:
    """The state of the LAS decoder in each utterance of a batch.

    Attributes:
        values: Encoder states, (batch, time, values).
        keys: Encoder states projected for the attention, (batch, time, keys).
        mask: True for frames that are not padding, (batch, time).
        hidden: LSTM output, (batch, units).
        cell: LSTM cell state, (batch, units).
        context: Last output of the attention, (batch, values).
        history: Sum of the attention weights so far, (batch, time).
    """

    values: Tensor
    keys: Tensor
    mask: Tensor
    hidden: Tensor
    cell: Tensor
    context: Tensor
    history: Tensor

    def select(self, rows: Tensor) -> DecoderState:
        """Return the state of these rows of the batch, in this order."""
        return DecoderState(*(getattr(self, field.name)[rows] for field in fields(self)))


_KEEP = 0.75
"""Finished utterances are removed from the batch when at most this share of it is unfinished, since copying a state
takes time as well."""


class SearchState(Protocol):
    """The state of a decoder in each utterance of a batch."""

    def select(self, rows: Tensor) -> Self:
        """Return the state of these rows of the batch, in this order; the old state is not used any more."""


StateT = TypeVar("StateT", bound=SearchState)

Step = Callable[[StateT, Tensor], tuple[Tensor, StateT]]
"""A function of (state, previous tokens (batch,)) that returns (logits (batch, vocabulary), next state)."""


def greedy_search(
    step: Step[StateT], state: StateT, limits: Tensor, eos: int, settings: Decoding
) -> list[tuple[list[int], bool]]:
    """Decode greedily: take the most probable token at each step.

    Args:
        step: One step of the decoder.
        state: The state before the first token.
        limits: Largest number of tokens of each utterance, (batch,).
        eos: The token that starts and ends a sentence.
        settings: Not used.

    Returns:
        For each utterance its tokens without the end of sentence, and whether it reached its limit.
    """
    batch = len(limits)
    tokens = torch.full((batch, int(limits.max())), eos, device=limits.device)
    previous = torch.full((batch,), eos, device=limits.device)
    # The utterances that the state belongs to, and which of them are unfinished.
    rows = torch.arange(batch, device=limits.device)
    alive = torch.ones_like(rows, dtype=torch.bool)
    for position in range(tokens.shape[1]):
        logits, state = step(state, previous)
        previous = torch.where(alive, logits.argmax(dim=1), eos)
        tokens[rows, position] = previous
        alive &= (previous != eos) & (position + 1 < limits[rows])
        left = int(alive.sum())
        if not left:
            break
        if left <= _KEEP * len(rows):
            kept = alive.nonzero().squeeze(1)
            state, rows, previous, alive = state.select(kept), rows[kept], previous[kept], alive[kept]
    found = []
    for row, limit in zip(tokens.tolist(), limits.tolist(), strict=True):
        length = row.index(eos) if eos in row[:limit] else limit
        found.append((row[:length], length == limit))
    return found


def beam_search(
    step: Step[DecoderState], state: DecoderState, limits: Tensor, eos: int, settings: Decoding
) -> list[tuple[list[int], bool]]:
    """Decode with beam search; return the hypothesis with the best length-normalised log-probability.

    Every hypothesis of every utterance is a row of one batch. A finished hypothesis keeps its score and its place in
    the beam until better ones replace it; an utterance is finished when all hypotheses of its beam are, or at its
    limit.

    Args:
        step: One step of the decoder.
        state: The state before the first token.
        limits: Largest number of tokens of each utterance, (batch,).
        eos: The token that starts and ends a sentence.
        settings: The beam's size and the length penalty.

    Returns:
        For each utterance its tokens without the end of sentence, and whether it reached its limit.
    """
    batch, beam = len(limits), settings.beam_size
    device = limits.device
    state = state.select(torch.arange(batch, device=device).repeat_interleave(beam))
    # Only the first row of each beam starts; otherwise all rows would hold the same hypothesis.
    scores = torch.full((batch, beam), -torch.inf, device=device)
    scores[:, 0] = 0.0
    lengths = torch.zeros(batch, beam, device=device)
    done = torch.zeros(batch, beam, dtype=torch.bool, device=device)
    previous = torch.full((batch * beam,), eos, device=device)
    history = torch.empty(batch * beam, 0, dtype=torch.long, device=device)
    stopped = torch.zeros(batch, dtype=torch.bool, device=device)
    offsets = torch.arange(batch, device=device)[:, None] * beam
    for position in range(int(limits.max())):
        logits, state = step(state, previous)
        steps = logits.log_softmax(1).view(batch, beam, -1)
        vocabulary = steps.shape[2]
        frozen = done | stopped[:, None]
        # A finished hypothesis has one continuation, the end of sentence, with log-probability 0.
        steps = steps.masked_fill(frozen[:, :, None], -torch.inf)
        steps[:, :, eos] = torch.where(frozen, 0.0, steps[:, :, eos])
        totals = scores[:, :, None] + steps
        grown = lengths + (~frozen)
        ranking = totals / grown.clamp(min=1)[:, :, None] ** settings.length_penalty
        choice = ranking.view(batch, -1).topk(beam, dim=1).indices
        origin, token = choice // vocabulary, choice % vocabulary
        scores = totals.view(batch, -1).gather(1, choice)
        lengths = grown.gather(1, origin)
        was_done = done.gather(1, origin)
        done = was_done | (~stopped[:, None] & (token == eos))
        rows = (offsets + origin).view(-1)
        state = state.select(rows)
        previous = token.view(-1)
        history = torch.cat([history[rows], previous[:, None]], dim=1)
        stopped |= (position + 1 >= limits) | done.all(dim=1)
        if stopped.all():
            break
    best = (scores / lengths.clamp(min=1) ** settings.length_penalty).argmax(dim=1)
    winners = history.view(batch, beam, -1)[torch.arange(batch, device=device), best]
    finished = done[torch.arange(batch, device=device), best]
    return [
        ([token for token in row if token != eos], not ended)
        for row, ended in zip(winners.tolist(), finished.tolist(), strict=True)
    ]
