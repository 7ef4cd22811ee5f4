"""Measure a whole search space: ``python -m experiments.make_table [workers=2]``.

Every combination of the blocks' candidates on proxy, dev and test, in an order in which neighbours share most of their
work. Stopped at any moment, the same command goes on: measurements are kept in the evaluation cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from tqdm import tqdm

from experiments.run_directory import plain
from shrinkml_env import EvaluationCache, Evaluator, default_cache_path, load_model, load_utterances
from shrinkml_env.compression import SVD
from shrinkml_env.search_space import Explicit
from shrinkml_env.table import SETS, Table


def make(config: DictConfig) -> Table:
    """Measure, or read what is measured."""
    model = load_model(config.model.name)
    blocks: dict[str, list[str]] = {name: list(block.layers) for name, block in config.blocks.items()}
    candidates = {name: plain(block.ranks) for name, block in config.blocks.items()}
    cache = EvaluationCache(default_cache_path() if config.cache is None else config.cache)
    factorisation = SVD(model)
    measured: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
    positions, other_macs, words = {}, {}, {}
    for subset in SETS:
        evaluator = Evaluator(
            model,
            load_utterances(plain(config[subset])),
            blocks,
            cache,
            factorisation,
            memory=config.memory_mb * 2**20,
            workers=config.workers,
        )
        space = Explicit(candidates)(evaluator.layers)
        names = [layer.name for layer in space.layers]
        configurations = [dict(zip(names, choice, strict=True)) for choice in itertools.product(*space.candidates)]
        measured[subset] = _measure(evaluator, configurations, config.batch, subset)
        positions[subset], other_macs[subset] = _macs(evaluator)
        words[subset] = sum(evaluator.baseline.words)
    return Table(
        model=config.model.name,
        blocks=blocks,
        layers=space.layers,
        candidates=space.candidates,
        singular_values={
            matrix.name: factorisation.singular_values[matrix.name].float().numpy()
            for layer in space.layers
            for matrix in layer.matrices
        },
        original_params=evaluator.original_params,
        positions=positions,
        other_macs=other_macs,
        words=words,
        edits={subset: edits for subset, (edits, _) in measured.items()},
        capped={subset: capped for subset, (_, capped) in measured.items()},
    )


def _measure(
    evaluator: Evaluator, configurations: list[dict[str, int]], batch: int, subset: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    edits, capped = [], []
    with tqdm(total=len(configurations), desc=subset, unit="configuration", smoothing=0.02) as bar:
        for start in range(0, len(configurations), batch):
            for evaluation in evaluator.evaluate_many(configurations[start : start + batch]):
                edits.append(sum(evaluation.edits))
                capped.append(evaluation.capped)
                bar.update()
    return np.array(edits), np.array(capped)


def _macs(evaluator: Evaluator) -> tuple[Mapping[str, int], int]:
    """How often each decided matrix is applied, and the multiply-adds of everything else."""
    workload: Any = evaluator.workload
    decided = [matrix for layer in evaluator.layers for matrix in layer.matrices]
    positions = {matrix.name: workload.positions[matrix.name] for matrix in decided}
    dense = sum(positions[matrix.name] * matrix.rows * matrix.columns for matrix in decided)
    return positions, evaluator.macs({}) - dense


@hydra.main(version_base="1.3", config_path="../conf", config_name="make_table")
def main(config: DictConfig) -> None:
    """One table."""
    torch.set_num_threads(1)
    table = make(config)
    path = Path(config.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.save(path)
    print(f"{table.size} configurations, {path.stat().st_size / 1e6:.2f} MB: {path}")


if __name__ == "__main__":
    main()
