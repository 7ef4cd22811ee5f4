"""What all trainings share: processes, data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from omegaconf import DictConfig
from torch import distributed

from experiments.common.run_directory import plain
from shrinkml_env.data import SpeechFolder, Utterance, download_librispeech, load_utterances

__all__ = ["is_first", "load_speech", "training_processes"]


@contextmanager
def training_processes(device: str) -> Iterator[None]:
    """One of the processes that torchrun has started, if it has, with the others at hand."""
    if distributed.is_torchelastic_launched():
        # The first process may measure or search for long while the others wait.
        distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(days=1))
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def is_first() -> bool:
    """Whether this is the process that saves and prints."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def load_speech(data: DictConfig, *others: str) -> tuple[SpeechFolder, dict[str, tuple[Utterance, ...]]]:
    """The training set, and the other sets by name, fetched before if the config says so.

    Args:
        data: Of conf/data.
        others: Names of its sets besides ``"train"``.
    """
    sets = {name: plain(data[name]) for name in ("train", *others)}
    if data.download:
        if is_first():
            for part in sets.values():
                download_librispeech(part["root"], part["subset"])
        if distributed.is_initialized():
            distributed.barrier()
    return SpeechFolder(**sets["train"]), {name: load_utterances(sets[name]) for name in others}
