"""The report of a search: on the terminal, as a picture, as an HTML page."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from statistics import fmean, median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

import shrinkml_env
from experiments.common.command import given_command
from experiments.common.course import Course
from experiments.common.page import Chart, front, point, render, series, wer_axes
from experiments.common.report import save_figure
from experiments.common.transcripts import Transcript
from shrinkml_env import Evaluation, SearchResult
from shrinkml_env.files import write_whole

__all__ = ["print_result", "write_report"]

WINDOW = 20
"""The number of episodes, or evaluations, whose mean the learning curve shows."""

VERSIONS = ("torch", "numpy", "gymnasium", "stable-baselines3")
"""Packages whose versions the report states."""


def print_result(result: SearchResult, directory: Path) -> None:
    """Print the result of a search and its folder."""
    print(f"\n{result!r}")
    print(f"model, measurements and report: {directory}")
    print(f"check the saved model anew:     python -m experiments.validate run={directory}")


def write_report(
    directory: Path,
    result: SearchResult,
    course: Course,
    uniform: Sequence[Evaluation] = (),
    transcripts: Sequence[Transcript] = (),
    damage: Mapping[str, float] | None = None,
) -> None:
    """Write ``search.png`` and ``report.html``.

    Args:
        directory: The folder of the run.
        result: The result of the search.
        course: The times of the run, and the returns of its episodes.
        uniform: The evaluations of uniform ranks on the proxy set, for the pictures; may be empty.
        transcripts: Transcripts that have changed.
        damage: Layer name -> predicted damage at the layer's rank; None if there is no prediction.
    """
    _draw(directory / "search.png", result, uniform)
    page = render(
        "search.html",
        {"sizes": size_chart(result, uniform), "learning": learning_chart(result, course)},
        result=result,
        test=result.sets["test"],
        layers=layer_rows(result),
        damage=damage,
        transcripts=transcripts,
        course=course,
        pace=median(course.evaluations) if course.evaluations else None,
        versions={
            "ShrinkML": shrinkml_env.__version__,
            "Python": platform.python_version(),
            **{name: version(name) for name in VERSIONS},
        },
        command=given_command(),
    )
    write_whole(directory / "report.html", page)


def size_chart(result: SearchResult, uniform: Sequence[Evaluation]) -> Chart:
    """Return the chart of WER on the proxy set against size: what was tried, its front, rules, the chosen point."""
    full = {layer.name: layer.max_rank for layer in result.layers}

    def measured(evaluation: Evaluation, head: str) -> dict[str, Any]:
        ranks = [
            f"{name} {'dense' if rank == full[name] else rank}"
            for name, rank in evaluation.ranks.items()
            if name in full
        ]
        tip = [head, f"size ratio {evaluation.size_ratio:.3f}", f"WER {100 * evaluation.wer:.2f} %", *ranks]
        return point(evaluation.size_ratio, 100 * evaluation.wer, tip)

    proxy, count = result.sets["proxy"], result.evaluations
    tried = [
        measured(trial.evaluation, f"evaluation {number} of {count}{'' if trial.feasible else ', infeasible'}")
        for number, trial in enumerate(result.history, start=1)
    ]
    best = front((trial.evaluation.size_ratio, 100 * trial.evaluation.wer) for trial in result.history)
    curve = sorted(uniform, key=lambda evaluation: evaluation.size_ratio)
    left = min((one["x"] for one in tried), default=result.size_ratio)
    before = 100 * proxy.wer_before
    drawn = [
        series(
            "original",
            "#222",
            [point(left, before), point(1.0, before, ["original", f"WER {before:.2f} %"])],
            line="straight",
            dash=[6, 4],
        ),
        series("evaluated", "#7ba6d0", tried, size=6),
        series("front of these", "#1f5a94", [point(*one) for one in best], line="stepped"),
        series("uniform ranks", "#888", [measured(one, "uniform ranks") for one in curve], line="straight", size=6),
        series(
            "chosen",
            "#d62728",
            [point(result.size_ratio, 100 * proxy.wer_after, _chosen_tip(result))],
            size=12,
        ),
    ]
    return {**wer_axes("the proxy set"), "series": drawn}


def _chosen_tip(result: SearchResult) -> list[str]:
    ranks = result.layer_table()[["layer", "rank"]].itertuples(index=False)
    head = ["chosen", f"size ratio {result.size_ratio:.3f}", f"WER {100 * result.wer['proxy']:.2f} %"]
    return [*head, *(f"{layer} {rank}" for layer, rank in ranks)]


def learning_chart(result: SearchResult, course: Course) -> Chart:
    """Return the chart of rewards: of each evaluation, the best so far, and the mean of what is played.

    The mean is over the returns of the latest `WINDOW` episodes, which repeat configurations as the policy does. Where
    the agent's episodes are not known it is over the latest `WINDOW` evaluations.
    """
    rewards = [float(trial.reward) for trial in result.history]
    running = accumulate(((trial.feasible, float(trial.reward)) for trial in result.history), max)
    played = course.returns or list(enumerate(rewards, start=1))
    means = {
        count: fmean(value for _, value in played[max(0, place - WINDOW) : place])
        for place, (count, _) in enumerate(played, start=1)
    }
    what = "episodes" if course.returns else "evaluations"
    each = [
        point(number, reward, [f"evaluation {number}", f"reward {reward:.4f}"])
        for number, reward in enumerate(rewards, start=1)
    ]
    best = [point(number, reward) for number, (feasible, reward) in enumerate(running, start=1) if feasible]
    drawn = [
        series("evaluation", "#b9cfe5", each, size=6),
        series(
            f"mean of the last {WINDOW} {what}",
            "#e08214",
            [point(count, mean) for count, mean in means.items()],
            line="straight",
        ),
        series("best so far", "#1f5a94", best, line="stepped"),
    ]
    return {"x": "unique evaluations", "y": "reward", "series": drawn}


def layer_rows(result: SearchResult) -> list[dict[str, Any]]:
    """Return the layers' names, shapes and ranks as texts, with their shares of the full rank and of the parameters."""
    rows = []
    for layer, (name, shape, rank, kept) in zip(
        result.layers, result.layer_table().itertuples(index=False), strict=True
    ):
        chosen = result.ranks[layer.name]
        share = layer.parameters(chosen) / layer.parameters(layer.max_rank)
        rows.append(
            {"name": name, "shape": shape, "rank": rank, "rank_share": chosen / layer.max_rank}
            | {"kept": kept, "kept_share": share}
        )
    return rows


