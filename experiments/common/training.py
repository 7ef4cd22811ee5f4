"""Processes and data of trainings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
from omegaconf import DictConfig
from torch import distributed

from experiments.common.compose import to_container
from experiments.common.fetch import fetch_sets
from shrinkml_env.data import SpeechFolder, Utterance, load_utterances

__all__ = ["is_first", "load_speech", "training_processes"]


@contextmanager
def training_processes(device: str) -> Iterator[None]:
    """Join the process group if torchrun started this process, and leave it at the end.

    Raises:
        ValueError: torchrun started it, and the device is a certain GPU.
    """
    if distributed.is_torchelastic_launched():
        if device not in ("cpu", "cuda"):
            raise ValueError(f"device={device}: torchrun gives each process a GPU of its own: device=cuda")
        # The first process may measure or search for a long time while the others wait.
        distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(days=1))
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        yield
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def is_first() -> bool:
    """Return whether this is the process that saves and prints."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def load_speech(data: DictConfig, *others: str) -> tuple[SpeechFolder, dict[str, tuple[Utterance, ...]]]:
    """Load the training set, and other sets by name; download them before if the config says so.

    Args:
        data: The config group conf/data.
        others: Names of sets besides ``"train"``.

    Raises:
        ValueError: The training set is not given as a folder.
    """
    sets = {name: to_container(data[name]) for name in ("train", *others)}
    if not isinstance(sets["train"], Mapping):
        raise ValueError(
            f"data.train must be {{root: DIR, subset: NAME}}, whose files are read as they are needed, got "
            f"{sets['train']!r}"
        )
    if data.download:
        if is_first():
            fetch_sets(sets.values())
        if distributed.is_initialized():
            distributed.barrier()
    return SpeechFolder(**sets["train"]), {name: load_utterances(sets[name], f"data.{name}") for name in others}
