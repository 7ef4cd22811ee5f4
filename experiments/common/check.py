"""The check of a search's config before anything is computed."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from experiments.common.imports import import_modules
from experiments.common.options import check_options
from experiments.common.parts import label, part
from experiments.common.trackers import require_tracker
from shrinkml_env.envs.assembly import make_reward

__all__ = ["check_search_config"]


def check_search_config(config: DictConfig) -> None:
    """Check a config before the search.

    Raises:
        ValueError: An option is of a wrong kind, or a part of the config cannot be made.
        ImportError: The package of the logger is not installed.
    """
    import_modules(config.imports)
    check_options(config)
    if config.num_envs > 1 and OmegaConf.select(config.agent, "train_freq.unit.value") == "episode":
        raise ValueError(
            f"num_envs={config.num_envs}: {config.agent._target_} learns after every episode of one environment"
        )
    if config.logger is not None:
        require_tracker(config.logger)
    if getattr(make_reward(part("reward", config.reward)), "space", None) is not None:
        raise ValueError(
            f"a search has one best configuration, so it needs a scalar reward: not {label(config.reward)}"
        )
