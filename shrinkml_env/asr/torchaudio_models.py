"""The adapter to models of torchaudio's pipelines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from shrinkml_env.asr.recogniser import Recogniser, merge_parametrizations
from shrinkml_env.asr.workloads import frames_shortest, frames_workload
from shrinkml_env.compression import Hypothesis, Workload, register_architecture, require_length
from shrinkml_env.data.torchaudio_compat import import_torchaudio
from shrinkml_env.data.utterance import SAMPLE_RATE

__all__ = ["TorchaudioCTC", "load_torchaudio"]


@register_architecture("torchaudio_ctc")
class TorchaudioCTC(Recogniser):
    """An adapter to torchaudio's `Wav2Vec2Model` (wav2vec 2.0 and HuBERT) with CTC, best-path decoding.

    Each utterance is recognised alone: some of these models were trained without masks, so padding would affect them.

    Args:
        params: The arguments of `torchaudio.models.wav2vec2_model`.
        labels: The text of each output; the first is CTC's blank, ``"|"`` separates words.
        normalise_waveform: Whether to normalise waveforms to mean 0 and variance 1.
        network: The torchaudio model; None makes one with random weights.
    """

    no_layers = ("network.feature_extractor.conv_layers.0",)  # a filter bank over samples
    encoder_path = "network.encoder"

    def __init__(
        self,
        params: Mapping[str, Any],
        labels: Sequence[str],
        normalise_waveform: bool = False,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.params, self.labels, self.normalise_waveform = dict(params), tuple(labels), normalise_waveform
        self.network = import_torchaudio().models.wav2vec2_model(**params) if network is None else network
        merge_parametrizations(self.network)

    @cached_property
    def shortest(self) -> int:
        """The smallest number of samples that the model accepts, see `frames_shortest`."""
        return frames_shortest(self)

    def recognise(self, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
        """Recognise waveforms: float32 samples at 16 kHz, (samples,) each."""
        with torch.inference_mode():
            return [Hypothesis(self._recognise(waveform)) for waveform in waveforms]

    def _recognise(self, waveform: Tensor) -> str:
        require_length(self, waveform.numel(), "a waveform")
        waveform = waveform.to(next(self.parameters()).device)
        if self.normalise_waveform:
            waveform = functional.layer_norm(waveform, waveform.shape)
        logits, _ = self.network(waveform[None])
        path = torch.unique_consecutive(logits[0].argmax(1)).tolist()
        return "".join(self.labels[unit] for unit in path if unit).replace("|", " ").strip()

    def workload(self, num_samples: Sequence[int], texts: Sequence[str]) -> Workload:
        """See `CompressibleModel` and `frames_workload`."""
        return frames_workload(self, num_samples)

    def to_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, JSON-able."""
        params = json.loads(json.dumps(self.params))  # tuples become lists, as after loading
        return {"params": params, "labels": list(self.labels), "normalise_waveform": self.normalise_waveform}


def load_torchaudio(name: str) -> TorchaudioCTC:
    """Load a fine-tuned model of `torchaudio.pipelines`, which is downloaded if necessary.

    Args:
        name: Name of the pipeline, such as ``"WAV2VEC2_ASR_BASE_960H"``.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        ValueError: The name is not that of a Wav2Vec2 or HuBERT pipeline for recognition.
    """
    pipelines = import_torchaudio().pipelines
    known = {
        key: bundle
        for key, bundle in vars(pipelines).items()
        # A forced aligner has no sign between words.
        if isinstance(bundle, pipelines.Wav2Vec2ASRBundle) and not isinstance(bundle, pipelines.Wav2Vec2FABundle)
    }
    if name not in known:
        raise ValueError(f"torchaudio:{name}: there is an adapter for {', '.join(sorted(known))}")
    bundle = known[name]
    if bundle.sample_rate != SAMPLE_RATE:
        raise ValueError(f"torchaudio:{name}: the model wants {bundle.sample_rate} Hz; waveforms have {SAMPLE_RATE} Hz")
    network = bundle.get_model(dl_kwargs={"weights_only": True})
    # torchaudio has no public access to the model's arguments and to whether the model is wrapped.
    params, normalise = bundle._params, bundle._normalize_waveform
    return TorchaudioCTC(params, bundle.get_labels(), normalise, network.model if normalise else network).eval()
