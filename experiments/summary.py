"""Compare the results of finished runs: ``python -m experiments.summary [outputs=outputs/search]``.

It prints a table, and writes ``summary.html`` into the folder of the runs, with a chart of WER against size and the
table to sort.

The runs are searches, or fine-tunings: ``outputs=outputs/finetune`` or ``outputs=outputs/iterate``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.page import Chart, point, render, series, wer_axes
from experiments.common.pareto import pareto_front
from experiments.common.record import read_record, read_training
from shrinkml_env.files import write_atomic
from shrinkml_env.text_table import format_table

HEAD = ("run", "found by", "evaluations", "proxy reward", "size ratio", "proxy WER %", "dev WER %", "test WER %")
SETS = ("proxy", "dev", "test")


def records_of(runs: Path) -> dict[str, dict[str, Any]]:
    """Return the ``best.json`` of every finished run in a folder: name -> record.

    Raises:
        ValueError: It is a file.
        FileNotFoundError: There is no finished run.
    """
    if runs.is_file():
        raise ValueError(f"outputs must be a folder of runs, got the file {runs}")
    records = {path.parent.name: read_record(path, "size_ratio", "sets") for path in sorted(runs.glob("*/best.json"))}
    if not records:
        raise FileNotFoundError(f"outputs={runs} holds no finished run of experiments.search")
    return records


def table(runs: Path) -> pd.DataFrame:
    """Return a table with a row for the original model and for every finished run, by name.

    Raises:
        FileNotFoundError: There is no finished run in the folder.
    """
    rows = []
    for name, record in records_of(runs).items():
        # A quantised model was not measured on proxy.
        original, found = (
            [f"{100 * record['sets'][part][f'wer_{when}']:.2f}" if part in record["sets"] else "" for part in SETS]
            for when in ("before", "after")
        )
        rows += [("original", "", "", "", "1.000", *original)]
        settings = record.get("settings", {})
        if "reward" in settings:
            method = f"{settings['agent']}, {settings['reward']}"
        else:
            method = next(iter(settings.values()), "")  # a rule, a quantiser
        # Models without a search have neither, and models that were trained after their search have no reward.
        evaluations, rewards = str(record.get("evaluations") or ""), record.get("rewards")
        scored = f"{rewards['proxy']:.4f}" if rewards else ""
        rows += [(name, method, evaluations, scored, f"{record['size_ratio']:.3f}", *found)]
    # Equal rows are merged: one for the original, or several if the runs have different originals.
    return pd.DataFrame(list(dict.fromkeys(rows)), columns=list(HEAD))


def trained_table(runs: Path) -> pd.DataFrame:
    """Return a table with a row for every finished fine-tuning, by name."""
    rows = []
    for name, record in _trainings(runs).items():
        training = record["training"]
        rows.append(
            {
                "run": name,
                "size ratio": f"{record['size_ratio']:.3f}",
                "utterances": training["utterances"],
                "CPU s": f"{training['cpu_seconds']:.0f}",
                "dev WER % before": f"{100 * record['before']['dev']['wer']:.2f}",
                "dev WER % after": f"{100 * record['after']['dev']['wer']:.2f}",
                "test WER % after": f"{100 * record['after']['test']['wer']:.2f}",
            }
        )
    return pd.DataFrame(rows)


def _trainings(runs: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: read_training(path) for path in sorted(runs.glob("*/result.json"))}


def chart(runs: Path) -> Chart:
    """Return the chart of WER on test against size: the original, every finished run in a folder, and their front.

    Raises:
        FileNotFoundError: There is no finished run in the folder.
    """
    before: dict[float, None] = {}  # the WERs of different originals, in order
    after: dict[str, tuple[float, float]] = {}
    if trainings := _trainings(runs):
        for name, record in trainings.items():
            after[name] = record["size_ratio"], 100 * record["after"]["test"]["wer"]
    else:
        for name, record in records_of(runs).items():
            if "test" in record["sets"]:
                measured = record["sets"]["test"]
                after[name] = record["size_ratio"], 100 * measured["wer_after"]
                before[100 * measured["wer_before"]] = None
    found = list(after.values())
    best = [point(*found[index]) for index in pareto_front([wer for _, wer in found], [size for size, _ in found])]
    drawn = [
        series("original", "#222", [point(1.0, wer, _tip("original", 1.0, wer)) for wer in before], size=10),
        series("front", "#1f5a94", best, line="stepped"),
        series("runs", "#d62728", [point(*one, tip=_tip(name, *one)) for name, one in after.items()], size=9),
    ]
    return {**wer_axes("test"), "series": drawn}


def _tip(name: str, size: float, wer: float) -> list[str]:
    return [name, f"size ratio {size:.3f}", f"test WER {wer:.2f} %"]


def write_page(runs: Path, rows: pd.DataFrame) -> Path:
    """Write ``summary.html`` into a folder of runs, and return its path.

    Args:
        runs: The folder.
        rows: The table; a run's name becomes a link to its report, if it has one.
    """
    path = runs / "summary.html"
    reports = {folder.parent.name for folder in runs.glob("*/report.html")}
    page = render(
        "summary.html",
        {"sizes": chart(runs)},
        runs=runs,
        columns=list(rows.columns),
        rows=rows.to_numpy().tolist(),
        reports=reports,
    )
    write_atomic(path, page)
    return path


@command("summary")
def main(config: DictConfig) -> None:
    """Print the table, and write the page."""
    runs = Path(config.outputs)
    trained = trained_table(runs)
    rows = trained if len(trained) else table(runs)
    print(format_table(rows))
    # The table alone is the output.
    print(f"as a page: {write_page(runs, rows)}", file=sys.stderr)


if __name__ == "__main__":
    main()
