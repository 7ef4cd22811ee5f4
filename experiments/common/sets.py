"""Loading of the utterance sets that a config names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from experiments.common.compose import to_container
from shrinkml_env import Utterance, load_utterances

__all__ = ["load_set"]


def load_set(config: Mapping[Any, Any] | DictConfig, name: str) -> tuple[Utterance, ...]:
    """Return the utterances of a set.

    Args:
        config: A command's config.
        name: The option that gives the set, such as ``"dev"``.

    Raises:
        ValueError: The set is not valid; the message begins with the option.
        FileNotFoundError: A folder or file is missing; likewise.
    """
    return load_utterances(to_container(config[name]), name)
