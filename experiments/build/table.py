"""Measure a whole search space: ``python -m experiments.build.table [measured=las_small_pivoting] [workers=2]``.

Every combination of the blocks' candidates is measured on the proxy set, in an order in which neighbours share most of
their work; then the best ones by every reward, and some random ones, on dev and test. Measurements are kept in the
evaluation cache, so that the same command resumes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.compose import to_container
from experiments.common.kinds import ANYTHING, FLAG, NAME, list_of, mapping_of, mapping_with, optional, whole
from experiments.common.parts import part
from shrinkml_env import EvaluationCache, Evaluator, load_model, load_utterances
from shrinkml_env.compression import Workload
from shrinkml_env.compression.factorisations import PlainSVD, factorisation_maker, make_factorisation
from shrinkml_env.envs.assembly import make_search_space
from shrinkml_env.envs.registration import make_tabular_env
from shrinkml_env.mdp.rewards import REWARDS
from shrinkml_env.progress import progress
from shrinkml_env.space.formation import Explicit
from shrinkml_env.space.search_space import SearchSpace
from shrinkml_env.space.table import SETS, Table


def make(config: DictConfig) -> Table:
    """Measure the whole search space, and return its table."""
    model = load_model(config.model)
    blocks: dict[str, list[str]] = {name: list(block.layers) for name, block in config.blocks.items()}
    cache = EvaluationCache(config.cache)
    spec = part("factorisation", config.factorisation)
    factorisation = make_factorisation(model, spec, cache)
    utterances = {subset: to_container(config[subset]) for subset in SETS}
    evaluators = {
        subset: Evaluator(
            model,
            load_utterances(spec, subset),
            blocks,
            cache,
            factorisation,
            memory=config.memory_mb * 2**20,
            workers=config.workers,
            divergence=config.divergence,
        )
        for subset, spec in utterances.items()
    }
    proxy = evaluators["proxy"]
    space = search_space(config, proxy)
    workloads = {subset: _workload(evaluator) for subset, evaluator in evaluators.items()}
    known = Table(
        model=config.model,
        blocks=blocks,
        layers=space.layers,
        candidates=space.candidates,
        singular_values={
            matrix.name: factorisation.singular_values[matrix.name].float().numpy()
            for layer in space.layers
            for matrix in layer.matrices
        },
        original_params=proxy.original_params,
        positions={subset: workload.positions for subset, workload in workloads.items()},
        other_macs={subset: workload.other_macs for subset, workload in workloads.items()},
        lookups={subset: workload.lookups for subset, workload in workloads.items()},
        utterances=utterances,
        words={subset: sum(evaluator.baseline.words) for subset, evaluator in evaluators.items()},
        edits={},
        capped={},
        factorisation="svd" if factorisation_maker(spec) == PlainSVD() else spec,
        levels=space.levels,
    )
    chosen = np.arange(known.size)
    for subset, evaluator in evaluators.items():
        edits, capped, divergence = _measure(evaluator, known, chosen, config.batch, subset)
        known = replace(known, edits={**known.edits, subset: edits}, capped={**known.capped, subset: capped})
        if config.divergence:
            known = replace(known, divergence={**known.divergence, subset: divergence})
        evaluator.close()
        if subset == "proxy":
            chosen = _chosen(known, config.best, config.random, config.seed)
    return known


def search_space(config: DictConfig, evaluator: Evaluator) -> SearchSpace:
    """Return the candidates of the blocks: those of the config's search space, or the ranks that the blocks name."""
    if config.search_space is not None:
        return make_search_space(evaluator, to_container(config.search_space))
    return Explicit({name: to_container(block.ranks) for name, block in config.blocks.items()})(evaluator.layers)


def _chosen(table: Table, best: int, random: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of the original, of the best configurations by every scalar reward, and of random ones."""
    chosen = {table.size - 1, *np.random.default_rng(seed).permutation(table.size)[:random].tolist()}
    for name in REWARDS:
        # Vectors have no best one.
        if name != "vector" and (table.divergence or name != "divergence"):
            env = make_tabular_env(reward=name, table=table)
            chosen.update(np.argsort(-env.table_rewards, kind="stable")[:best].tolist())
    return np.array(sorted(chosen))


def _measure(
    evaluator: Evaluator, table: Table, chosen: NDArray[np.int64], batch: int, subset: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return word errors, capped utterances and divergence of every configuration; -1, NaN for those not chosen."""
    edits, capped = np.full((2, table.size), -1)
    divergence = np.full(table.size, np.nan, np.float32)
    configurations = list(table.configurations())
    with progress(total=len(chosen), desc=subset, unit="configuration", smoothing=0.02) as bar:
        for start in range(0, len(chosen), batch):
            numbers = chosen[start : start + batch]
            found = evaluator.evaluate_many([configurations[number] for number in numbers])
            for number, evaluation in zip(numbers, found, strict=True):
                edits[number], capped[number] = sum(evaluation.edits), evaluation.capped
                if evaluation.divergence is not None:
                    divergence[number] = evaluation.divergence
                bar.update()
    return edits, capped, divergence


def _workload(evaluator: Evaluator) -> Workload:
    """Return the workload of the matrices in the blocks; all others are among what does not depend on the ranks."""
    whole: Any = evaluator.workload
    decided = [part for layer in evaluator.layers for matrix in layer.matrices for part in matrix.blocks]
    positions = {matrix.name: whole.positions[matrix.name] for matrix in decided if matrix.name in whole.positions}
    lookups = {matrix.name: whole.lookups[matrix.name] for matrix in decided if matrix.name in whole.lookups}
    dense = sum(positions.get(matrix.name, 0) * matrix.rows * matrix.columns for matrix in decided)
    return Workload(positions, evaluator.macs({}) - dense, lookups)


@command(
    "table",
    blocks=mapping_of(mapping_with({"layers": list_of(NAME), "ranks": list_of(whole(1))}, needed=("layers",))),
    best=whole(1),
    random=whole(1),
    batch=whole(1),
    cache=optional(NAME),
    divergence=FLAG,
    output=NAME,
    search_space=optional(mapping_of(ANYTHING)),
)
def main(config: DictConfig) -> None:
    """Make one table."""
    table = make(config)
    path = Path(config.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.save(path)
    print(f"{table.size} configurations, {path.stat().st_size / 1e6:.2f} MB: {path}")


if __name__ == "__main__":
    main()
