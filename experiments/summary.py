"""What finished runs found, side by side: ``python -m experiments.summary [outputs=outputs/search]``.

Of searches, or of fine-tunings: ``outputs=outputs/finetune``, ``outputs=outputs/iterate``.
"""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.report import format_table

TRAINED = ("run", "size ratio", "utterances", "CPU s", "dev WER % before", "dev WER % after", "test WER % after")
HEAD = ("run", "found by", "evaluations", "proxy reward", "size ratio", "proxy WER %", "dev WER %", "test WER %")
SETS = ("proxy", "dev", "test")


def rows(runs: Path) -> list[tuple[str, ...]]:
    """Return the rows of the original model and of every finished run, by name.

    Raises:
        FileNotFoundError: There is no finished run in the folder.
    """
    records = {path.parent.name: json.loads(path.read_text()) for path in sorted(runs.glob("*/best.json"))}
    if not records:
        raise FileNotFoundError(f"{runs} holds no finished run of experiments.search")
    table = []
    for name, record in records.items():
        # A quantised model was not measured on proxy.
        original, found = (
            [f"{100 * record['sets'][part][f'wer_{when}']:.2f}" if part in record["sets"] else "" for part in SETS]
            for when in ("before", "after")
        )
        table += [("original", "", "", "", "1.000", *original)]
        # A search's reward function, a rule, a quantiser.
        settings = record["settings"]
        method = settings.get("reward") or next(iter(settings.values()))
        # What no search has found has neither, and a model that was trained after its search has no reward.
        spent, rewards = str(record.get("evaluations", "")), record.get("rewards")
        scored = f"{rewards['proxy']:.4f}" if rewards else ""
        table += [(name, method, spent, scored, f"{record['size_ratio']:.3f}", *found)]
    # One line for the original; more only if the runs are not of the same one.
    return list(dict.fromkeys(table))


def trained_rows(runs: Path) -> list[tuple[str, ...]]:
    """Return the rows of every finished fine-tuning, by name."""
    table = []
    for path in sorted(runs.glob("*/result.json")):
        record = json.loads(path.read_text())
        training = record["training"]
        measured = (record["before"]["dev"], record["after"]["dev"], record["after"]["test"])
        rates = [f"{100 * found['wer']:.2f}" for found in measured]
        size = f"{record['size_ratio']:.3f}"
        table.append((path.parent.name, size, f"{training['utterances']}", f"{training['cpu_seconds']:.0f}", *rates))
    return table


@command("summary")
def main(config: DictConfig) -> None:
    """Print the table."""
    runs = Path(config.outputs)
    trained = trained_rows(runs)
    print(format_table(TRAINED, trained) if trained else format_table(HEAD, rows(runs)))


if __name__ == "__main__":
    main()
