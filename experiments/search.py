"""Search ranks for a model: ``python -m experiments.search agent=ppo reward=linear seed=0 budget=200``.

The search uses only the proxy set. Its best configurations are measured on dev; the model is compressed by the best of
these, saved, and measured on test. The same command resumes a search that was stopped: earlier measurements are read
from its run directory.
"""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.common.command import command
from experiments.common.search_run import search


@command("search")
def main(config: DictConfig) -> None:
    """Run one search; Hydra's multirun runs many."""
    choices = HydraConfig.get().runtime.choices
    agent = choices["agent"]
    if agent == "custom" and not OmegaConf.is_missing(config.agent, "_target_"):
        agent = config.agent._target_.rpartition(".")[2]
    search(config, f"{agent}-{choices['reward']}-{config.seed}")


if __name__ == "__main__":
    main()
