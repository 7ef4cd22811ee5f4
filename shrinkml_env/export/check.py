"""Comparison of an exported model's transcripts with the original's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

import torch

from shrinkml_env.asr.decoding import greedy_search
from shrinkml_env.asr.las import LAS
from shrinkml_env.compression import CompressibleModel
from shrinkml_env.data.utterance import Utterance
from shrinkml_env.export.programs import require_las
from shrinkml_env.export.transcribe import Transcriber

__all__ = ["NEAR_TIE", "check_programs", "check_texts"]

NEAR_TIE = 1e-4
"""The largest difference of log-probabilities at which rounding may change the choice between two units."""


def check_texts(model: CompressibleModel, exported: CompressibleModel, utterances: Iterable[Utterance]) -> list[str]:
    """Check that the transcripts of two models are equal.

    Returns:
        An empty list, since no difference is tolerated.

    Raises:
        ValueError: Two transcripts differ; the message names the utterance.
    """
    for utterance in utterances:
        (expected,), (found,) = (form.transcribe([utterance.waveform]) for form in (model, exported))
        if found != expected:
            raise _difference(utterance, expected, found)
    return []


def check_programs(model: CompressibleModel, folder: Path, utterances: Iterable[Utterance]) -> list[str]:
    """Check that exported programs return the same units as the model with greedy search.

    Returns:
        The ids of the utterances that differ only by rounding: at the first different unit, the best two
        log-probabilities are within `NEAR_TIE`.

    Raises:
        ValueError: The units of an utterance differ by more than rounding; the message names the utterance.
    """
    las = require_las(model)
    transcriber = Transcriber(folder, threads=torch.get_num_threads())
    near_ties = []
    for utterance in utterances:
        found, expected = transcriber.units(utterance.waveform.numpy()), _units(las, utterance)
        if found != expected:
            if _margin(las, utterance, found, expected) > NEAR_TIE:
                raise _difference(utterance, las.tokenizer.decode(expected), las.tokenizer.decode(found))
            near_ties.append(utterance.id)
    return near_ties


def _difference(utterance: Utterance, expected: str, found: str) -> ValueError:
    return ValueError(
        f"utterance {utterance.id!r}: the model writes {expected!r}, what was exported from it {found!r}: please"
        " report this"
    )


@torch.inference_mode()
def _units(model: LAS, utterance: Utterance) -> list[int]:
    start = model.decoder.start(*model.encoder(*model.features([utterance.waveform])))
    limits = torch.tensor([model.decoding.token_limit(utterance.waveform.numel())])
    ((units, _),) = greedy_search(model.decoder.step, start, limits, model.tokenizer.eos, model.decoding)
    return units


@torch.inference_mode()
def _margin(model: LAS, utterance: Utterance, one: Sequence[int], other: Sequence[int]) -> float:
    """Return the difference of the model's best two log-probabilities where two transcripts first differ."""
    common = [unit for unit, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]
    state = model.decoder.start(*model.encoder(*model.features([utterance.waveform])))
    for unit in [model.tokenizer.eos, *common]:
        logits, state = model.decoder.step(state, torch.tensor([unit]))
    first, second = logits.log_softmax(1)[0].topk(2).values.tolist()
    return float(first - second)
