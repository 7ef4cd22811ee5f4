"""A finished search on the fake evaluator, with models that say what they are told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from shrinkml_env import Ledger, SearchResult, Utterance
from shrinkml_env.compression import Hypothesis
from shrinkml_env.evaluation.intervals import Estimate
from shrinkml_env.search_result import SetResult
from tests.helpers.fake_evaluator import make_fake_env

TRIED = ({"output": 10}, {"output": 20}, {})
"""Three configurations of the fake model. Of its 61160 parameters, 6400 are the output's; factored it has 164 times its
rank. 20 of 640 words are wrong, and 54 more at rank 10, which is 9 below half the break-even rank of 39."""


class Parrot:
    """A recogniser that knows what to say for waveforms of each length."""

    def __init__(self, said: Mapping[int, str]) -> None:
        self.said = said

    def recognise(self, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
        return [Hypothesis(self.said[waveform.numel()]) for waveform in waveforms]

    def normalise(self, text: str) -> str:
        return text.lower()


def make_utterances() -> list[Utterance]:
    """Return three utterances, of 1, 2 and 3 seconds."""
    texts = ("the CAT sat", "a dog", "<b>one two three")
    return [
        Utterance(f"u{index}", "s", 0.1 * torch.sin(torch.arange(16_000 * (index + 1)) / 10), text)
        for index, text in enumerate(texts)
    ]


def make_result(**changes: Any) -> SearchResult:
    """Return the result: rank 20 for the output. On test, the first utterance got one and the third two errors more."""
    problem = make_fake_env(ledger=Ledger(budget=3)).problem
    for ranks in TRIED:
        problem.evaluate(ranks)
    original = Parrot({16_000: "the cat sat", 32_000: "a dig", 48_000: "<b>one two three"})
    compressed = Parrot({16_000: "the sat", 32_000: "a dug", 48_000: "<b>one too three four"})
    values: dict[str, Any] = {
        "model": compressed,
        "original": original,
        "layers": problem.layers,
        "ranks": problem.history[1].ranks,
        "params": (61160, 58040),
        "encoder_params": None,
        "file_bytes": (122320, 116080),
        "sets": {
            "proxy": SetResult(64, 640, 20, 20, 0, 0),
            "dev": SetResult(3, 100, 2, 3, 0, 0),
            "test": SetResult(3, 8, 1, 4, 0, 0),
        },
        "rewards": {},
        "test_edits": ((0, 1, 0), (1, 1, 2)),
        "wer_increase": Estimate(3 / 8, 0.0, 0.5),
        "history": problem.history,
        "config": {"title": "a <search>", "settings": {"agent": "none"}},
    }
    return SearchResult(**{**values, **changes})
