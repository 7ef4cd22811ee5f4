"""Pictures: matplotlib without a display, and what several commands draw."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from shrinkml_env import Evaluation
from shrinkml_env.files import write_atomic

__all__ = ["draw_uniform_curve", "plt", "save_figure", "save_wer_against_size"]

mpl.use("Agg")


def save_figure(figure: Any, path: Path, dpi: int) -> None:
    """Write a figure as a PNG, and close it."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=dpi, format="png")
    plt.close(figure)
    write_atomic(path, picture.getvalue())


def draw_uniform_curve(path: Path, curve: Sequence[Evaluation]) -> None:
    """Draw WER against size, the original included.

    Args:
        path: The PNG file.
        curve: The evaluations of uniform ranks.
    """
    figure, axes = plt.subplots(figsize=(7, 4), constrained_layout=True)
    curve = sorted(curve, key=lambda evaluation: evaluation.size_ratio)
    axes.plot([e.size_ratio for e in curve], [100 * e.wer for e in curve], "o-", color="tab:gray")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("size ratio (parameters of the compressed / the original model)")
    axes.set_ylabel("WER, %")
    axes.set_title("The same fraction of the break-even rank for every layer")
    axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=130)


def save_wer_against_size(figure: Any, axes: Any, path: Path, size: str) -> None:
    """Scale and label the axes of a picture of test WERs against size, and write it.

    Args:
        figure: The figure, which is closed.
        axes: The axes with the curves.
        path: The PNG file.
        size: Label of the x axis.
    """
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.set_xlabel(size)
    axes.set_ylabel("WER on test, %")
    axes.invert_xaxis()
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, fontsize="small")
    save_figure(figure, path, dpi=130)
