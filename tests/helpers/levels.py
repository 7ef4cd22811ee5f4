"""Search spaces with levels that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shrinkml_env.compression.layers import Layer
from shrinkml_env.envs.shrink import ShrinkEnv
from shrinkml_env.space.formation import Full
from shrinkml_env.space.search_space import SearchSpace
from tests.helpers.fake_evaluator import make_fake_env

__all__ = ["levelled", "make_levelled_env"]


def levelled(layers: Sequence[Layer], count: int = 24) -> SearchSpace:
    """The space `Full`, with as many levels as the layer with most candidates has, over which others spread theirs."""
    space = Full(count)(layers)
    top = max(space.counts) - 1
    levels = tuple(tuple((level * (number - 1)) // top for level in range(top + 1)) for number in space.counts)
    return replace(space, levels=levels)


def make_levelled_env(action: object = "continuous", **parts: object) -> ShrinkEnv:
    """An environment like `make_fake_env`'s, with levels, all within the reach of an action."""
    spec = {"name": "level", "span": 1.0} if action == "level" else action
    return make_fake_env(spec, **{"search_space": levelled, **parts})
