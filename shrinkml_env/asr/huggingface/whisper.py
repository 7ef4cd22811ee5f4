"""Whisper."""

from __future__ import annotations

import importlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from shrinkml_env.asr.decoding import Decoding
from shrinkml_env.asr.huggingface.folder import import_transformers
from shrinkml_env.asr.huggingface.seq2seq import HuggingFaceSeq2Seq
from shrinkml_env.asr.text import compose, words
from shrinkml_env.compression import Hypothesis, State, recognise_in_stages, register_architecture

__all__ = ["HuggingFaceWhisper"]

_BRACKETS = re.compile(r"[<\[][^>\]]*[>\]]|\([^)]+\)")
"""Remarks, ``[music]``, that are not spoken."""


def _language_codes() -> dict[str, str]:
    """Return the languages that Whisper models may know, by name: ``{"german": "de"}``."""
    codes: dict[str, str] = importlib.import_module("transformers.models.whisper.tokenization_whisper").TO_LANGUAGE_CODE
    return codes


@register_architecture("hf_whisper")
class HuggingFaceWhisper(HuggingFaceSeq2Seq):
    """transformers' WhisperForConditionalGeneration, without timestamps.

    Up to 30 s the transcripts are those of transformers' `generate`. Longer utterances are cut into equal parts.

    Args:
        files: As `HuggingFaceModel`.
        decoding: As `HuggingFaceSeq2Seq`.
        language: What a multilingual model is told to hear, ``"en"``; None for what its files say, or else English.
        network: As `HuggingFaceModel`.

    Raises:
        ValueError: The language is none that the model can be told (see `prompt`).
    """

    model_types = ("whisper",)
    no_layers = ("network.model.encoder.embed_positions",)

    def __init__(
        self,
        files: Mapping[str, str],
        decoding: Decoding | None = None,
        language: str | None = None,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__(files, decoding, network)
        self.language = language
        _ = self.prompt  # A wrong language is told at once.

    @property
    def prompt(self) -> list[int]:
        """Start, language and task where there are several, and that no timestamps are wanted.

        As in transformers' `generate`, ``forced_decoder_ids`` say so where no language is named.

        Raises:
            ValueError: The language is none that the model knows, or its files do not let one be chosen.
        """
        generation = self.generation
        prompt = [generation.decoder_start_token_id]
        named = self.language or getattr(generation, "language", None)
        known = getattr(generation, "lang_to_id", None) or {}
        multilingual = getattr(generation, "is_multilingual", None)
        forced = self._forced
        if forced and forced[0] is not None and named is None:
            prompt += forced
        elif known and multilingual is not False:
            language = str(named or "en").lower()
            token = f"<|{_language_codes().get(language, language)}|>"
            if token not in known:
                raise ValueError(f"language {language!r}: the model knows {', '.join(known)}")
            prompt += [known[token], generation.task_to_id["transcribe"]]
        elif multilingual is False:
            if self.language is not None and self.language.lower() not in ("en", "english"):
                raise ValueError(f"language {self.language!r}: the model knows English only")
        elif self.language is not None or forced or multilingual:
            raise ValueError(
                f"language {self.language!r}: generation_config.json is outdated and does not let it be chosen; "
                "take that of the original model, or put the language's token into its forced_decoder_ids"
            )
        no_timestamps = getattr(generation, "no_timestamps_token_id", None)
        return prompt if no_timestamps is None or no_timestamps in prompt else [*prompt, no_timestamps]

    @property
    def _forced(self) -> list[int | None]:
        """The tokens behind the start by which older files say language and task; None leaves the language open."""
        forced = getattr(self.generation, "forced_decoder_ids", None)
        forced = forced or getattr(self.network.config, "forced_decoder_ids", None) or []
        if [position for position, _ in forced] != list(range(1, len(forced) + 1)):
            raise ValueError(f"generation_config.json: forced_decoder_ids must be at positions 1, 2, ..., got {forced}")
        return [token for _, token in forced]

    @cached_property
    def hears_english(self) -> bool:
        """Whether the prompt names English, or no language."""
        codes = set(_language_codes().values())
        marks = (token.strip("<|>") for token in self.tokenizer.convert_ids_to_tokens(self.prompt))
        return all(mark == "en" for mark in marks if mark in codes)

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The convolutions, then each layer of the encoder; the decoder is the rest."""
        names = [layer.name for layer in self.layers]
        prefixes = [f"encoder.layers.{index}." for index in range(len(self.network.model.encoder.layers))]
        return tuple(tuple(name for name in names if name.startswith(prefix)) for prefix in ("encoder.conv", *prefixes))

    def begin(self, waveforms: Sequence[Tensor]) -> State:
        """Log-mel features, (1, channels, frames), of each part of each utterance."""
        return tuple(self.features(part) for waveform in waveforms for part in self._parts(waveform))

    def advance(self, stage: int, state: State) -> State:
        """One stage, part by part."""
        encoder = self.network.model.encoder
        if stage > 0:
            return tuple(encoder.layers[stage - 1](hidden, None) for hidden in state)
        positions = encoder.embed_positions.weight
        return tuple(
            functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(features)))).transpose(1, 2) + positions
            for features in state
        )

    def finish(self, waveforms: Sequence[Tensor], state: State) -> list[Hypothesis]:
        """Spell all parts together, and join them."""
        parts = [self._parts(waveform) for waveform in waveforms]
        found = iter(self.spell(self._encoded(state), [part.numel() for utterance in parts for part in utterance]))
        whole = [list(islice(found, len(utterance))) for utterance in parts]
        return [
            Hypothesis(" ".join(part.text for part in heard), any(part.capped for part in heard)) for heard in whole
        ]

    def predict(self, waveforms: Sequence[Tensor], state: State, texts: Sequence[str]) -> list[Tensor]:
        """See `PredictiveModel.predict`; the units are tokens, those that are never written among them.

        Raises:
            ValueError: An utterance is longer than 30 s: it is heard in parts, which have no transcripts of their own.
        """
        if len(state) > len(waveforms):
            longest = max(waveform.numel() for waveform in waveforms) / 16_000
            raise ValueError(
                f"an utterance of {longest:.1f} s is heard in parts, which have no transcripts of their own: the "
                "divergence is for utterances of at most 30 s; leave out longer ones, or take a reward of the WER"
            )
        # Its texts begin with a space, which transcripts have lost.
        return self.told(self._encoded(state), [self._tokens(f" {text}") for text in texts])

    def _encoded(self, state: State) -> list[Tensor]:
        return [self.network.model.encoder.layer_norm(hidden)[0] for hidden in state]

    def recognise(self, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
        """Recognise one batch of waveforms, (samples,) each."""
        return recognise_in_stages(self, waveforms)

    def normalise(self, text: str) -> str:
        """Return the text as Whisper's tokenizer normalises it.

        In English, spelling and numbers are made uniform. In other languages it is words in lower case, without what
        stands in brackets, and apostrophes separate words; unlike Whisper's, which drops them, marks stay on letters.
        """
        if self.hears_english:
            return str(self._english(compose(text))).strip()
        return words(unicodedata.normalize("NFKC", _BRACKETS.sub("", text)), besides="")

    @cached_property
    def _english(self) -> Any:
        import_transformers()
        module = importlib.import_module("transformers.models.whisper.english_normalizer")
        return module.EnglishTextNormalizer(json.loads(self.files.get("normalizer.json", "{}")))

    def runs(self, num_samples: int, num_tokens: int) -> list[tuple[int, int]]:
        """The encoder sees 30 s, however short the utterance; tokens are shared out among the parts."""
        count = self._num_parts(num_samples)
        frames = self.network.config.max_source_positions * 2
        return [(frames, (num_tokens + part) // count) for part in range(count)]

    def _parts(self, waveform: Tensor) -> tuple[Tensor, ...]:
        return waveform.tensor_split(self._num_parts(waveform.numel()))

    def _num_parts(self, num_samples: int) -> int:
        return max(1, math.ceil(num_samples / int(self.feature_extractor.n_samples)))

    def to_config(self) -> dict[str, Any]:
        """The files, as text, the limits and the language."""
        return {**super().to_config(), "language": self.language}
