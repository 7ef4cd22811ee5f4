"""Compress a little, fine-tune, compress again: ``python -m experiments.iterate sizes=[0.6,0.4,0.25]``.

Each stage makes a dense model of the last one's factors, truncates it to the next size and fine-tunes it with its share
of ``training.epochs`` (the idea of arXiv 2008.02897). Sizes are always those of the first original. ``sizes=[0.25]`` is
the same in one shot, with the same training data in the same order; every stage has its own schedule of the learning
rate, and its own optimiser. Ranks come from a rule (``agent=`` uniform, energy, profile or knapsack)
or, with ``'search=["agent=model_based","budget=100"]'``, from a search at each stage. Resumes where it was stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import distributed

from experiments.common.command import command
from experiments.common.compose import compose_config
from experiments.common.parts import check_part, part
from experiments.common.run_directory import plain, run_directory, write_json
from experiments.common.training import is_first, training_processes
from experiments.finetune import RESULT, finetune, load_las, print_result
from experiments.search import search
from experiments.seed_model import check_rule, every_rank, ranks_of_size
from shrinkml_env import (
    EvaluationCache,
    Evaluator,
    compress,
    decompress,
    default_cache_path,
    load_compressed,
    load_utterances,
    save_compressed,
)
from shrinkml_env.asr import LAS
from shrinkml_env.compression import ranks_of, round_to_storage
from shrinkml_env.envs import make_factorisation
from shrinkml_env.files import read_json_object

OWN = ("sizes", "shares", "agent", "factorisation", "search", "proxy", "seed")
"""Keys that fine-tuning does not have."""


def iterate(config: DictConfig) -> Path:
    """Go through all stages; returns the run's directory.

    Raises:
        ValueError: The sizes do not fall, there is not one share of the training for each, or the agent is no rule.
    """
    torch.set_num_threads(config.threads)
    sizes = [float(size) for size in config.sizes]
    shares = [1.0] * len(sizes) if config.shares is None else [float(share) for share in config.shares]
    if not sizes or sizes != sorted(set(sizes), reverse=True) or not 0 < sizes[-1] <= sizes[0] <= 1:
        raise ValueError(f"sizes must fall from stage to stage, in (0, 1], got {sizes}")
    if len(shares) != len(sizes) or min(shares) <= 0:
        raise ValueError(f"shares must be {len(sizes)} numbers above 0, one for each size, got {shares}")
    check_part("factorisation", config.factorisation)
    if config.search is None:
        check_rule(config.agent)
    directory = run_directory(config, f"{'-'.join(f'{size:g}' for size in sizes)}-{config.seed}")
    model, results, first_epoch = config.original, [], config.training.first_epoch
    for number, (size, share) in enumerate(zip(sizes, shares, strict=True), start=1):
        stage = directory / f"stage-{number}"
        if is_first() and not (stage / "seed" / "config.json").exists():
            save_compressed(_compressed(config, load_las(model), size, stage), stage / "seed")
        if distributed.is_initialized():
            distributed.barrier()
        of_stage = OmegaConf.masked_copy(config, [str(key) for key in config if key not in OWN])
        # Together the stages hear what one training hears.
        training = {"epochs": config.training.epochs * share / sum(shares), "first_epoch": first_epoch}
        first_epoch += training["epochs"]
        of_stage.merge_with({"seed_model": str(stage / "seed"), "outputs": str(stage), "training": training})
        run = finetune(of_stage)
        model = str(run / "model")
        results.append(read_json_object(run / RESULT))
    if is_first():
        save_compressed(load_compressed(model), directory / "model")
        result: dict[str, Any] = {
            **results[-1],
            "config": plain(config),
            "training": {
                key: sum(stage["training"][key] for stage in results)
                for key in ("epochs", "steps", "utterances", "seconds", "cpu_seconds")
            },
            "stages": [{key: value for key, value in stage.items() if key != "config"} for stage in results],
        }
        write_json(directory / RESULT, result)
        print_result(result, directory)
    return directory


def _compressed(config: DictConfig, model: LAS, size: float, stage: Path) -> LAS:
    """Return a model of at most a size, made from the original or from what the last stage made."""
    if ranks_of(model):
        storage_dtype = model.storage_dtype
        model = decompress(model)
        # What the next factors are made of need not be known better than what they are rounded to.
        model.storage_dtype = storage_dtype
        round_to_storage(model)
    if config.search is None:
        factorisation = make_factorisation(model, part("factorisation", config.factorisation))
        cache = EvaluationCache(default_cache_path())
        evaluator = Evaluator(model, load_utterances(plain(config.proxy)), cache=cache, factorisation=factorisation)
        return compress(model, ranks_of_size(every_rank(evaluator), config.agent, size), factorisation)
    save_compressed(model, stage / "dense")
    sets = {"proxy": plain(config.proxy), "dev": plain(config.data.dev), "test": plain(config.data.test)}
    found = search(_search_config([*config.search, f"model={stage / 'dense'}"], size, stage, sets), "search")
    return load_las(str(found / "compressed"))


def _search_config(overrides: list[str], size: float, stage: Path, sets: dict[str, Any]) -> DictConfig:
    """Return the config of a search for the lowest divergence at a size, unless the overrides say otherwise."""
    config = compose_config("search", ["reward=divergence", "constraint=check", f"outputs={stage}", *overrides])
    OmegaConf.set_struct(config, False)
    config.merge_with({"constraint": {"budget": size}})
    config.update(sets)
    return config


@command("iterate")
def main(config: DictConfig) -> None:
    """Run one process of all stages."""
    with training_processes(config.device):
        iterate(config)


if __name__ == "__main__":
    main()
