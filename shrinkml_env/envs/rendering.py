"""Rendering of an episode as a table or as a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from shrinkml_env.compression import kept_energy
from shrinkml_env.evaluation.result import Evaluation
from shrinkml_env.mdp.problem import SearchProblem

__all__ = ["picture", "table"]

_WIDTH, _HEADER, _ROW = 9.6, 1.0, 0.32  # inches
_DECIDED, _UNDECIDED, _DENSE = "#1f77b4", "#d9d9d9", "#7f7f7f"


def table(problem: SearchProblem, ranks: tuple[int, ...], evaluation: Evaluation | None) -> str:
    """Return a text table: one line for each layer (rank, largest rank, share of its parameters kept), and a summary.

    Args:
        problem: The problem of the episode.
        ranks: The ranks of the layers decided so far, in forward order.
        evaluation: The evaluation at the end of the episode; None before.
    """
    width = max(len(layer.name) for layer in problem.layers)
    lines = [f"{'layer':<{width}}  {'rank':>5}  {'of':>5}  {'kept':>6}"]
    for index, layer in enumerate(problem.layers):
        rank = ranks[index] if index < len(ranks) else layer.max_rank
        kept = layer.parameters(rank) / layer.parameters(layer.max_rank)
        shown = "" if index >= len(ranks) else "dense" if rank == layer.max_rank else str(rank)
        lines.append(f"{layer.name:<{width}}  {shown:>5}  {layer.max_rank:>5}  {kept:>6.1%}")
    lines.append(_summary(problem, ranks, evaluation))
    return "\n".join(lines)


def picture(problem: SearchProblem, ranks: tuple[int, ...], evaluation: Evaluation | None) -> NDArray[np.uint8]:
    """Draw bar charts of each layer's rank, of the spectral energy that it keeps, and of its parameters.

    Args:
        problem: The problem of the episode.
        ranks: The ranks of the layers decided so far, in forward order.
        evaluation: The evaluation at the end of the episode; None before.

    Returns:
        An RGB image, uint8, (height, width, 3); its size depends on the number of layers only.

    Raises:
        DependencyNotInstalled: Matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyNotInstalled('pictures need matplotlib: pip install "shrinkml-env[experiments]"') from error
    layers = problem.layers
    chosen = [*ranks, *(layer.max_rank for layer in layers[len(ranks) :])]
    colours = [_UNDECIDED] * len(layers)
    for index, rank in enumerate(ranks):
        colours[index] = _DENSE if rank == layers[index].max_rank else _DECIDED
    figure = Figure(figsize=(_WIDTH, _HEADER + _ROW * len(layers)), dpi=100, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, 3, sharey=True)
    rows = np.arange(len(layers))
    values = {
        "rank / largest rank": [rank / layer.max_rank for layer, rank in zip(layers, chosen, strict=True)],
        "spectral energy kept": [
            kept_energy(layer, rank, problem.evaluator.singular_values)
            for layer, rank in zip(layers, chosen, strict=True)
        ],
        "parameters, thousands": [layer.parameters(rank) / 1e3 for layer, rank in zip(layers, chosen, strict=True)],
    }
    for panel, (title, lengths) in zip(panels, values.items(), strict=True):
        panel.barh(rows, lengths, color=colours)
        panel.set_title(title, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    for panel in panels[:2]:
        panel.set_xlim(0, 1.15)
    for row, rank in enumerate(ranks):
        label = "dense" if rank == layers[row].max_rank else str(rank)
        panels[0].text(values["rank / largest rank"][row] + 0.02, row, label, va="center", fontsize=8)
    dense = [layer.parameters(layer.max_rank) / 1e3 for layer in layers]
    panels[2].barh(rows, dense, fill=False, edgecolor=_DENSE, linewidth=0.8)
    panels[0].set_yticks(rows, [layer.name for layer in layers])
    panels[0].invert_yaxis()
    figure.suptitle(_summary(problem, ranks, evaluation), fontsize=11)
    canvas.draw()
    image: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return image


def _summary(problem: SearchProblem, ranks: tuple[int, ...], evaluation: Evaluation | None) -> str:
    size_ratio = problem.size(problem.search_space.named(ranks))
    text = f"{len(ranks)} of {len(problem.layers)} layers decided, size ratio {size_ratio:.3f}"
    if evaluation is None:
        return text
    return f"{text}, WER {evaluation.wer:.1%} (original {problem.baseline.wer:.1%})"
