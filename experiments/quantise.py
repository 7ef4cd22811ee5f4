"""Store a model's matrices in int8: ``python -m experiments.quantise model=MODEL``.

MODEL is a saved model, compressed or not, a run that has made one, or a shipped name. The run directory holds the model
as it was in ``original`` and the quantised one in ``compressed``, and a ``best.json`` for `experiments.validate`. See
docs/quantisation.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig
from tqdm import tqdm

from experiments.common.command import command
from experiments.common.measure import measure
from experiments.common.run_directory import plain, run_directory, title_of, write_json
from experiments.common.statistics import in_points
from experiments.finetune import model_in
from shrinkml_env import count_parameters, load_model, load_utterances, quantise, save_compressed
from shrinkml_env.compression import int8_scales, ranks_of
from shrinkml_env.evaluation.intervals import wer_increase
from shrinkml_env.search_result import SetResult
from shrinkml_env.tables import format_table

SETS = ("dev", "test")


def make(config: DictConfig) -> Path:
    """Quantise, save, measure, print; returns the run's directory.

    Raises:
        FileNotFoundError: There is no such model or set.
        ImportError: A package is not installed.
        ValueError: The model cannot be read or quantised, or is quantised already.
    """
    model = load_model(model_in(config.model))
    if int8_scales(model):
        raise ValueError(f"{config.model} is quantised already")
    quantised = quantise(model)
    sets = {name: load_utterances(plain(config[name])) for name in SETS}
    directory = run_directory(config, title_of(config.model))
    models = {"original": model, "compressed": quantised}
    for name, form in models.items():
        save_compressed(form, directory / name)
    file_bytes = {name: (directory / name / "model.safetensors").stat().st_size for name in models}
    rows = [("file, bytes", *(f"{size:,}" for size in file_bytes.values()), "")]
    results: dict[str, Any] = {}
    increases: dict[str, Any] = {}
    for name, utterances in tqdm(sets.items(), desc="WER", unit="set"):
        before, after = (measure(form, utterances) for form in models.values())
        results[name] = SetResult.of(before, after)
        increases[name] = increase = wer_increase(after.edits, before.edits, before.words)
        wers = (f"{100 * found.wer:.2f} %" for found in (before, after))
        rows.append((f"{name} WER", *wers, in_points(increase)))
    params = {name: count_parameters(form) for name, form in models.items()}
    record = {
        "settings": {"quantiser": "int8, symmetric, one scale a row"},
        "model": config.model,
        "utterances": {name: plain(config[name]) for name in SETS},
        "ranks": ranks_of(quantised),
        "size_ratio": params["compressed"] / params["original"],
        "params": params,
        "file_bytes": file_bytes,
        "wer_increase": {name: increase._asdict() for name, increase in increases.items()},
        "sets": {name: result.to_json() for name, result in results.items()},
    }
    write_json(directory / "best.json", record)
    print(format_table(pd.DataFrame(rows, columns=["", "before", "int8", "points more, 95 % interval"])))
    print(f"{len(int8_scales(quantised))} matrices in int8; the model: {directory / 'compressed'}")
    return directory


@command("quantise")
def main(config: DictConfig) -> None:
    """Quantise one model."""
    make(config)


if __name__ == "__main__":
    main()
