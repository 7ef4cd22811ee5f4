"""Measure how much speech calibrates factors well, and which damping: ``python -m experiments.studies.calibration``.

Calibrates the activation-aware factors on more and more utterances with several dampings, and measures the relative
squared error of every matrix's outputs on held-out speech, averaged over matrices and ranks. No model is evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.common.command import command
from experiments.common.compose import to_container
from experiments.common.kinds import UTTERANCES, list_of, number, whole
from experiments.common.pictures import plt, save_figure
from experiments.common.results import Cell, model_files
from experiments.common.sets import load_set
from experiments.common.study import Report, publish, study_results
from shrinkml_env import load_model, load_utterances
from shrinkml_env.compression import ActivationAwareSVD, Matrix, second_moments
from shrinkml_env.compression.canonical import one_thread

HEAD = ("utterances", "damping", "error on held-out speech", "on the calibration speech")


@dataclass(frozen=True, slots=True)
class Calibration:
    """One way to calibrate the factors.

    Attributes:
        config: The study's config.
        utterances: The number of utterances.
        damping: The damping of the factorisation.
    """

    config: DictConfig
    utterances: int
    damping: float


@dataclass(frozen=True, slots=True)
class OutputErrors:
    """Relative squared errors of the outputs, averaged over matrices and ranks.

    Attributes:
        held_out: On held-out speech.
        calibration: On the speech that the factors were calibrated on.
    """

    held_out: float
    calibration: float


def rank_of(matrix: Matrix, kept: float) -> int:
    """Return the largest rank at which a matrix's factors have at most a share of its parameters, at least 1."""
    limit = kept * matrix.rows * matrix.columns
    return max((rank for rank in range(1, matrix.break_even + 1) if matrix.parameters(rank) <= limit), default=1)


def relative_error(weight: Tensor, product: Tensor, moment: Tensor) -> float:
    """Return E ||(W - W') x||^2 / E ||W x||^2.

    Args:
        weight: W, (m, n).
        product: W', (m, n).
        moment: E[x x^T], (n, n).
    """
    weight, change = weight.double(), weight.double() - product.double()
    return float(((change @ moment) * change).sum() / ((weight @ moment) * weight).sum())


@lru_cache(maxsize=8)
def _moments(model: str, speech: str, utterances: int | None) -> dict[str, Tensor]:
    waveforms = [u.waveform for u in load_utterances(json.loads(speech))][:utterances]
    return second_moments(_model(model), waveforms)


@lru_cache(maxsize=1)
def _model(name: str) -> Any:
    return load_model(name)


def make(task: Calibration) -> dict[str, Any]:
    """Return the errors of one calibration, as JSON."""
    config = task.config
    model: Any = _model(config.model)
    waveforms = [u.waveform for u in load_set(config, "calibration")][: task.utterances]
    factors = ActivationAwareSVD(model, waveforms, task.damping, form="pivoting", share_inputs=True)
    speech = {"held_out": (config.held_out, None), "calibration": (config.calibration, task.utterances)}
    moments = {
        name: _moments(config.model, json.dumps(to_container(part)), count) for name, (part, count) in speech.items()
    }
    weights: Mapping[str, nn.Parameter] = dict(model.named_parameters())
    errors: dict[str, list[float]] = {name: [] for name in speech}
    with one_thread(), torch.no_grad():
        for matrix in (matrix for layer in factors.layers for matrix in layer.matrices):
            if moments["held_out"].get(matrix.blocks[0].name, torch.empty(0)).dim() != 2:
                continue
            weight = torch.cat([weights[block.name].flatten(1) for block in matrix.blocks])
            for kept in config.kept:
                product = factors.factors(matrix.name, rank_of(matrix, kept)).product
                for name, found in errors.items():
                    found.append(relative_error(weight, product, moments[name][matrix.blocks[0].name]))
    return {name: float(np.mean(found)) for name, found in errors.items()}


def grid(config: DictConfig) -> list[Cell[Calibration]]:
    """Return the cells: every damping at every number of utterances.

    Raises:
        ValueError: There are fewer utterances.
    """
    count = len(load_set(config, "calibration"))
    if max(config.utterances) > count:
        raise ValueError(f"utterances: {max(config.utterances)} are more than the {count} of calibration")
    fixed = {name: to_container(config[name]) for name in ("model", "calibration", "held_out", "kept")}
    content = fixed | model_files(config.model)
    cells = []
    for utterances in config.utterances:
        for damping in config.damping:
            about = {"utterances": utterances, "damping": damping}
            cells.append(Cell(Calibration(config, utterances, damping), {**content, **about}, about))
    return cells


def table(cells: Sequence[Cell[Calibration]], found: Sequence[OutputErrors]) -> pd.DataFrame:
    """Return a row for each calibration."""
    rows = [
        (str(cell.task.utterances), f"{cell.task.damping:g}", f"{errors.held_out:.4f}", f"{errors.calibration:.4f}")
        for cell, errors in zip(cells, found, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(HEAD))


def draw(path: Path, cells: Sequence[Cell[Calibration]], found: Sequence[OutputErrors]) -> None:
    """Draw the error on held-out speech against the number of utterances, damping by damping."""
    figure, axes = plt.subplots(figsize=(7, 4.5), constrained_layout=True)
    for damping in dict.fromkeys(cell.task.damping for cell in cells):
        line = {
            cell.task.utterances: errors.held_out
            for cell, errors in zip(cells, found, strict=True)
            if cell.task.damping == damping
        }
        axes.plot(list(line), list(line.values()), "o-", markersize=3, label=f"damping {damping:g}")
    axes.set(xlabel="utterances of calibration speech", ylabel="relative error of the outputs, held out")
    axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_figure(figure, path, dpi=120)


@command(
    "calibration",
    calibration=UTTERANCES,
    damping=list_of(number(above=0)),
    held_out=UTTERANCES,
    kept=list_of(number(above=0, below=1)),
    utterances=list_of(whole(1)),
)
def main(config: DictConfig) -> None:
    """Calibrate, measure, print and draw."""
    cells = grid(config)
    found = study_results("calibration", config, cells, make, lambda result: OutputErrors(**result), "calibrations")
    report = Report([table(cells, found)], {"calibration": lambda path: draw(path, cells, found)})
    publish("calibration", config, report)


if __name__ == "__main__":
    main()
