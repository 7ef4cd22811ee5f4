"""The report of a search: on the terminal, as a picture, as an HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean, median
from typing import Any

import matplotlib as mpl

from experiments.common.command import given_command
from experiments.common.course import Course
from experiments.common.identity import versions
from experiments.common.page import Chart, point, render, series, wer_axes
from experiments.common.pareto import pareto_front
from experiments.common.pictures import plt, save_figure
from experiments.common.transcripts import Transcript
from shrinkml_env import Evaluation, SearchResult
from shrinkml_env.files import write_atomic

__all__ = ["print_result", "write_report"]

WINDOW = 20
"""The number of episodes, or evaluations, whose mean the learning curve shows."""

RULE_COLOURS = {"uniform ranks": "#888"}
"""Rule beside a search -> its colour, where that is not green."""

ONE_SIZE = 0.01
"""The largest difference of size ratios that count as one size, which a picture of WER against size cannot show."""


def print_result(result: SearchResult, directory: Path) -> None:
    """Print the result of a search and its folder."""
    print(f"\n{result!r}")
    print(f"model, measurements and report: {directory}")
    print(f"check the saved model anew:     python -m experiments.validate {shlex.quote(f'run={directory}')}")


def write_report(
    directory: Path,
    result: SearchResult,
    course: Course,
    uniform: Sequence[Evaluation] = (),
    transcripts: Sequence[Transcript] = (),
    damage: Mapping[str, float] | None = None,
    rules: Mapping[str, Evaluation] | None = None,
    searched_wer: float | None = None,
) -> None:
    """Write ``search.png`` and ``report.html``.

    They show the WER against the size; where all that was measured has one size, the WER of each evaluation.

    Args:
        directory: The folder of the run.
        result: The result of the search.
        course: The times of the run, and the returns of its episodes.
        uniform: The evaluations of uniform ranks on the proxy set, for the pictures; may be empty.
        transcripts: Transcripts that have changed.
        damage: Layer name -> predicted damage at the layer's rank; None if there is no prediction.
        rules: Name of a rule -> evaluation on the proxy set of the ranks that it gives at the result's size.
        searched_wer: WER on the proxy set at the result's ranks before any training or compensation, which is what is
            compared with rules; None if there was neither.
    """
    rules = rules or {}
    one_size = has_one_size(result, uniform)
    _draw(directory / "search.png", result, uniform)
    page = render(
        "search.html",
        {
            "wers": wer_chart(result, rules) if one_size else size_chart(result, uniform, rules),
            "learning": learning_chart(result, course),
        },
        one_size=one_size,
        result=result,
        test=result.sets["test"],
        layers=layer_rows(result),
        damage=damage,
        rules=rules,
        searched_wer=result.wer["proxy"] if searched_wer is None else searched_wer,
        changed=searched_wer not in (None, result.wer["proxy"]),
        transcripts=transcripts,
        course=course,
        pace=median(course.evaluations) if course.evaluations else None,
        versions=versions(),
        command=given_command(),
    )
    write_atomic(directory / "report.html", page)


def has_one_size(result: SearchResult, uniform: Sequence[Evaluation]) -> bool:
    """Return whether a search measured several configurations whose sizes, and those of uniform ranks, are one size."""
    evaluations = [*(trial.evaluation for trial in result.history), *uniform]
    sizes = [evaluation.size_ratio for evaluation in evaluations]
    return len(sizes) > 1 and max(sizes) - min(sizes) <= ONE_SIZE


def size_chart(result: SearchResult, uniform: Sequence[Evaluation], rules: Mapping[str, Evaluation]) -> Chart:
    """Return the chart of WER on the proxy set against size: what was tried, its front, rules, the chosen point."""
    tried = [
        point(trial.evaluation.size_ratio, 100 * trial.evaluation.wer, _trial_tip(result, number))
        for number, trial in enumerate(result.history, start=1)
    ]
    evaluations = [trial.evaluation for trial in result.history]
    front = pareto_front([one.wer for one in evaluations], [one.size_ratio for one in evaluations])
    best = [point(evaluations[index].size_ratio, 100 * evaluations[index].wer) for index in front]
    curve = [
        point(evaluation.size_ratio, 100 * evaluation.wer, _tip(result, evaluation, "uniform ranks"))
        for evaluation in sorted(uniform, key=lambda evaluation: evaluation.size_ratio)
    ]
    left = min((one["x"] for one in tried), default=result.size_ratio)
    drawn = [
        _original(result, left, 1.0),
        series("evaluated", "#7ba6d0", tried, size=6),
        series("front of these", "#1f5a94", best, line="stepped"),
        series("curve of uniform ranks", "#888", curve, line="straight", size=6),
        *(_rule(result, name, rule, [rule.size_ratio], size=10) for name, rule in rules.items()),
        _chosen(result, result.size_ratio),
    ]
    return {**wer_axes("the proxy set"), "series": drawn}


def wer_chart(result: SearchResult, rules: Mapping[str, Evaluation]) -> Chart:
    """Return the chart of WER on the proxy set over the evaluations: what was tried, rules, and the chosen point."""
    tried = [
        point(number, 100 * trial.evaluation.wer, _trial_tip(result, number))
        for number, trial in enumerate(result.history, start=1)
    ]
    chosen = [number for number, trial in enumerate(result.history, start=1) if trial.ranks == result.ranks]
    drawn = [
        _original(result, 1, result.evaluations),
        *(_rule(result, name, rule, [1, result.evaluations], line="straight") for name, rule in rules.items()),
        series("evaluated", "#7ba6d0", tried, size=6),
        *(_chosen(result, number) for number in chosen),
    ]
    return {**wer_axes("the proxy set"), "x": "unique evaluations", "series": drawn}


def _original(result: SearchResult, left: float, right: float) -> dict[str, Any]:
    wer = 100 * result.sets["proxy"].wer_before
    ends = [point(left, wer), point(right, wer, ["original", f"WER {wer:.2f} %"])]
    return series("original", "#222", ends, line="straight", dash=[6, 4])


def _rule(result: SearchResult, name: str, evaluation: Evaluation, at: Sequence[float], **style: Any) -> dict[str, Any]:
    *before, last = (point(x, 100 * evaluation.wer) for x in at)
    points = [*before, {**last, "tip": _tip(result, evaluation, name)}]
    return series(name, RULE_COLOURS.get(name, "#2a9d5c"), points, **style)


def _chosen(result: SearchResult, x: float) -> dict[str, Any]:
    ranks = result.layer_table()[["layer", "rank"]].itertuples(index=False)
    head = ["chosen", f"size ratio {result.size_ratio:.3f}", f"WER {100 * result.wer['proxy']:.2f} %"]
    tip = [*head, *(f"{layer} {rank}" for layer, rank in ranks)]
    return series("chosen", "#d62728", [point(x, 100 * result.wer["proxy"], tip)], size=12)


def _trial_tip(result: SearchResult, number: int) -> list[str]:
    trial = result.history[number - 1]
    infeasible = "" if trial.feasible else ", infeasible"
    return _tip(result, trial.evaluation, f"evaluation {number} of {result.evaluations}{infeasible}")


def _tip(result: SearchResult, evaluation: Evaluation, head: str) -> list[str]:
    full = {layer.name: layer.max_rank for layer in result.layers}
    ranks = [
        f"{name} {'dense' if rank == full[name] else rank}" for name, rank in evaluation.ranks.items() if name in full
    ]
    return [head, f"size ratio {evaluation.size_ratio:.3f}", f"WER {100 * evaluation.wer:.2f} %", *ranks]


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
    wers = [100 * evaluation.wer for evaluation in evaluated]
    numbers = range(1, len(evaluated) + 1)
    proxy = result.sets["proxy"]
    star: dict[str, Any] = {"color": "tab:red", "markersize": 16, "label": "chosen"}
    if has_one_size(result, uniform):
        axes.plot(numbers, wers, "o", color="tab:blue", markersize=4, label="evaluated")
        chosen = [number for number, trial in zip(numbers, result.history, strict=True) if trial.ranks == result.ranks]
        axes.plot(chosen, [100 * proxy.wer_after] * len(chosen), "*", **star)
        axes.set_xlabel(f"unique evaluations, all at size ratio {result.size_ratio:.2f}")
    else:
        sizes = [evaluation.size_ratio for evaluation in evaluated]
        scatter = axes.scatter(sizes, wers, c=numbers, cmap="viridis", s=18, label="evaluated")
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
        axes.plot(result.size_ratio, 100 * proxy.wer_after, "*", **star)
        axes.set_xlabel("size ratio (parameters of the compressed / the original model)")
    axes.axhline(100 * proxy.wer_before, color="black", linewidth=1, linestyle="--", label="original")
    # The logarithmic part keeps broken models in the picture, the linear part separates the good ones.
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(0, None)
    axes.set_yticks([0, 2, 5, 10, 20, 50, 100])
    axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.set_ylabel("WER on the proxy set, % (logarithmic above 10)")
    axes.set_title(f"{result.config['title']}: {result.evaluations} evaluations")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=130)
