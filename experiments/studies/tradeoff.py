"""WER against size, agent by agent: ``python -m experiments.studies.tradeoff [comparison=constraints] [workers=2]``.

For every size each agent searches for the best on proxy within it, by the WER (``reward=accuracy``) or the divergence
from the original, and each rule gives the largest model within it; among a search's best configurations, and among an
agent's seeds, dev chooses; test is reported. Everything found is written to a file, and the same command goes on where
it was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import hydra
import matplotlib as mpl
import numpy as np
from omegaconf import DictConfig

mpl.use("Agg")
from matplotlib import pyplot as plt

from experiments.common.report import format_table, save_wer_against_size
from experiments.common.resumable import results_of
from experiments.common.run_directory import plain, run_directory
from experiments.common.runs import Task, compose_search, digest, evaluator_on, make_env, require_lists, spend
from experiments.common.statistics import mean, mean_wer_increase, points, wer_increase
from experiments.search import choose
from experiments.seed_model import every_rank, ranks_of_size

HEAD = (
    "size",
    "agent",
    "seeds within the size",
    "mean of the seeds: test WER %",
    "above the best by hand",
    "best on dev: size ratio",
    "test WER %",
    "above the original (95 % below)",
    "above the best by hand",
)
"""With 95 % intervals: of a mean over seeds, of its distance over seeds and utterances, of one model over these."""

PAIRS = ("size", "mean of the seeds of", "has more test WER than", "by (95 %)")


@dataclass(frozen=True, slots=True)
class Search:
    """One search to make.

    Attributes:
        name: What it is called in tables.
        task: Keeps to a size.
        finalists: How many configurations are measured on dev.
    """

    name: str
    task: Task
    finalists: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule to follow.

    Attributes:
        task: With the rule as its agent.
        size: That the model is to have at most.
    """

    task: Task
    size: float


@dataclass(frozen=True, slots=True)
class Found:
    """What became of it: the configuration that dev chose, or the rule's.

    Attributes:
        agent: The rule's name in conf/agent, or the search's in the table.
        size: That it had to keep.
        seed: Of the agent.
        ranks: Layer name -> rank.
        size_ratio: At most `size`, but where the agent has found nothing so small.
        evaluations: Unique evaluations on proxy that were used.
        proxy_wer: A fraction.
        dev_wer: A fraction.
        edits: Word errors of each test utterance.
        edits_before: Those of the original.
        words: Reference words of each test utterance.
    """

    agent: str
    size: float
    seed: int
    ranks: Mapping[str, int]
    size_ratio: float
    evaluations: int
    proxy_wer: float
    dev_wer: float
    edits: Sequence[int]
    edits_before: Sequence[int]
    words: Sequence[int]

    @property
    def test_wer(self) -> float:
        """A fraction."""
        return sum(self.edits) / sum(self.words)


def make(wanted: Search | Rule) -> dict[str, Any]:
    """A `Found`, as JSON."""
    task = wanted.task
    config = compose_search(task)
    if isinstance(wanted, Rule):
        name, size = task.agent, wanted.size
        env = make_env(task, config)
        problem = every_rank(env.unwrapped.problem.evaluator)  # type: ignore[attr-defined]
        ranks: Mapping[str, int] = ranks_of_size(problem, config.agent, size)
        dev = evaluator_on(problem, config, "dev")
    else:
        name, size = wanted.name, float(config.constraint.budget)
        problem = spend(task)
        dev = evaluator_on(problem, config, "dev")
        ranks = choose(problem, dev, wanted.finalists).ranks
    test = evaluator_on(problem, config, "test")
    on_test = test.evaluate(ranks)
    found = Found(
        agent=name,
        size=size,
        seed=task.seed,
        ranks=dict(ranks),
        size_ratio=on_test.size_ratio,
        evaluations=problem.ledger.count,
        proxy_wer=problem.evaluator.evaluate(ranks).wer,
        dev_wer=dev.evaluate(ranks).wer,
        edits=on_test.edits,
        edits_before=test.baseline.edits,
        words=on_test.words,
    )
    return asdict(found)


def chosen(found: Sequence[Found]) -> Found:
    """The one of several that is best on dev; of equals the smaller model."""
    return min(found, key=lambda search: (search.dev_wer, search.size_ratio, search.seed))


def rows(found: Sequence[Found], by_hand: Sequence[str]) -> list[tuple[str, ...]]:
    """The table's, size by size, in `found`'s order of agents."""
    table: list[tuple[str, ...]] = []
    for size in dict.fromkeys(search.size for search in found):
        of_size = [search for search in found if search.size == size]
        hand = [search for search in of_size if search.agent in by_hand and search.size_ratio <= size]
        rival = chosen(hand) if hand else None
        for agent in dict.fromkeys(search.agent for search in of_size):
            seeds = [search for search in of_size if search.agent == agent]
            kept = [search for search in seeds if search.size_ratio <= size]
            best = chosen(kept) if kept else None
            name = f"{agent} (by hand)" if rival and agent == rival.agent else agent
            count = f"{len(kept)} of {len(seeds)}"
            table.append((f"{size:g}", name, count, *_measured(kept, best, None if agent in by_hand else rival)))
    return table


