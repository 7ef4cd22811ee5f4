"""The adapter to Whisper."""

from __future__ import annotations

import fnmatch
import importlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from shrinkml_env.asr.decoding import Decoding
from shrinkml_env.asr.huggingface.folder import import_transformers
from shrinkml_env.asr.huggingface.seq2seq import HuggingFaceSeq2Seq
from shrinkml_env.asr.text import compose, words
from shrinkml_env.compression import Hypothesis, State, recognise_in_stages, register_architecture

__all__ = ["HuggingFaceWhisper"]

_BRACKETS = re.compile(r"[<\[][^>\]]*[>\]]|\([^)]+\)")
"""Annotations in brackets, such as ``[music]``, which are not spoken."""


def _language_codes() -> dict[str, str]:
    """Return the codes of all languages that Whisper models may support: ``{"german": "de"}``."""
    codes: dict[str, str] = importlib.import_module("transformers.models.whisper.tokenization_whisper").TO_LANGUAGE_CODE
    return codes


@register_architecture("hf_whisper")
class HuggingFaceWhisper(HuggingFaceSeq2Seq):
    """An adapter to transformers' WhisperForConditionalGeneration, without timestamps.

    For utterances of up to 30 s the transcripts equal those of transformers' `generate`. Longer utterances are cut into
    equal parts.

    Args:
        files: File name -> content, see `HuggingFaceModel`.
        decoding: The limits on each utterance's tokens, see `HuggingFaceSeq2Seq`.
        language: The language of the speech for a multilingual model, such as ``"en"``; None for the one in its files,
            or else English.
        network: The transformers model; None makes one with random weights.

    Raises:
        ValueError: The model does not support the language, or its files do not allow choosing one.
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
        _ = self.prompt  # raises an error for a wrong language

    @property
    def prompt(self) -> list[int]:
        """The tokens before the transcript: start, language and task (of a multilingual model), no timestamps.

        As in transformers' `generate`, language and task are taken from ``forced_decoder_ids`` if no language is named.

        Raises:
            ValueError: The model does not support the language, or its files do not allow choosing one.
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
        """The tokens after the start that older files force (language and task); a None leaves the language open."""
        forced = getattr(self.generation, "forced_decoder_ids", None)
        forced = forced or getattr(self.network.config, "forced_decoder_ids", None) or []
        if [position for position, _ in forced] != list(range(1, len(forced) + 1)):
            raise ValueError(f"generation_config.json: forced_decoder_ids must be at positions 1, 2, ..., got {forced}")
        return [token for _, token in forced]

    @cached_property
    def is_english(self) -> bool:
        """Whether the prompt names English, or no language."""
        codes = set(_language_codes().values())
        marks = (token.strip("<|>") for token in self.tokenizer.convert_ids_to_tokens(self.prompt))
        return all(mark == "en" for mark in marks if mark in codes)

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The layers in each stage: the convolutions, each encoder layer, the decoder's attention to the encoder.

        The last stage computes the keys and values of all encoder states; `finish` computes the rest of the decoder.
        """
        layers = range(len(self.network.model.encoder.layers))
        patterns = [
            "encoder.conv*",
            *(f"encoder.layers.{index}.*" for index in layers),
            "decoder.layers.*.encoder_attn",
        ]
        names = [layer.name for layer in self.layers]
        return tuple(tuple(fnmatch.filter(names, pattern)) for pattern in patterns)

    def begin(self, waveforms: Sequence[Tensor]) -> State:
        """Return the log-mel features of each part of each utterance, (1, channels, frames)."""
        return tuple(self.features(part) for waveform in waveforms for part in self._parts(waveform))

    def advance(self, stage: int, state: State) -> State:
        """Compute one stage: the encoder's part by part, then the keys and values of all parts as one batch.

        The state after the last stage is the encoder's states, (parts, time, size), and for each layer of the decoder
        their keys and values, (parts, heads, time, size / heads) each.
        """
        encoder = self.network.model.encoder
        if stage == len(encoder.layers) + 1:
            states = torch.stack([encoder.layer_norm(hidden)[0] for hidden in state])
            heads = (*states.shape[:2], self.network.config.decoder_attention_heads, -1)
            attentions = [layer.encoder_attn for layer in self.network.model.decoder.layers]
            projections = [
                projection for attention in attentions for projection in (attention.k_proj, attention.v_proj)
            ]
            return states, *(project(states).view(heads).transpose(1, 2).contiguous() for project in projections)
        if stage > 0:
            return tuple(encoder.layers[stage - 1](hidden, None) for hidden in state)
        positions = encoder.embed_positions.weight
        return tuple(
            functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(features)))).transpose(1, 2) + positions
            for features in state
        )

    def finish(self, waveforms: Sequence[Tensor], state: State) -> list[Hypothesis]:
        """Decode all parts as one batch, and join the transcripts of each utterance's parts."""
        parts = [self._parts(waveform) for waveform in waveforms]
        samples = [part.numel() for utterance in parts for part in utterance]
        found = iter(self.spell({"encoder_hidden_states": state[0]}, samples, self._cache(state)))
        whole = [list(islice(found, len(utterance))) for utterance in parts]
        return [
            Hypothesis(" ".join(part.text for part in joined), any(part.capped for part in joined)) for joined in whole
        ]

    def predict(self, waveforms: Sequence[Tensor], state: State, texts: Sequence[str]) -> list[Tensor]:
        """See `PredictiveModel.predict`; the vocabulary is that of all tokens, those that are never generated included.

        Raises:
            ValueError: An utterance is longer than 30 s: it is recognised in parts, for which there are no transcripts.
        """
        if len(state[0]) > len(waveforms):
            longest = max(waveform.numel() for waveform in waveforms) / 16_000
            raise ValueError(
                f"an utterance of {longest:.1f} s is recognised in parts, which have no transcripts of their own: the "
                "divergence is for utterances of at most 30 s; leave out longer ones, or take a reward of the WER"
            )
        # Whisper's texts begin with a space, which `recognise` strips.
        tokens = [self._tokens(f" {text}") for text in texts]
        return self.teacher_forced({"encoder_hidden_states": state[0]}, tokens, self._cache(state))

    @staticmethod
    def _cache(state: State) -> Any:
        """Return a cache of transformers that holds the keys and values of the encoder's states, and no token's."""
        transformers = import_transformers()
        encoded = transformers.DynamicCache()
        for layer, (keys, values) in enumerate(zip(state[1::2], state[2::2], strict=True)):
            encoded.update(keys, values, layer)
        return transformers.EncoderDecoderCache(transformers.DynamicCache(), encoded)

    def recognise(self, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
        """Recognise one batch of waveforms: float32 samples at 16 kHz, (samples,) each."""
        return recognise_in_stages(self, waveforms)

    def normalise(self, text: str) -> str:
        """Normalise a text as Whisper does.

        For English, Whisper's normaliser unifies spelling and numbers. For other languages the result is words in lower
        case, without text in brackets, and apostrophes separate words; combining marks are kept, which Whisper drops.
        """
        if self.is_english:
            return str(self._english(compose(text))).strip()
        return words(unicodedata.normalize("NFKC", _BRACKETS.sub("", text)), besides="")

    @cached_property
    def _english(self) -> Any:
        import_transformers()
        module = importlib.import_module("transformers.models.whisper.english_normalizer")
        return module.EnglishTextNormalizer(json.loads(self.files.get("normalizer.json", "{}")))

    def runs(self, num_samples: int, num_tokens: int) -> list[tuple[int, int]]:
        """See `HuggingFaceSeq2Seq.runs`; every part is 30 s for the encoder, and the tokens are divided evenly."""
        count = self._num_parts(num_samples)
        frames = self.network.config.max_source_positions * 2
        return [(frames, (num_tokens + part) // count) for part in range(count)]

    @cached_property
    def window(self) -> int:
        """The number of samples in 30 s: the encoder takes as long for a short utterance as for so many."""
        return int(self.feature_extractor.n_samples)

    def _parts(self, waveform: Tensor) -> tuple[Tensor, ...]:
        return waveform.tensor_split(self._num_parts(waveform.numel()))

    def _num_parts(self, num_samples: int) -> int:
        return max(1, math.ceil(num_samples / self.window))

    def to_config(self) -> dict[str, Any]:
        """Return the files as text, the decoder settings and the language, JSON-able."""
        return {**super().to_config(), "language": self.language}
