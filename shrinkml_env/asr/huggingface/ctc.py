"""Wav2Vec2 and HuBERT with a CTC head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from shrinkml_env.asr.huggingface.base import HuggingFaceModel
from shrinkml_env.asr.recogniser import merge_parametrizations
from shrinkml_env.asr.workloads import frames_shortest, frames_workload
from shrinkml_env.compression import Hypothesis, Workload, register_architecture

__all__ = ["HuggingFaceCTC"]


@register_architecture("hf_ctc")
class HuggingFaceCTC(HuggingFaceModel):
    """An adapter to transformers' Wav2Vec2ForCTC and HubertForCTC, with best-path decoding.

    Each utterance is recognised alone: some of these models were trained without masks, so padding would affect them.
    """

    model_types = ("wav2vec2", "hubert")
    auto_class = "AutoModelForCTC"

    def __init__(self, files: Mapping[str, str], network: nn.Module | None = None) -> None:
        super().__init__(files, network)
        if getattr(self.network.config, "add_adapter", False):
            raise ValueError("config.json: models with add_adapter are not supported")
        merge_parametrizations(self.network)
        body = f"network.{self.network.base_model_prefix}"
        self.encoder_path = body
        self.training_only = (f"{body}.masked_spec_embed",)
        # A filter bank over samples: it has few parameters, and all others depend on its output.
        self.no_layers = (f"{body}.feature_extractor.conv_layers.0",)

    @cached_property
    def shortest(self) -> int:
        """The smallest number of samples that the model accepts, see `frames_shortest`."""
        return frames_shortest(self)

    def recognise(self, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
        """Recognise waveforms: float32 samples at 16 kHz, (samples,) each."""
        with torch.inference_mode():
            paths = [self.network(self.features(waveform)).logits[0].argmax(1) for waveform in waveforms]
        # The tokenizer merges repetitions and drops blanks.
        return [Hypothesis(self.tokenizer.decode(path.tolist())) for path in paths]

    def workload(self, num_samples: Sequence[int], texts: Sequence[str]) -> Workload:
        """See `CompressibleModel` and `frames_workload`."""
        return frames_workload(self, num_samples)
