"""Common parts of studies: compute the results of a grid of cells once, then publish tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from omegaconf import DictConfig

from experiments.common.results import KEPT, Cell, kept_results, line_of, read_results, results_of
from experiments.common.run_directory import run_directory
from shrinkml_env.files import write_atomic
from shrinkml_env.text_table import format_table

__all__ = ["Report", "is_missing", "publish", "study_results"]

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Report:
    """The report of a study.

    Attributes:
        tables: The tables, in order.
        pictures: Name of a picture -> a function that draws it into a file.
        notes: Lines below the tables.
    """

    tables: Sequence[pd.DataFrame]
    pictures: Mapping[str, Callable[[Path], None]]
    notes: Sequence[str] = ()


def study_results(
    study: str,
    config: DictConfig,
    cells: Sequence[Cell[Task]],
    make: Callable[[Task], dict[str, Any]],
    read: Callable[[dict[str, Any]], Result],
    name: str = "searches",
) -> list[Result]:
    """Return the results of a study's cells, in their order; missing results are computed.

    Results are read from ``OUTPUTS/results.jsonl``, to which new ones are appended, and with ``reuse=true`` from the
    results that are kept with the software.

    Args:
        study: Name of the study.
        config: The study's config.
        cells: The grid.
        make: Computes the JSON-able result of a cell's task; it is pickled by its name.
        read: Converts a JSON-able result into the study's type.
        name: The text before the progress bar.

    Raises:
        ValueError: A file of results is damaged, or contains a result of another kind.
    """
    path = _results(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = results_of(cells, make, path, config.workers, name, _kept(study, config))
    results = []
    for cell, result in zip(cells, found, strict=True):
        try:
            results.append(read(result))
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            file = path if line_of(path, cell.key) else KEPT / f"{study}.jsonl"
            where = f"{file}, line {line_of(file, cell.key)}"
            raise ValueError(f"{where} holds no result of this study ({error}): remove the line or the file") from error
    return results


def is_missing(study: str, config: DictConfig, cells: Sequence[Cell[Any]]) -> bool:
    """Return whether the result of any cell is missing, so that `study_results` would compute it."""
    known = _kept(study, config).keys() | read_results(_results(config)).keys()
    return any(cell.key not in known for cell in cells)


def _results(config: DictConfig) -> Path:
    return Path(config.outputs) / "results.jsonl"


def _kept(study: str, config: DictConfig) -> dict[str, dict[str, Any]]:
    return kept_results(study) if config.reuse else {}


def publish(study: str, config: DictConfig, report: Report) -> Path:
    """Print a report's tables, write them and the pictures into the study's folder, and return the folder."""
    directory = run_directory(config, study)
    text = "\n\n".join(format_table(_filled(table)) for table in report.tables if len(table))
    text = "\n".join([text, *([""] if report.notes else []), *report.notes])
    write_atomic(directory / "table.txt", text + "\n")
    print(text)
    for name, draw in report.pictures.items():
        draw(directory / f"{name}.png")
    print(f"tables and pictures: {directory}")
    return directory


def _filled(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without empty columns."""
    return table.loc[:, (table != "").any()]
