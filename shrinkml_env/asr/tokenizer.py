"""Subword units."""

from __future__ import annotations

import base64
import io
import string
from collections.abc import Iterable, Sequence
from functools import cached_property

import sentencepiece
import torch

from shrinkml_env.asr.text import characters, lower

__all__ = ["Tokenizer", "normalise"]


_LETTERS = frozenset(string.ascii_lowercase + "'")


def normalise(text: str) -> str:
    """Return a text in lower case, with only the letters a to z, apostrophes and single spaces.

    All other characters become spaces, letters with a combining mark included, in any encoding.
    """
    kept = (letter if letter in _LETTERS else " " for letter in characters(lower(text)))
    return " ".join("".join(kept).split())


class Tokenizer:
    """A sentencepiece model for normalised text, with one special unit that starts and ends every sentence.

    Args:
        model: A serialised sentencepiece model with an end-of-sentence unit.

    Raises:
        ValueError: The bytes are not such a model.
    """

    def __init__(self, model: bytes) -> None:
        self._model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(f"not a sentencepiece model ({error})") from error
        self.eos = int(self._processor.eos_id())
        if self.eos < 0:
            raise ValueError("the sentencepiece model has no end-of-sentence unit")

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
        """Train a byte-pair encoding on normalised texts.

        Args:
            texts: The training texts.
            vocabulary_size: Number of units, the special ones included.

        Raises:
            ValueError: The texts have too many different letters or too few words for this number of units.
        """
        trained = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter([normalise(text) for text in texts]),
                model_writer=trained,
                model_type="bpe",
                vocab_size=vocabulary_size,
                character_coverage=1.0,
                # Text is normalised above; sentencepiece's own rules would only make the model file 30 times larger.
                normalization_rule_name="identity",
                unk_id=0,
                eos_id=1,
                bos_id=-1,
                pad_id=-1,
                minloglevel=1,
            )
        except RuntimeError as error:
            raise ValueError(f"no tokenizer of {vocabulary_size} units can be made of these texts: {error}") from error
        return cls(trained.getvalue())

    @classmethod
    def from_text(cls, text: str) -> Tokenizer:
        """Return the tokenizer that `to_text` serialised."""
        return cls(base64.b64decode(text))

    def to_text(self) -> str:
        """Return the serialised model in base64, for JSON."""
        return base64.b64encode(self._model).decode("ascii")

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    def encode(self, text: str) -> list[int]:
        """Return the units of the normalised text, without the end of sentence."""
        return list(self._processor.encode(normalise(text)))

    def encode_at_random(self, text: str, share: float, generator: torch.Generator) -> list[int]:
        """Return a random segmentation of the text: each unit is split in two with a probability, recursively.

        Subword regularisation helps a model to learn the parts of rare words (Provilkov et al. 2020, BPE-dropout, arXiv
        1910.13267).

        Args:
            text: The text, which is normalised.
            share: The probability of a split, in [0, 1].
            generator: The source of random numbers.
        """
        units: list[int] = []
        pending = self.encode(text)[::-1]
        while pending:
            unit = pending.pop()
            halves = self._halves[unit]
            if halves and float(torch.rand(1, generator=generator)) < share:
                left, right = halves[int(torch.randint(len(halves), (1,), generator=generator))]
                pending += [right, left]
            else:
                units.append(unit)
        return units

    @cached_property
    def _halves(self) -> list[list[tuple[int, int]]]:
        """For each unit, the pairs of units whose concatenation equals it."""
        pieces = [self._processor.id_to_piece(unit) for unit in range(len(self))]
        known = {piece: unit for unit, piece in enumerate(pieces) if not self._processor.is_control(unit)}
        return [
            [
                (known[piece[:cut]], known[piece[cut:]])
                for cut in range(1, len(piece))
                if piece in known and piece[:cut] in known and piece[cut:] in known
            ]
            for piece in pieces
        ]

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        """The text of each unit, spaces included."""
        return tuple(
            "" if self._processor.is_control(unit)
            else " " if self._processor.is_unknown(unit)
            else self._processor.id_to_piece(unit).replace("\u2581", " ")
            for unit in range(len(self))
        )  # fmt: skip

    def decode(self, units: Sequence[int]) -> str:
        """Return the text of units."""
        return str(self._processor.decode(list(units)))

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[bytes]]:
        return (Tokenizer, (self._model,))
