"""A tiny `LAS` model with random weights, and something for it to hear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shrinkml_env.asr import LAS, Decoding, LASConfig, Tokenizer
from shrinkml_env.compression import round_to_storage

TEXTS = ["set an alarm for seven thirty", "call martin's sister", "play the quick brown fox", "jazz vow"] * 10
SIZES = LASConfig(
    encoder_units=8, time_reduction=(3, 2, 1), attention_units=8, embedding_units=6, decoder_units=10, readout_units=9
)


def make_model(**decoding: Any) -> LAS:
    """Return the same model each time; `decoding` are arguments of `Decoding`."""
    torch.manual_seed(0)
    model = LAS(SIZES, Tokenizer.train(TEXTS, 60), Decoding(**decoding)).eval()
    round_to_storage(model)
    return model


MODEL = make_model()


def noise(*sizes: int, seed: int = 1) -> list[Tensor]:
    """Return waveforms of so many samples."""
    generator = torch.Generator().manual_seed(seed)
    return [0.1 * torch.randn(size, generator=generator) for size in sizes]
