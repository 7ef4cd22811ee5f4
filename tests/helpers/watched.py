"""A recogniser and a reward that tell what processes do with them, for the tests of launchers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from shrinkml_env import Evaluation, default_cache_path
from shrinkml_env.compression import Hypothesis, register_architecture
from shrinkml_env.mdp.rewards import Linear
from tests.helpers.models import TinyCTC


def notes(kind: str) -> Path:
    """One line for each thing that happened, beside the cache of evaluations."""
    return default_cache_path().with_name(f"{kind}.txt")


def note(kind: str, line: str) -> None:
    with notes(kind).open("a") as file:  # one short write: lines of several processes don't mix
        file.write(f"{line}\n")


@register_architecture("watched_ctc")
class WatchedCTC(TinyCTC):
    """Notes what it recognises: a hash of its weights and the waveforms."""

    def recognise(self, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
        digest = hashlib.sha256()
        for tensor in (*self.state_dict().values(), *waveforms):
            digest.update(tensor.numpy().tobytes())
        note("recognised", digest.hexdigest())
        return super().recognise(waveforms)


class WatchedReward(Linear):
    """Notes the process that asks for it, and how many threads torch would use there."""

    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        note("processes", f"{os.getpid()} {torch.get_num_threads()}")
        return dict(super().terms(evaluation, baseline))
