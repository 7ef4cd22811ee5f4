"""Describe the search space of a table: ``python -m experiments.studies.landscape [table=las_small_pivoting]``.

For every scalar reward with its defaults: the best configuration, the number of local optima (configurations that no
change of a single block improves), and the rank on dev of the best configuration on proxy. Prints a table and draws the
configurations with their Pareto front.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.kinds import NAME
from experiments.common.pareto import pareto_front
from experiments.common.pictures import plt, save_figure
from experiments.common.study import Report, publish
from shrinkml_env.envs import TabularEnv, make_tabular_env
from shrinkml_env.mdp.rewards import REWARDS
from shrinkml_env.space.table import Table

HEAD = (
    "reward",
    "optimum",
    "size ratio",
    "proxy WER %",
    "dev WER %",
    "local optima",
    "within 1 % regret",
    "place on dev",
    "regret on dev",
)


def local_optima(values: NDArray[np.float64]) -> int:
    """Return the number of entries that are not exceeded by any entry that differs in a single index.

    Args:
        values: An array with one axis for each decision.
    """
    best = np.ones(values.shape, np.bool_)
    for axis in range(values.ndim):
        best &= values >= values.max(axis=axis, keepdims=True)
    return int(best.sum())


def wer_and_size(table: Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the WER on proxy, a fraction, and the size ratio of every configuration, (configurations,) each."""
    evaluator = table.evaluator()
    wer: NDArray[np.float64] = table.edits["proxy"] / table.words["proxy"]
    return wer, np.array([evaluation.size_ratio for evaluation in evaluator.evaluations])


def _row(name: str, table: Table, dev: TabularEnv, proxy: TabularEnv) -> tuple[str, ...]:
    best = int(np.argmax(proxy.rewards))
    ranks = list(table.configurations())[best]
    known = np.flatnonzero(table.edits["dev"] >= 0)
    if best not in known:
        raise ValueError(f"reward {name}: the table holds no measurement on dev of its best configuration on proxy")
    evaluate, reward = dev.problem.evaluator.evaluate, dev.problem.reward
    configurations = list(table.configurations())
    on_dev = np.array([reward(evaluate(configurations[number]))[0] for number in known])
    own = float(on_dev[np.flatnonzero(known == best)[0]])
    # Dev has random and best configurations without a distinction, so its median is not that of the whole space: the
    # scale of proxy is used.
    scale = proxy.optimum - float(np.median(proxy.rewards))
    on_proxy = proxy.problem.evaluator.evaluate(ranks)
    return (
        name,
        f"{proxy.optimum:.4f}",
        f"{on_proxy.size_ratio:.3f}",
        f"{100 * on_proxy.wer:.2f}",
        f"{100 * evaluate(ranks).wer:.2f}",
        str(local_optima(proxy.table_rewards.reshape([len(ranks) for ranks in table.candidates]))),
        str(int((proxy.rewards >= proxy.optimum - 0.01 * scale).sum())),
        f"{1 + int((on_dev > own).sum())} of {len(known)}",
        f"{(on_dev.max() - own) / scale:.3f}",
    )


def draw(path: Path, table: Table) -> None:
    """Draw WER and size of all configurations, and their Pareto front."""
    wer, size = wer_and_size(table)
    front = pareto_front(wer, size)
    figure, axes = plt.subplots(figsize=(7.5, 4.5), constrained_layout=True)
    axes.scatter(size, 100 * wer, s=2, alpha=0.2, linewidths=0, color="tab:blue", label="every configuration")
    axes.step(size[front], 100 * wer[front], where="post", color="tab:red", label="Pareto front")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(0, None)
    axes.set_yticks([0, 2, 4, 6, 8, 10, 20, 50, 100])
    axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("size ratio")
    axes.set_ylabel("WER on the proxy set, % (logarithmic above 10)")
    axes.grid(alpha=0.3)
    axes.legend(markerscale=5)
    save_figure(figure, path, dpi=130)


@command("landscape", table=NAME)
def main(config: DictConfig) -> None:
    """Describe a table."""
    table = Table.load(config.table)
    envs = {
        name: [make_tabular_env(reward=name, subset=subset, table=table) for subset in ("dev", "proxy")]
        for name in REWARDS
        # Vectors have no best one.
        if name != "vector" and (table.divergence or name != "divergence")
    }
    rows = [_row(name, table, dev, proxy) for name, (dev, proxy) in envs.items()]
    front = pareto_front(*wer_and_size(table))
    notes = [f"{table.size} configurations, {len(front)} on the Pareto front"]
    shown = pd.DataFrame(rows, columns=list(HEAD))
    publish("landscape", config, Report([shown], {"landscape": lambda path: draw(path, table)}, notes))


if __name__ == "__main__":
    main()