def _measured(kept: Sequence[Found], best: Found | None, rival: Found | None) -> tuple[str, ...]:
    """The rest of a row."""
    if best is None:
        return ("",) * 6
    seeds = mean([100 * search.test_wer for search in kept])
    lost = wer_increase(best.edits, best.edits_before, best.words, one_sided=True)
    beside_mean = beside = ""
    if rival is not None:
        edits = [search.edits for search in kept]
        beside_mean = points(mean_wer_increase(edits, [rival.edits], best.words))
        beside = points(wer_increase(best.edits, rival.edits, best.words))
    return (
        f"{seeds.value:.2f} [{seeds.low:.2f}, {seeds.high:.2f}]" if len(kept) > 1 else "",
        beside_mean if len(kept) > 1 else "",
        f"{best.size_ratio:.3f}",
        f"{100 * best.test_wer:.2f}",
        f"{100 * lost.value:+.2f} ({100 * lost.high:+.2f})",
        beside,
    )


def pairs(found: Sequence[Found], compared: Sequence[tuple[str, str]]) -> list[tuple[str, ...]]:
    """For every size the seeds' mean beside another's, where both have kept it."""
    table: list[tuple[str, ...]] = []
    for size in dict.fromkeys(search.size for search in found):
        kept = [search for search in found if search.size == size and search.size_ratio <= size]
        for names in compared:
            groups = [[search.edits for search in kept if search.agent == name] for name in names]
            if all(groups):
                one, other = groups
                table.append((f"{size:g}", *names, points(mean_wer_increase(one, other, kept[0].words))))
    return table


def draw(path: Path, found: Sequence[Found]) -> None:
    """Mean test WER of the seeds that kept the size, with its 95 % interval, against the size."""
    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    for place, agent in enumerate(dict.fromkeys(search.agent for search in found)):
        means = {}
        for size in sorted({search.size for search in found}):
            wers = [s.test_wer for s in found if (s.agent, s.size) == (agent, size) and s.size_ratio <= size]
            if wers:
                means[size] = mean([100 * wer for wer in wers])
        values, low, high = np.array(list(means.values())).reshape(-1, 3).T
        style = ("o-", "o--", "o:")[place // 10 % 3]
        axes.plot(list(means), values, style, color=f"C{place % 10}", label=agent, markersize=3)
        axes.fill_between(list(means), low, high, color=f"C{place % 10}", alpha=0.15)
    before = 100 * sum(found[0].edits_before) / sum(found[0].words)
    axes.axhline(before, color="black", linestyle="--", linewidth=0.8, label="the original")
    save_wer_against_size(figure, axes, path, "size ratio allowed")


@hydra.main(version_base="1.3", config_path="../../conf", config_name="tradeoff")
def main(config: DictConfig) -> None:
    """Make what is missing, then compare."""
    comparison = config.comparison
    require_lists(sizes=comparison.sizes)
    directory = run_directory(config, "tradeoff", besides=("workers", "comparison"))
    folder = directory / "searches"
    folder.mkdir(exist_ok=True)
    wanted: dict[Path, Search | Rule] = {}
    for size in comparison.sizes:
        for rule in comparison.rules:
            task = Task("live", rule, "accuracy", 0, 0, tuple(config.overrides))
            wanted[folder / f"{rule}-{size:g}-{digest(task)}.json"] = Rule(task, size)
        for name, options in comparison.agents.items():
            if size not in options.get("sizes", comparison.sizes):
                continue
            kept = (*options.overrides, f"constraint.budget={size}")
            agent = options.get("agent", name)
            task = Task("live", agent, options.get("reward", "accuracy"), 0, config.budget, (*config.overrides, *kept))
            for seed in range(options.seeds):
                path = folder / f"{name}-{size:g}-{digest(task)}-{seed}.json"
                wanted[path] = Search(str(name), replace(task, seed=seed), config.finalists)
    found = [Found(**result) for result in results_of(wanted, make, config.workers, "searches")]
    text = format_table(HEAD, rows(found, comparison.by_hand))
    text = f"{text}\n\n{format_table(PAIRS, pairs(found, plain(comparison.pairs)))}"
    (directory / f"{comparison.name}.txt").write_text(text + "\n")
    print(text)
    draw(directory / f"{comparison.name}.png", found)
    print(f"searches, table and picture: {directory}")


if __name__ == "__main__":
    main()
