"""Compression and fine-tuning in stages, each from the model of the one before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import distributed

from experiments.common.check import check_search_config
from experiments.common.command_errors import given_by
from experiments.common.compose import compose_config, override_of, to_container
from experiments.common.finetuning import RESULT, finetune, load_las, print_result
from experiments.common.parts import part
from experiments.common.rules import check_rule, every_rank, ranks_of_size
from experiments.common.run_directory import run_directory, write_json
from experiments.common.search_run import search
from experiments.common.sets import load_set
from experiments.common.training import is_first
from shrinkml_env import (
    EvaluationCache,
    Evaluator,
    compress,
    decompress,
    load_compressed,
    save_compressed,
)
from shrinkml_env.asr import LAS
from shrinkml_env.compression import ranks_of, round_to_storage
from shrinkml_env.compression.factorisations import make_factorisation
from shrinkml_env.files import read_json_object

OWN = ("sizes", "shares", "agent", "factorisation", "search", "proxy", "seed")
"""Keys of the config that `experiments.finetune` does not have."""


def iterate(config: DictConfig) -> Path:
    """Run all stages, and return the run's directory.

    Raises:
        ValueError: The sizes are not descending, the numbers of shares and sizes differ, or the agent is not a rule.
    """
    torch.set_num_threads(config.threads)
    sizes = [float(size) for size in config.sizes]
    shares = [1.0] * len(sizes) if config.shares is None else [float(share) for share in config.shares]
    if sizes != sorted(sizes, reverse=True):
        raise ValueError(f"sizes must fall from stage to stage, got {sizes}")
    if len(shares) != len(sizes):
        raise ValueError(f"shares must be {len(sizes)} numbers above 0, one for each size, got {shares}")
    if config.search is None:
        check_rule(config.agent)
    else:
        _search_config(config, sizes[0], Path(config.outputs))
    directory = run_directory(config, f"{'-'.join(f'{size:g}' for size in sizes)}-{config.seed}")
    model, results, first_epoch = config.original, [], config.training.first_epoch
    for place, (size, share) in enumerate(zip(sizes, shares, strict=True), start=1):
        stage = directory / f"stage-{place}"
        if is_first() and not (stage / "seed" / "config.json").exists():
            save_compressed(_compressed(config, load_las(model), size, stage), stage / "seed")
        if distributed.is_initialized():
            distributed.barrier()
        of_stage = OmegaConf.masked_copy(config, [str(key) for key in config if key not in OWN])
        # All stages together see the data of one training.
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
            "config": to_container(config),
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
    """Return a model compressed to at most a size, from the original or from the model of the last stage."""
    if ranks_of(model):
        storage_dtype = model.storage_dtype
        model = decompress(model)
        # The next factors are rounded to this format anyway.
        model.storage_dtype = storage_dtype
        round_to_storage(model)
    if config.search is None:
        cache = EvaluationCache()
        factorisation = make_factorisation(model, part("factorisation", config.factorisation), cache)
        evaluator = Evaluator(model, load_set(config, "proxy"), cache=cache, factorisation=factorisation)
        return compress(model, ranks_of_size(every_rank(evaluator), config.agent, size), factorisation)
    save_compressed(model, stage / "dense")
    found = search(_search_config(config, size, stage), "search")
    return load_las(str(found / "compressed"))


def _search_config(config: DictConfig, size: float, stage: Path) -> DictConfig:
    """Return the config of the search of a stage; the reward is the divergence unless `search` sets another one.

    Args:
        config: The command's config.
        size: The largest size ratio.
        stage: The folder of the stage, with the model to compress in ``dense``.

    Raises:
        ValueError: An override in `search` is wrong.
    """
    own = [
        "reward=divergence",
        "constraint=check",
        override_of("outputs", stage),
        f"seed={config.seed}",
        *config.search,
    ]
    own.append(override_of("model", stage / "dense"))
    with given_by("search", "search", own):
        found = compose_config("search", own)
        OmegaConf.set_struct(found, False)
        found.merge_with({"constraint": {"budget": size}})
        found.update(
            {
                "proxy": to_container(config.proxy),
                "dev": to_container(config.data.dev),
                "test": to_container(config.data.test),
            }
        )
        check_search_config(found)
    return found
