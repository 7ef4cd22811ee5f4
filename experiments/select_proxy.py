"""Select proxy sets that represent dev: ``python -m experiments.select_proxy [model=MODEL] [signal=divergence]``.

Measures compressed models on the whole proxy pool and on dev: some from the whole search space ("broad"), others within
five percentage points of the original's WER ("near"). By half of each group, every method selects proxy sets of several
sizes. On the other half, which is independent, the sets' fidelity is measured: how well the WER on a proxy set, or with
``signal=divergence`` the divergence from the original, ranks and predicts that on dev. Writes the sets
(``METHOD-SIZE.txt``, for ``proxy={root: ..., subset: ..., ids: FILE}``), a table and a picture. Measurements are kept
in the evaluation cache, so that the same command resumes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import DictConfig
from scipy.stats import kendalltau, spearmanr
from tqdm import tqdm

from experiments.common.command import command
from experiments.common.compose import to_container
from experiments.common.fetch import fetch
from experiments.common.kinds import choice, list_of, whole
from experiments.common.parts import part
from experiments.common.pictures import plt, save_figure
from experiments.common.run_directory import run_directory, title_of
from experiments.common.sets import load_set
from shrinkml_env import EvaluationCache, Evaluator, load_model
from shrinkml_env.compression import matrix_ranks
from shrinkml_env.compression.factorisations import make_factorisation
from shrinkml_env.compression.store import remembered
from shrinkml_env.data.selection import SELECTIONS, Pool
from shrinkml_env.envs.assembly import make_search_space
from shrinkml_env.evaluation.divergence import DivergenceMeasurer
from shrinkml_env.evaluation.intervals import Estimate
from shrinkml_env.files import write_atomic
from shrinkml_env.progress import progress
from shrinkml_env.space.search_space import SearchSpace
from shrinkml_env.text_table import format_table

NEAR = 0.05
"""The largest increase of WER on dev of configurations near the original, a fraction."""

RANDOM_DRAWS = 20
"""The number of random and of stratified sets of each size, whose fidelity is averaged."""

RESAMPLES = 1000
"""Bootstrap samples of the configurations for the 95 % intervals (percentile bootstrap)."""

BLOCKS = {"broad": 1, "near": 10}
"""Number of neighbours that are resampled together, since neighbours on a random walk are similar."""

TRIES = 1000
"""Unsuccessful draws in a row after which a search space counts as exhausted."""


class ModelGroup(NamedTuple):
    """The errors of a group of compressed models on both sets.

    Attributes:
        losses: On the pool, (models, utterances): word errors, or nats.
        dev: On dev, (models,): WER, or divergence.
    """

    losses: NDArray[np.float64]
    dev: NDArray[np.float64]


class Fidelity(NamedTuple):
    """The agreement of proxy sets with dev: means over draws of the sets, with 95 % intervals for a single draw.

    Attributes:
        kendall: Kendall's tau between the WERs on proxy and on dev.
        spearman: Spearman's rank correlation between them.
        error: Root mean squared difference between them, a fraction.
    """

    kendall: Estimate
    spearman: Estimate
    error: Estimate


def broad(space: SearchSpace, rng: np.random.Generator) -> Iterator[dict[str, int]]:
    """Yield random configurations of all sizes: a random level for the model, with random deviations of the layers."""
    while True:
        level = rng.uniform()
        levels = np.clip(level + 0.2 * rng.standard_normal(len(space.layers)), 0, 1)
        yield space.ranks(np.rint(levels * (np.array(space.counts) - 1)).astype(int).tolist())


def near(
    space: SearchSpace, rng: np.random.Generator, is_near: Callable[[Mapping[str, int]], bool]
) -> Iterator[dict[str, int]]:
    """Yield a random walk from the original among near configurations, which changes one layer at a time.

    Raises:
        ValueError: No near neighbour was found in `TRIES` draws.
    """
    here = space.dense
    in_vain = 0
    while True:
        index = int(rng.integers(len(space.layers)))
        there = here | {space.layers[index].name: int(rng.choice(space.candidates[index]))}
        if there != here and is_near(there):
            here, in_vain = there, 0
            yield here
        in_vain += 1
        if in_vain == TRIES:
            raise ValueError(f"no other configuration of the search space loses at most {100 * NEAR:g} points of WER")


def take(
    source: Iterator[dict[str, int]], count: int, known: set[tuple[int, ...]], bar: tqdm[Any]
) -> list[dict[str, int]]:
    """Return the next `count` configurations that are not in `known`, and add them to it.

    Raises:
        ValueError: No new configuration was found in `TRIES` draws.
    """
    taken: list[dict[str, int]] = []
    in_vain = 0
    for ranks in source:
        if tuple(ranks.values()) in known:
            in_vain += 1
            if in_vain == TRIES:
                raise ValueError(
                    f"the search space seems to hold no more than {len(known)} configurations of this kind: give "
                    "fewer configurations=, or a larger search_space="
                )
            continue
        in_vain = 0
        known.add(tuple(ranks.values()))
        taken.append(ranks)
        bar.update()
        if len(taken) == count:
            break
    return taken


def fidelity(
    lengths: NDArray[np.int64], measured: ModelGroup, subsets: Sequence[Sequence[int]], block: int, seed: int
) -> Fidelity:
    """Return the fidelity of several sets of one method, averaged over the sets.

    Args:
        lengths: Number of reference words, or of units, of each utterance in the pool, (utterances,).
        measured: Models that the method did not use.
        subsets: Indices of the utterances of each set.
        block: Number of neighbouring models that the bootstrap resamples together.
        seed: Seed of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    models = np.arange(len(measured.dev))
    samples = [models]
    for _ in range(RESAMPLES // len(subsets)):
        starts = rng.integers(len(models), size=-(-len(models) // block))
        # Circular blocks, so that every model has the same probability.
        samples.append(np.concatenate([np.roll(models, -start)[:block] for start in starts])[: len(models)])
    values = np.empty((len(subsets), len(samples), 3))
    for number, subset in enumerate(subsets):
        rates = measured.losses[:, list(subset)].sum(1) / lengths[list(subset)].sum()
        for place, sample in enumerate(samples):
            proxy, dev = rates[sample], measured.dev[sample]
            values[number, place] = (
                kendalltau(proxy, dev).statistic,
                spearmanr(proxy, dev).statistic,
                np.sqrt(np.mean((proxy - dev) ** 2)),
            )
    low, high = np.nanquantile(values[:, 1:].reshape(-1, 3), [0.025, 0.975], axis=0)
    return Fidelity(*(Estimate(*map(float, found)) for found in zip(values[:, 0].mean(0), low, high, strict=True)))


class Selected(NamedTuple):
    """The proxy sets that were selected for a model, with their fidelity.

    Attributes:
        ids: (method, size) -> ids of the utterances.
        fidelity: (group of models, method, size) -> the fidelity of the method's sets.
    """

    ids: Mapping[tuple[str, int], Sequence[str]]
    fidelity: Mapping[tuple[str, str, int], Fidelity]


def select(config: DictConfig) -> Selected:
    """Measure models, select proxy sets by half of them, and measure the sets' fidelity by the other half.

    Args:
        config: A config of this command.

    Raises:
        ValueError: The search space is too small.
        FileNotFoundError: The model or a set is missing.
    """
    cache = EvaluationCache()
    model: Any = load_model(config.model)
    model = model.to(config.device)
    by_divergence = config.signal == "divergence"
    factorisation = make_factorisation(model, part("factorisation", config.factorisation), cache)
    pool, dev = (
        Evaluator(
            model,
            load_set(config, name),
            to_container(config.granularity),
            cache,
            factorisation,
            workers=config.workers,
            divergence=by_divergence,
        )
        for name in ("pool", "dev")
    )
    sizes = possible_sizes(config.sizes, len(pool.utterances))
    space = make_search_space(pool, part("search_space", config.search_space))
    if by_divergence:
        measurer = DivergenceMeasurer(model, pool.utterances, factorisation, pool.memory)
        lengths = np.array(measurer.units)
    else:
        measurer = None
        lengths = np.array([len(model.normalise(utterance.text).split()) for utterance in pool.utterances])
    groups = _measure(pool, dev, measurer, space, config.configurations, config.seed)
    voices = [utterance.speaker for utterance in pool.utterances]
    losses, target = (np.concatenate(parts) for parts in zip(groups["broad", 0], groups["near", 0], strict=True))
    choosing = Pool(losses, lengths, voices, target)

    ids: dict[tuple[str, int], list[str]] = {}
    found: dict[tuple[str, str, int], Fidelity] = {}
    for method, selection in SELECTIONS.items():
        for size in progress(sizes, desc=f"{method}: fidelity"):
            draws = 1 if method == "ranking" else RANDOM_DRAWS
            seeds = range(config.seed, config.seed + draws)
            subsets = [selection(choosing, size, seed) for seed in seeds]
            ids[method, size] = [pool.utterances[index].id for index in subsets[0]]
            for kind in ("broad", "near"):
                found[kind, method, size] = fidelity(lengths, groups[kind, 1], subsets, BLOCKS[kind], config.seed)
    return Selected(ids, found)


def possible_sizes(sizes: Sequence[int], utterances: int) -> list[int]:
    """Return the sizes that a pool of this many utterances allows, and say if some are left out.

    Raises:
        ValueError: All sizes are larger than the pool.
    """
    possible = [size for size in sizes if size <= utterances]
    if not possible:
        raise ValueError(f"sizes={list(sizes)}: the pool has {utterances} utterances, fewer than each")
    if len(possible) < len(sizes):
        print(f"the pool has {utterances} utterances: larger sizes are left out")
    return possible


def fidelity_table(found: Mapping[tuple[str, str, int], Fidelity], by_divergence: bool) -> pd.DataFrame:
    """Return a row for each group of models, method and size.

    Args:
        found: (group, method, size) -> the fidelity of the method's sets.
        by_divergence: Whether errors are divergences, and not WERs, which are shown in points.
    """
    error = "error, nats a unit" if by_divergence else "WER error, points"
    rows = [
        (
            kind,
            method,
            str(size),
            str(row.kendall),
            str(row.spearman),
            str(row.error) if by_divergence else f"{row.error.times(100):.1f}",
        )
        for (kind, method, size), row in found.items()
    ]
    return pd.DataFrame(rows, columns=["configurations", "method", "utterances", "Kendall", "Spearman", error])


def _measure(
    pool: Evaluator,
    dev: Evaluator,
    measurer: DivergenceMeasurer | None,
    space: SearchSpace,
    count: int,
    seed: int,
) -> dict[tuple[str, int], ModelGroup]:
    """Measure four groups of models: (``"broad"`` or ``"near"``, 0 to select or 1 to check) -> `count` models.

    Each of the two near groups is half of its own random walk, since neighbours on a walk are similar. The losses are
    word errors, or the measurer's divergences where there is one.
    """
    limit = dev.baseline.wer + NEAR
    broad_rng, *near_rngs, half_rng = (np.random.default_rng((seed, number)) for number in (0, 1, 3, 2))
    known: set[tuple[int, ...]] = set()

    def is_near(ranks: Mapping[str, int]) -> bool:
        return dev.evaluate(ranks).wer <= limit

    with progress(total=6 * count, desc="compressed models on dev", unit="model") as bar:
        independent = take(broad(space, broad_rng), 2 * count, known, bar)
        walks = [take(near(space, rng, is_near), 2 * count, known, bar) for rng in near_rngs]
    order = half_rng.permutation(2 * count)
    chosen: dict[tuple[str, int], list[dict[str, int]]] = {
        ("broad", use): [independent[index] for index in np.sort(order[use * count :][:count])] for use in (0, 1)
    }
    for use, walk in enumerate(walks):
        chosen["near", use] = [walk[index] for index in np.sort(half_rng.permutation(2 * count)[:count])]
    groups = {}
    for (kind, use), configurations in chosen.items():
        on_dev = list(progress(dev.evaluate_many(configurations), desc=f"{kind}: dev", total=count, unit="model"))
        losses: Iterable[Sequence[float]]
        target: Sequence[float | None]
        if measurer is None:
            losses = (evaluation.edits for evaluation in pool.evaluate_many(configurations))
            target = [evaluation.wer for evaluation in on_dev]
        else:
            losses = (_divergences(pool, measurer, ranks) for ranks in configurations)
            target = [evaluation.divergence for evaluation in on_dev]
        on_pool = list(progress(losses, desc=f"{kind}: pool", total=count, unit="model"))
        groups[kind, use] = ModelGroup(np.array(on_pool, float), np.array(target, float))
    return groups


def _divergences(pool: Evaluator, measurer: DivergenceMeasurer, ranks: Mapping[str, int]) -> list[float]:
    """Return a model's divergence in each utterance of the pool, from the cache where it is known."""
    factored = matrix_ranks(pool.factorisation.layers, pool.matrix_ranks(ranks))

    def content() -> Iterator[bytes]:
        yield b"divergence by utterance"
        yield measurer.content
        yield json.dumps(factored, sort_keys=True).encode()

    subject = f"{measurer.subject}, by utterance"
    known = remembered(pool.cache, content(), subject, lambda: {"nats": measurer.by_utterance(factored)})
    nats: list[float] = known["nats"]
    return nats


def _draw(path: Path, rows: Mapping[tuple[str, str, int], Fidelity], signal: str) -> None:
    what, scale, unit = ("divergence", 1, "nats a unit") if signal == "divergence" else ("WER", 100, "points")
    figure, panels = plt.subplots(2, 2, figsize=(9, 6.5), sharex=True, constrained_layout=True)
    titles = {"broad": "all over the search space", "near": "within 5 points of the original"}
    for column, (kind, title) in enumerate(titles.items()):
        for method in SELECTIONS:
            points = {size: row for (k, m, size), row in rows.items() if (k, m) == (kind, method)}
            for panel, measure, factor in ((panels[0, column], "kendall", 1), (panels[1, column], "error", scale)):
                mean, low, high = factor * np.array([getattr(row, measure) for row in points.values()]).T
                panel.plot(list(points), mean, "o-", markersize=4, label=method)
                panel.fill_between(list(points), low, high, alpha=0.15)
        panels[0, column].set_title(title)
        panels[1, column].set_xlabel("utterances in the proxy set")
        panels[1, column].set_ylim(0, None)
    panels[0, 0].set_ylabel(f"Kendall's tau between\n{what} on proxy and on dev")
    panels[1, 0].set_ylabel(f"root mean squared error\nof the {what}, {unit}")
    panels[1, 0].set_xscale("log", base=2)
    panels[1, 0].xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%d"))
    for panel in panels.flat:
        panel.grid(alpha=0.3)
    panels[0, 0].legend(frameon=False)
    save_figure(figure, path, dpi=130)


@command("select_proxy", configurations=whole(1), sizes=list_of(whole(1)), signal=choice("wer", "divergence"))
def main(config: DictConfig) -> None:
    """Select proxy sets for one model, print their fidelity, and write sets, table and picture."""
    fetch(config, "pool", "dev")
    directory = run_directory(config, title_of(config.model))
    selected = select(config)
    for (method, size), ids in selected.ids.items():
        write_atomic(directory / f"{method}-{size}.txt", "\n".join(ids) + "\n")
    shown = fidelity_table(selected.fidelity, config.signal == "divergence")
    print(format_table(shown))
    write_atomic(directory / "fidelity.csv", shown.to_csv(index=False))
    _draw(directory / "fidelity.png", selected.fidelity, config.signal)
    print(f"sets, table and picture: {directory}")


if __name__ == "__main__":
    main()
