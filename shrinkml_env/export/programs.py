"""Common parts of the formats `torch` and `onnx`: tracing, and the files beside the programs."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from shrinkml_env.asr.las import LAS
from shrinkml_env.asr.las_modules import BidirectionalLSTM
from shrinkml_env.compression import CompressibleModel, int8_scales
from shrinkml_env.data.utterance import SAMPLE_RATE
from shrinkml_env.export import transcribe
from shrinkml_env.export.las import DecoderStep, EncoderProgram, min_samples

__all__ = ["quiet", "require_las", "traced_decoder", "traced_encoder", "write_companions"]


def require_las(model: CompressibleModel) -> LAS:
    """Return the model as a `LAS`.

    Raises:
        ValueError: The model has another architecture, is quantised, or searches with a beam, which the programs do
            not.
    """
    if not isinstance(model, LAS) or model.architecture != LAS.architecture:
        raise ValueError(
            f"only LAS models can be exported to torch.export and ONNX, this is {model.architecture!r}: use the"
            " format safetensors, or huggingface for a model of Hugging Face's transformers"
        )
    if int8_scales(model):
        raise ValueError(
            "torch.export and ONNX would hold the int8 weights as float32: export the model that this one was "
            "quantised from"
        )
    if model.decoding.beam_size > 1:
        raise ValueError(
            f"exported programs search greedily, the model with a beam of {model.decoding.beam_size}: set "
            "decoding.beam_size to 1, or use the format safetensors"
        )
    return model


@torch.no_grad()
def traced_encoder(model: LAS, lstm: Callable[[BidirectionalLSTM], nn.Module]) -> ExportedProgram:
    """Export the `EncoderProgram`, for waveforms of any length from `min_samples`."""
    samples = Dim("samples", min=min_samples(model))
    waveform = torch.zeros(SAMPLE_RATE)
    return torch.export.export(EncoderProgram(model, lstm).eval(), (waveform,), dynamic_shapes=({0: samples},))


@torch.no_grad()
def traced_decoder(model: LAS) -> ExportedProgram:
    """Export the `DecoderStep`, for any number of rows and any length."""
    rows, time = Dim("rows"), Dim("time")
    hidden, cell, context = (torch.zeros(2, size) for size in _state_sizes(model))
    units = model.config.attention_units
    arguments = (
        torch.zeros(2, dtype=torch.long), torch.zeros(7, context.shape[1]), torch.zeros(7, units),
        hidden, cell, context, torch.zeros(2, 7),
    )  # fmt: skip
    shapes = ({0: rows}, {0: time}, {0: time}, {0: rows}, {0: rows}, {0: rows}, {0: rows, 1: time})
    return torch.export.export(DecoderStep(model).eval(), arguments, dynamic_shapes=shapes)


def _state_sizes(model: LAS) -> tuple[int, int, int]:
    """Return the sizes of hidden state, cell state and context."""
    return model.config.decoder_units, model.config.decoder_units, 2 * model.config.encoder_units


def write_companions(model: LAS, folder: Path) -> None:
    """Write `recogniser.json`, with the settings that transcription needs, and `transcribe.py`."""
    settings: dict[str, Any] = {
        "sample_rate": SAMPLE_RATE,
        "min_samples": min_samples(model),
        "end": model.tokenizer.eos,
        "tokens_base": model.decoding.tokens_base,
        "tokens_per_second": model.decoding.tokens_per_second,
        "state": _state_sizes(model),
        "units": model.tokenizer.pieces,
    }
    (folder / "recogniser.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copyfile(transcribe.__file__, folder / "transcribe.py")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress torch's warnings and log messages about its internals."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
