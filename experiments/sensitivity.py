"""Measure the sensitivity of each layer: ``python -m experiments.sensitivity [model=MODEL] [factorisation=...]``.

It is the WER on the proxy set with one layer at each of its candidate ranks and all others dense. Writes a picture and
``sensitivity.json``, from which ``search_space=sensitivity search_space.path=FILE`` makes its candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gymnasium as gym
import matplotlib as mpl
import pandas as pd
from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.compose import to_container
from experiments.common.fetch import fetch
from experiments.common.parts import part
from experiments.common.pictures import plt, save_figure
from experiments.common.run_directory import run_directory, title_of
from shrinkml_env import Evaluation, EvaluationCache, Ledger, SearchProblem
from shrinkml_env.progress import progress
from shrinkml_env.space.formation import Sensitive
from shrinkml_env.space.sensitivity import Sensitivity
from shrinkml_env.text_table import format_table

HEAD = ("layer", "candidates", "r*", "fatal up to", "nothing lost from", "largest loss")


def sensitivity(config: DictConfig) -> Path:
    """Measure, write, print and draw the sensitivity of a model; return the run's directory.

    Raises:
        ValueError: A part does not fit the model, or a set cannot be loaded.
        FileNotFoundError: The model or the set is missing.
    """
    fetch(config, "proxy")
    directory = run_directory(config, title_of(config.model))
    env = gym.make(
        "ShrinkML-v0",
        model=config.model,
        proxy=to_container(config.proxy),
        **{group: part(group, config[group]) for group in ("search_space", "factorisation")},
        granularity=to_container(config.granularity),
        device=config.device,
        cache=EvaluationCache(),
        ledger=Ledger(directory / "evaluations.jsonl"),
    )
    problem: SearchProblem = env.unwrapped.problem  # type: ignore[attr-defined]
    with progress(total=1 + sum(len(ranks) - 1 for ranks in problem.candidates), unit="evaluation") as bar:

        def evaluate(ranks: Mapping[str, int]) -> Evaluation:
            bar.set_description(next(iter(ranks), "original"), refresh=False)
            evaluation = problem.evaluate(ranks)
            bar.update()
            return evaluation

        used = problem.evaluator.factorisation_name
        measured = Sensitivity.measure(problem.search_space.choices, evaluate, used)
    env.close()
    measured.save(directory / "sensitivity.json")
    formed = Sensitive(directory / "sensitivity.json")
    print(format_table(pd.DataFrame(_rows(problem, measured, formed), columns=list(HEAD))))
    print(f"WER of the original: {100 * measured.baseline_wer:.2f} %; {problem.ledger.count} evaluations")
    spaces = {"measured": problem.search_space, "formed from it": formed(problem.layers)}
    for name, space in spaces.items():
        print(f"search space {name}: {len(space.layers)} layers, {space.size:.1e} configurations")
    _draw(directory / "sensitivity.png", problem, measured)
    print(f"sensitivity and picture: {directory}")
    return directory


def _rows(problem: SearchProblem, measured: Sensitivity, formed: Sensitive) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for layer in problem.layers:
        ranks, losses = measured.losses(layer)
        fatal, harmful = ranks[losses > formed.fatal], ranks[losses > formed.harmless]
        lossless = ranks[ranks > max(harmful, default=0)]
        rows.append(
            (
                layer.name,
                str(len(ranks)),
                str(layer.break_even),
                str(max(fatal, default="-")),
                str(min(lossless, default="dense")),
                f"{100 * max(0.0, *losses):.1f} points",
            )
        )
    return rows


def _draw(path: Path, problem: SearchProblem, measured: Sensitivity) -> None:
    """Draw a row for each layer: from its smallest rank to break-even, coloured by the increase in WER."""
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.3 * len(problem.layers)), constrained_layout=True)
    norm = mpl.colors.SymLogNorm(linthresh=1, vmin=0, vmax=100)
    for row, layer in enumerate(problem.layers):
        ranks, losses = measured.losses(layer)
        edges = [0.0, *((ranks[:-1] + ranks[1:]) / 2 / layer.break_even), 1.0]
        bars = [100 * max(0.0, loss) for loss in losses]
        axes.pcolormesh(edges, [row - 0.42, row + 0.42], [bars], norm=norm, cmap="magma_r")
    axes.set_yticks(range(len(problem.layers)), [layer.name for layer in problem.layers])
    axes.invert_yaxis()
    axes.set_xlabel("rank / break-even rank")
    axes.set_title("WER lost by compressing one layer, all others dense")
    bar = figure.colorbar(mpl.cm.ScalarMappable(norm, "magma_r"), ax=axes, label="points of WER lost")
    bar.set_ticks([0, 1, 3, 10, 30, 100], labels=["0", "1", "3", "10", "30", "100"])
    save_figure(figure, path, dpi=130)


@command("sensitivity")
def main(config: DictConfig) -> None:
    """Measure the sensitivity of one model."""
    sensitivity(config)


if __name__ == "__main__":
    main()
