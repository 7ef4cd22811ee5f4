"""Measure a run's saved model anew: ``python -m experiments.validate run=DIR``.

Loads ``DIR/compressed`` as anybody would, without the original or the search, transcribes dev and test, and compares
with what ``best.json`` says. Ends with an error where a number differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

from shrinkml_env import count_parameters, load_compressed
from shrinkml_env.data import load_utterances
from shrinkml_env.evaluation import recognise_all, word_edits


def validate(directory: Path) -> list[str]:
    """Prints what is measured; returns what differs from the record, one line each.

    Raises:
        FileNotFoundError: The folder is not a finished run's.
    """
    record_path = directory / "best.json"
    if not record_path.is_file():
        raise FileNotFoundError(f"{record_path} is missing: is {directory} a finished run of experiments.search?")
    record = json.loads(record_path.read_text())
    model = load_compressed(directory / "compressed")
    measured: dict[str, tuple[int, int]] = {
        "parameters": (record["params"]["compressed"], count_parameters(model)),
        "file bytes": (
            record["file_bytes"]["compressed"],
            (directory / "compressed" / "model.safetensors").stat().st_size,
        ),
    }
    for name in ("dev", "test"):
        utterances = load_utterances(record[f"{name}_set"])
        hypotheses = recognise_all(model, utterances)
        counts = [
            word_edits(model.normalise(utterance.text), model.normalise(hypothesis.text))
            for utterance, hypothesis in zip(utterances, hypotheses, strict=True)
        ]
        edits, words = (sum(column) for column in zip(*counts, strict=True))
        measured[f"{name} word errors"] = (record["sets"][name]["edits_after"], edits)
        measured[f"{name} reference words"] = (record["sets"][name]["words"], words)
        print(f"{name}: WER {100 * edits / words:.2f} % ({edits} errors in {words} words)")
    return [
        f"{what}: recorded {recorded}, measured {now}" for what, (recorded, now) in measured.items() if recorded != now
    ]


@hydra.main(version_base="1.3", config_path="../conf", config_name="validate")
def main(config: DictConfig) -> None:
    """Exit status 1 where the record and the measurement differ."""
    torch.set_num_threads(1)
    differences = validate(Path(config.run))
    if differences:
        sys.exit("VALIDATION FAILED\n" + "\n".join(differences))
    print("every recorded number was measured again")


if __name__ == "__main__":
    main()
