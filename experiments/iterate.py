"""Compress and fine-tune in stages: ``python -m experiments.iterate sizes=[0.6,0.4,0.25]``.

Each stage multiplies out the factors of the last one's model, compresses it to the next size and fine-tunes it with its
share of ``training.epochs`` (the idea of arXiv 2008.02897). Sizes are relative to the first original. ``sizes=[0.25]``
does the same in one stage, with the same training data in the same order; every stage has its own learning-rate
schedule and its own optimiser. Ranks come from a rule (``agent=closed_form``, uniform, energy, profile,
knapsack or lite_asr) or, with ``'search=["agent=model_based","budget=100"]'``, from a search at each stage. The same
command resumes a run that was stopped.
"""

from __future__ import annotations

from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.kinds import list_of, number, optional
from experiments.common.options import OVERRIDES
from experiments.common.stepwise import iterate
from experiments.common.training import training_processes


@command("iterate", shares=optional(list_of(number(above=0), distinct=False)), search=optional(OVERRIDES))
def main(config: DictConfig) -> None:
    """Run one process of all stages."""
    with training_processes(config.device):
        iterate(config)


if __name__ == "__main__":
    main()
