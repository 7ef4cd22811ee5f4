"""Download of speech before a command runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig

from experiments.common.compose import to_container
from shrinkml_env.data import download_librispeech

__all__ = ["fetch", "fetch_sets"]


def fetch(config: DictConfig, *names: str) -> None:
    """Download missing subsets of LibriSpeech that a command reads, if ``data.download=true``.

    Args:
        config: The command's config, with the group ``data``.
        names: Keys in the config of the sets that the command reads.

    Raises:
        OSError: A subset cannot be downloaded.
        ValueError: LibriSpeech has no such subset.
    """
    if config.data.download:
        fetch_sets(to_container(config[name]) for name in names)


def fetch_sets(sets: Iterable[Any]) -> None:
    """Download the missing subsets of LibriSpeech among some sets, given as `load_utterances` takes them.

    Raises:
        OSError: A subset cannot be downloaded.
        ValueError: LibriSpeech has no such subset.
    """
    for spec in sets:
        if isinstance(spec, Mapping):
            download_librispeech(spec["root"], spec["subset"])
