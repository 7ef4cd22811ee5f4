"""Adapters to encoder-decoder transformers: their base class, Speech2Text and Moonshine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from shrinkml_env.asr.decoding import Decoding, greedy_search
from shrinkml_env.asr.features import lengths_mask
from shrinkml_env.asr.huggingface.base import HuggingFaceModel
from shrinkml_env.asr.huggingface.folder import import_transformers, unpacked
from shrinkml_env.asr.workloads import convolutions, lengths_after, matrices_below, shortest_before
from shrinkml_env.compression import Hypothesis, Workload, register_architecture

__all__ = ["HuggingFaceMoonshine", "HuggingFaceSeq2Seq", "HuggingFaceSpeech2Text"]

LIMITS = Decoding(tokens_per_second=6.5)
"""The limit that Moonshine's model card recommends for English; 1.5 times what Whisper writes for the fastest speech of
LibriSpeech."""


@dataclass
class _State:
    """The decoder's state.

    Attributes:
        encoder_arguments: The decoder's arguments that depend on the encoder, (batch, ...) each.
        cache: Cached keys and values of the tokens so far, and of the encoder's states; None if there are none yet.
    """

    encoder_arguments: dict[str, Tensor]
    cache: Any = None

    @property
    def is_first(self) -> bool:
        """Whether the decoder has not read its prompt yet."""
        return self.cache is None or self.cache.get_seq_length() == 0

    def select(self, rows: Tensor) -> _State:
        """See `SearchState`."""
        if self.cache is not None:
            self.cache.batch_select_indices(rows)
        return _State({name: values[rows] for name, values in self.encoder_arguments.items()}, self.cache)


class HuggingFaceSeq2Seq(HuggingFaceModel):
    """The base class of adapters to encoder-decoder transformers, with greedy search.

    Utterances are encoded one by one, since padding would affect their states, and decoded as one batch.

    Args:
        files: File name -> content, see `HuggingFaceModel`.
        decoding: The limits on each utterance's tokens; None for `LIMITS`.
        network: The transformers model; None makes one with random weights.

    Attributes:
        decoding: The decoder settings.

    Raises:
        ValueError: `decoding` asks for beam search.
    """

    auto_class = "AutoModelForSpeechSeq2Seq"
    encoder_path = "network.model.encoder"

    def __init__(
        self, files: Mapping[str, str], decoding: Decoding | None = None, network: nn.Module | None = None
    ) -> None:
        super().__init__(files, network)
        self.decoding = LIMITS if decoding is None else decoding
        if self.decoding.beam_size != 1:
            raise ValueError(f"Hugging Face models are searched greedily: beam_size must be 1, not {decoding}")

    @cached_property
    def generation(self) -> Any:
        """The generation settings of transformers: those of ``generation_config.json``, or else of the model."""
        generation_config = import_transformers().GenerationConfig
        if "generation_config.json" not in self.files:
            return generation_config.from_model_config(self.network.config)
        with unpacked(self.files) as folder:
            return generation_config.from_pretrained(folder, local_files_only=True)

    @property
    def prompt(self) -> list[int]:
        """The tokens that precede the transcript in the decoder's input."""
        forced = self.generation.forced_bos_token_id
        return [self.generation.decoder_start_token_id, *([] if forced is None else [forced])]

    @property
    def end(self) -> int:
        """The token that ends a transcript.

        Raises:
            ValueError: The model has several.
        """
        tokens = self.generation.eos_token_id
        first, *others = tokens if isinstance(tokens, list) else [tokens]
        if others:
            raise ValueError(
                f"generation_config.json: eos_token_id must be one token, which ends transcripts, got {tokens}"
            )
        return int(first)

    @property
    def suppressed(self) -> tuple[list[int], list[int]]:
        """The tokens that are never generated, and those that are not generated first."""
        names = ("suppress_tokens", "begin_suppress_tokens")
        never, not_first = (list(getattr(self.generation, name, None) or []) for name in names)
        return never, not_first

    @property
    def decoder_settings(self) -> dict[str, Any]:
        """All settings that the transcripts depend on, JSON-able."""
        return {
            **super().decoder_settings,
            **asdict(self.decoding),
            "prompt": self.prompt,
            "end": self.end,
            "suppressed": self.suppressed,
        }

    @property
    def most_tokens(self) -> int:
        """The number of positions of the decoder, which limits prompt and transcript together."""
        return int(self.network.config.max_target_positions)

    def recognise(self, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
        """Recognise one batch of waveforms: float32 samples at 16 kHz, (samples,) each."""
        if not waveforms:
            return []
        with torch.inference_mode():
            encoder = self.network.model.encoder
            encoded = [encoder(self.features(waveform)).last_hidden_state[0] for waveform in waveforms]
            return self.spell(encoder_arguments(encoded), [waveform.numel() for waveform in waveforms])

    def spell(self, arguments: Mapping[str, Tensor], num_samples: Sequence[int], cache: Any = None) -> list[Hypothesis]:
        """Decode transcripts.

        Args:
            arguments: The decoder's arguments that depend on the encoder, see `encoder_arguments`.
            num_samples: Length of each utterance in samples, for the limits on tokens.
            cache: A cache of transformers that holds the keys and values of the encoder's states, and will hold those
                of the tokens; None lets the decoder compute them.
        """
        device = arguments["encoder_hidden_states"].device
        prompt = torch.tensor(self.prompt, device=device).expand(len(num_samples), -1)
        never, not_first = (torch.tensor(part, dtype=torch.long, device=device) for part in self.suppressed)
        decoder, output = self.network.model.decoder, self.network.get_output_embeddings()

        def step(state: _State, previous: Tensor) -> tuple[Tensor, _State]:
            first = state.is_first
            tokens = prompt if first else previous[:, None]
            found = decoder(input_ids=tokens, past_key_values=state.cache, use_cache=True, **state.encoder_arguments)
            logits = output(found.last_hidden_state[:, -1])
            logits[:, never] = -torch.inf
            if first:
                logits[:, not_first] = -torch.inf
            return logits, _State(state.encoder_arguments, found.past_key_values)

        limits = torch.tensor([self._limit(samples) for samples in num_samples], device=device)
        return [
            Hypothesis(self.tokenizer.decode(tokens, skip_special_tokens=True).strip(), capped)
            for tokens, capped in greedy_search(step, _State(dict(arguments), cache), limits, self.end, self.decoding)
        ]

    def teacher_forced(
        self, arguments: Mapping[str, Tensor], tokens: Sequence[Sequence[int]], cache: Any = None
    ) -> list[Tensor]:
        """Return the log-probabilities at each token and at the end, under teacher forcing.

        Args:
            arguments: As `spell`.
            tokens: The tokens of each utterance's transcript, without prompt and end.
            cache: As `spell`.

        Returns:
            (tokens + 1, vocabulary) for each utterance.
        """
        device = arguments["encoder_hidden_states"].device
        inputs = [torch.tensor([*self.prompt, *written], device=device) for written in tokens]
        # Padding is on the right, where no token attends to it.
        found = self.network.model.decoder(
            input_ids=pad_sequence(inputs, batch_first=True, padding_value=self.end),
            past_key_values=cache,
            use_cache=cache is not None,
            **arguments,
        )
        first = len(self.prompt) - 1
        return [
            self.network.get_output_embeddings()(states[first : first + len(written) + 1]).log_softmax(1)
            for states, written in zip(found.last_hidden_state, tokens, strict=True)
        ]

    def _limit(self, num_samples: int) -> int:
        return min(self.decoding.token_limit(num_samples), self.most_tokens - len(self.prompt))

    def runs(self, num_samples: int, num_tokens: int) -> list[tuple[int, int]]:
        """Return the passes of an utterance through the network: (length of the encoder's input, tokens) each."""
        return [(num_samples, num_tokens)]

    def workload(self, num_samples: Sequence[int], texts: Sequence[str]) -> Workload:
        """See `CompressibleModel`.

        The encoder's matrices count once for each frame, the decoder's once for each token of prompt and reference, the
        output matrix once for each reference token and for the end. Keys and values of the encoder's frames are
        computed once. Attention takes 2 d multiply-adds for each pair of query and key, d being the queries' size.
        """
        config = self.network.config
        front = convolutions(self.network.model.encoder)
        totals = dict.fromkeys((f"{self.encoder_path}.{path}" for path in front), 0)
        frames = steps = outputs = 0
        encoder_pairs = self_pairs = cross_pairs = 0
        prompt = len(self.prompt)
        for samples, text in zip(num_samples, texts, strict=True):
            for length, tokens in self.runs(samples, self._num_tokens(text)):
                lengths = lengths_after(front.values(), length)
                for path, num_outputs in zip(totals, lengths, strict=True):
                    totals[path] += num_outputs
                frames += lengths[-1]
                steps += prompt + tokens
                outputs += tokens + 1
                encoder_pairs += lengths[-1] ** 2
                # The prompt is computed in one step; each later token attends to all tokens before it and to itself.
                self_pairs += prompt**2 + sum(range(prompt + 1, prompt + tokens + 1))
                cross_pairs += (prompt + tokens) * lengths[-1]
        pairs = {"encoder": encoder_pairs, "self_attn": self_pairs, "encoder_attn": cross_pairs}
        offered = {matrix.name for layer in self.layers for matrix in layer.matrices}
        positions, lookups, other = {}, {}, 0
        for path, name, matrix in matrices_below(self):
            module, part = path.split(".")[-2:]
            encoder = path.startswith(f"{self.encoder_path}.")
            if part == "embed_tokens":
                lookups[name] = steps
                count = outputs if config.tie_word_embeddings else 0
            elif matrix.kind == "embedding" or (module == "network" and config.tie_word_embeddings):
                continue  # position embeddings are only added; a tied output is counted as the embedding
            elif path in totals:
                count = totals[path]
            elif encoder or (module == "encoder_attn" and part in ("k_proj", "v_proj")):
                count = frames
            else:
                count = outputs if module == "network" else steps
            if name in offered:
                positions[name] = count
            else:
                other += count * matrix.rows * matrix.columns
            if part == "q_proj":
                other += 2 * matrix.rows * pairs["encoder" if encoder else module]
        return Workload(positions, other, lookups)

    def _num_tokens(self, text: str) -> int:
        return len(self._tokens(self.normalise(text)))

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def to_config(self) -> dict[str, Any]:
        """Return the files as text and the decoder settings, JSON-able."""
        return {**super().to_config(), "decoding": asdict(self.decoding)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a model with random weights, in evaluation mode."""
        return cls(**{**config, "decoding": Decoding(**config["decoding"])}).eval()


def encoder_arguments(encoded: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the decoder's arguments that depend on the encoder: its padded states, and a mask if lengths differ."""
    lengths = torch.tensor([len(states) for states in encoded])
    states = pad_sequence(list(encoded), batch_first=True)
    arguments = {"encoder_hidden_states": states}
    if lengths.min() < lengths.max():
        arguments["encoder_attention_mask"] = lengths_mask(lengths.to(states.device), states.shape[1])
    return arguments


_WINDOW, _HOP = 400, 160
"""Samples in the window of one of Speech2Text's frames, and from one frame to the next."""


@register_architecture("hf_speech2text")
class HuggingFaceSpeech2Text(HuggingFaceSeq2Seq):
    """An adapter to transformers' Speech2TextForConditionalGeneration."""

    model_types = ("speech_to_text",)
    attention = "eager"  # the only implementation for this model

    @cached_property
    def shortest(self) -> int:
        """The samples of two frames: the features are divided by their standard deviation, which needs two."""
        return _WINDOW + _HOP

    def runs(self, num_samples: int, num_tokens: int) -> list[tuple[int, int]]:
        """See `HuggingFaceSeq2Seq.runs`; the encoder's input is a frame for each complete 25 ms window, every 10 ms."""
        return [(max(0, 1 + (num_samples - _WINDOW) // _HOP), num_tokens)]


@register_architecture("hf_moonshine")
class HuggingFaceMoonshine(HuggingFaceSeq2Seq):
    """An adapter to transformers' MoonshineForConditionalGeneration, whose input is the waveform."""

    model_types = ("moonshine",)

    @cached_property
    def shortest(self) -> int:
        """The number of samples that the encoder's convolutions need for one frame."""
        return shortest_before(list(convolutions(self.network.model.encoder).values()))

    @property
    def most_tokens(self) -> int:
        """The number of positions of the decoder, which limits prompt and transcript together."""
        return int(self.network.config.max_position_embeddings)
