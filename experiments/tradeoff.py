"""WER against size, agent by agent: ``python -m experiments.tradeoff [sizes=[0.5,0.4]] [workers=2]``.

For every size each agent searches for the least WER on proxy within it (``reward=accuracy``); among its best
configurations, and among its seeds, dev chooses; test is reported. Every search is written to a file, and the same
command goes on where it was stopped.
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

from experiments.report import format_table
from experiments.resumable import results_of
from experiments.run_directory import run_directory
from experiments.runs import Task, compose_search, digest, evaluator_on, spend
from experiments.search import choose
from experiments.statistics import Estimate, mean, wer_increase

HEAD = (
    "size",
    "agent",
    "seeds: test WER % (mean, 95 %)",
    "size ratio",
    "test WER %",
    "more than the original (below, 95 %)",
    "more than the best by hand (95 %)",
)


@dataclass(frozen=True, slots=True)
class Search:
    """One search to make."""

    task: Task
    finalists: int


@dataclass(frozen=True, slots=True)
class Found:
    """What became of it: the configuration that dev chose.

    Attributes:
        agent: Name in conf/agent.
        size: That it had to keep.
        seed: Of the agent.
        ranks: Layer name -> rank.
        size_ratio: At most `size`, but where the agent has found nothing so small.
        evaluations: Unique evaluations that the search used.
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


def make(search: Search) -> dict[str, Any]:
    """A search, and what dev chooses from it, as JSON."""
    task = search.task
    problem = spend(task)
    config = compose_search(task)
    dev, test = (evaluator_on(problem, config, name) for name in ("dev", "test"))
    on_dev = choose(problem, dev, search.finalists)
    on_test = test.evaluate(on_dev.ranks)
    found = Found(
        agent=task.agent,
        size=float(config.constraint.budget),
        seed=task.seed,
        ranks=dict(on_dev.ranks),
        size_ratio=on_dev.size_ratio,
        evaluations=problem.ledger.count,
        proxy_wer=problem.evaluator.evaluate(on_dev.ranks).wer,
        dev_wer=on_dev.wer,
        edits=on_test.edits,
        edits_before=test.baseline.edits,
        words=on_test.words,
    )
    return asdict(found)


def chosen(found: Sequence[Found]) -> Found:
    """The search of several seeds that is best on dev; of equals the smaller model."""
    return min(found, key=lambda search: (search.dev_wer, search.size_ratio, search.seed))


def rows(found: Sequence[Found], by_hand: Sequence[str]) -> list[tuple[str, ...]]:
    """The table's, size by size, in `found`'s order of agents; without searches that found nothing small enough."""
    table: list[tuple[str, ...]] = []
    kept = [search for search in found if search.size_ratio <= search.size]
    for size in dict.fromkeys(search.size for search in found):
        of_size = {
            agent: [search for search in kept if (search.size, search.agent) == (size, agent)]
            for agent in dict.fromkeys(search.agent for search in kept)
        }
        best = {agent: chosen(searches) for agent, searches in of_size.items() if searches}
        hand = min((best[agent] for agent in by_hand if agent in best), key=lambda search: search.dev_wer, default=None)
        for agent, search in best.items():
            seeds = mean([100 * each.test_wer for each in of_size[agent]])
            lost = wer_increase(search.edits, search.edits_before, search.words, one_sided=True)
            beside = "" if hand is None else _points(wer_increase(search.edits, hand.edits, search.words))
            table.append(
                (
                    f"{size:g}",
                    agent,
                    f"{seeds.value:.2f} [{seeds.low:.2f}, {seeds.high:.2f}] of {len(of_size[agent])}",
                    f"{search.size_ratio:.3f}",
                    f"{100 * search.test_wer:.2f}",
                    f"{100 * lost.value:+.2f} ({100 * lost.high:+.2f})",
                    "" if agent in by_hand else beside,
                )
            )
    return table


def _points(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.2f} [{100 * estimate.low:+.2f}, {100 * estimate.high:+.2f}]"


def draw(path: Path, found: Sequence[Found]) -> None:
    """Mean test WER of the seeds against the size allowed."""
    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    agents = list(dict.fromkeys(search.agent for search in found))
    for agent, colour in zip(agents, mpl.colormaps["tab10"](np.linspace(0, 1, 10)), strict=False):
        means = {}
        for size in sorted({search.size for search in found}):
            wers = [s.test_wer for s in found if (s.agent, s.size) == (agent, size) and s.size_ratio <= size]
            if wers:
                means[size] = mean([100 * wer for wer in wers])
        values, low, high = np.array(list(means.values())).reshape(-1, 3).T
        axes.plot(list(means), values, "o-", color=colour, label=agent, markersize=3)
        axes.fill_between(list(means), low, high, color=colour, alpha=0.15)
    before = 100 * sum(found[0].edits_before) / sum(found[0].words)
    axes.axhline(before, color="black", linestyle="--", linewidth=0.8, label="the original")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("size ratio allowed")
    axes.set_ylabel("WER on test, % (mean of the seeds, 95 %)")
    axes.invert_xaxis()
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


@hydra.main(version_base="1.3", config_path="../conf", config_name="tradeoff")
def main(config: DictConfig) -> None:
    """Make what is missing, then compare."""
    directory = run_directory(config, "tradeoff", besides=("workers", "agents", "sizes", "by_hand"))
    folder = directory / "searches"
    folder.mkdir(exist_ok=True)
    searches = {}
    for size in config.sizes:
        for agent, options in config.agents.items():
            kept = (f"constraint={options.constraint}", f"constraint.budget={size}")
            task = Task("live", str(agent), "accuracy", 0, config.budget, (*config.overrides, *kept))
            name = f"{agent}-{size:g}-{digest(task)}"
            for seed in range(options.seeds):
                searches[folder / f"{name}-{seed}.json"] = Search(replace(task, seed=seed), config.finalists)
    found = [Found(**result) for result in results_of(searches, make, config.workers, "search")]
    text = format_table(HEAD, rows(found, config.by_hand))
    (directory / "table.txt").write_text(text + "\n")
    print(text)
    draw(directory / "tradeoff.png", found)
    print(f"searches, table and picture: {directory}")


if __name__ == "__main__":
    main()
