"""Speech that is to be downloaded first."""

from __future__ import annotations

from collections.abc import Mapping

from omegaconf import DictConfig

from experiments.common.run_directory import plain
from shrinkml_env.data import download_librispeech

__all__ = ["fetch"]


def fetch(config: DictConfig, *names: str) -> None:
    """Download those of LibriSpeech's subsets that a command reads and that are missing, if ``data.download=true``.

    Args:
        config: With the group ``data``.
        names: Keys of the sets that the command reads.

    Raises:
        OSError: A subset cannot be fetched.
        ValueError: LibriSpeech has no such subset.
    """
    if not config.data.download:
        return
    for spec in (plain(config[name]) for name in names):
        if isinstance(spec, Mapping):
            download_librispeech(spec["root"], spec["subset"])
