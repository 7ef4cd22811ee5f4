"""Search spaces with levels that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shrinkml_env.compression.layers import Layer
from shrinkml_env.space.formation import Full
from shrinkml_env.space.search_space import SearchSpace

__all__ = ["levelled"]


def levelled(layers: Sequence[Layer], count: int = 24) -> SearchSpace:
    """The space `Full`, with as many levels as the layer with most candidates has, over which others spread theirs."""
    space = Full(count)(layers)
    top = max(space.counts) - 1
    levels = tuple(tuple((level * (number - 1)) // top for level in range(top + 1)) for number in space.counts)
    return replace(space, levels=levels)
