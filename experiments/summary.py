"""Compare the results of finished runs in a table: ``python -m experiments.summary [outputs=outputs/search]``.

The runs are searches; or fine-tunings, ``outputs=outputs/finetune`` or ``outputs=outputs/iterate``; or the searches in
a file of results, ``outputs=experiments/results/whisper.jsonl``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.record import check_record, read_record, read_training
from experiments.common.results import read_results
from shrinkml_env.tables import format_table

HEAD = ("run", "found by", "evaluations", "proxy reward", "size ratio", "proxy WER %", "dev WER %", "test WER %")
SETS = ("proxy", "dev", "test")


def records_of(runs: Path) -> dict[str, dict[str, Any]]:
    """Return the ``best.json`` of every finished run in a folder or a file of results: name -> record.

    Raises:
        FileNotFoundError: There is no finished run.
    """
    if runs.is_file():
        return {
            name: check_record(record, f"{runs}, {name}", "size_ratio", "sets")
            for name, record in read_results(runs).items()
        }
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
        # A search's reward function, a rule, a quantiser.
        settings = record.get("settings", {})
        method = settings.get("reward") or next(iter(settings.values()), "")
        # Models without a search have neither, and models that were trained after their search have no reward.
        evaluations, rewards = str(record.get("evaluations") or ""), record.get("rewards")
        scored = f"{rewards['proxy']:.4f}" if rewards else ""
        rows += [(name, method, evaluations, scored, f"{record['size_ratio']:.3f}", *found)]
    # Equal rows are merged: one for the original, or several if the runs have different originals.
    return pd.DataFrame(list(dict.fromkeys(rows)), columns=list(HEAD))


def trained_table(runs: Path) -> pd.DataFrame:
    """Return a table with a row for every finished fine-tuning, by name."""
    rows = []
    for path in sorted(runs.glob("*/result.json")):
        record = read_training(path)
        training = record["training"]
        rows.append(
            {
                "run": path.parent.name,
                "size ratio": f"{record['size_ratio']:.3f}",
                "utterances": training["utterances"],
                "CPU s": f"{training['cpu_seconds']:.0f}",
                "dev WER % before": f"{100 * record['before']['dev']['wer']:.2f}",
                "dev WER % after": f"{100 * record['after']['dev']['wer']:.2f}",
                "test WER % after": f"{100 * record['after']['test']['wer']:.2f}",
            }
        )
    return pd.DataFrame(rows)


@command("summary")
def main(config: DictConfig) -> None:
    """Print the table."""
    runs = Path(config.outputs)
    trained = trained_table(runs)
    print(format_table(trained if len(trained) else table(runs)))


if __name__ == "__main__":
    main()