def _draw(path: Path, result: SearchResult, uniform: Sequence[Evaluation]) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.5), constrained_layout=True)
    evaluated = [trial.evaluation for trial in result.history]
    scatter = axes.scatter(
        [evaluation.size_ratio for evaluation in evaluated],
        [100 * evaluation.wer for evaluation in evaluated],
        c=range(1, len(evaluated) + 1),
        cmap="viridis",
        s=18,
        label="evaluated",
    )
    figure.colorbar(scatter, label="evaluation")
    curve = sorted(uniform, key=lambda evaluation: evaluation.size_ratio)
    if curve:
        axes.plot(
            [evaluation.size_ratio for evaluation in curve],
            [100 * evaluation.wer for evaluation in curve],
            "o-",
            color="tab:gray",
            markersize=4,
            label="uniform rank fraction",
        )
    proxy = result.sets["proxy"]
    axes.plot(result.size_ratio, 100 * proxy.wer_after, "*", color="tab:red", markersize=16, label="chosen")
    axes.axhline(100 * proxy.wer_before, color="black", linewidth=1, linestyle="--", label="original")
    # The logarithmic part keeps broken models in the picture, the linear part separates the good ones.
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(0, None)
    axes.set_yticks([0, 2, 5, 10, 20, 50, 100])
    axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("size ratio (parameters of the compressed / the original model)")
    axes.set_ylabel("WER on the proxy set, % (logarithmic above 10)")
    axes.set_title(f"{result.config['title']}: {result.evaluations} evaluations")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=130)
