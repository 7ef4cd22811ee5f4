"""Store a model's matrices in int8: ``python -m experiments.quantise model=MODEL``.

MODEL is what every command takes: the folder of a saved model or of a run, or a shipped name. The run directory
contains the given model in ``original``, the quantised one in ``compressed``, and a ``best.json`` for
`experiments.validate`. See docs/quantisation.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.compose import to_container
from experiments.common.measure import measure
from experiments.common.run_directory import run_directory, title_of
from experiments.common.sets import load_set
from experiments.common.statistics import in_points
from shrinkml_env import CompressibleModel, SearchResult, count_parameters, load_model, quantise
from shrinkml_env.compression import file_bytes, int8_scales, ranks_of
from shrinkml_env.evaluation import Counts
from shrinkml_env.evaluation.intervals import wer_increase
from shrinkml_env.progress import progress
from shrinkml_env.search_directory import origin, write
from shrinkml_env.search_result import SetResult
from shrinkml_env.text_table import format_table

SETS = ("dev", "test")


def make(config: DictConfig) -> Path:
    """Quantise a model, measure it, write and print the result; return the run's directory.

    Raises:
        FileNotFoundError: The model or a set is missing.
        ImportError: A package is not installed.
        ValueError: The model cannot be read or quantised, or is quantised already.
    """
    model = load_model(config.model)
    if int8_scales(model):
        raise ValueError(f"{config.model} is quantised already")
    quantised = quantise(model)
    sets = {name: load_set(config, name) for name in SETS}
    directory = run_directory(config, title_of(config.model))
    measured = {
        name: (measure(model, utterances), measure(quantised, utterances))
        for name, utterances in progress(sets.items(), desc="original and int8", unit="set")
    }
    result = result_of(config, model, quantised, measured)
    write(result, directory)
    print(format_table(table(result, measured)))
    print(f"{len(int8_scales(quantised))} matrices in int8; the model: {directory / 'compressed'}")
    return directory


def result_of(
    config: DictConfig,
    model: CompressibleModel,
    quantised: CompressibleModel,
    measured: Mapping[str, tuple[Counts, Counts]],
) -> SearchResult:
    """Return the result of a quantisation as that of a search without evaluations.

    Args:
        config: The command's config.
        model: The model before quantisation.
        quantised: The quantised model.
        measured: Name of a set -> word errors of the model and of the quantised one.
    """
    before, after = measured["test"]
    return SearchResult(
        model=quantised,
        original=model,
        layers=(),
        ranks=ranks_of(quantised),
        params=(count_parameters(model), count_parameters(quantised)),
        encoder_params=None,
        file_bytes=(file_bytes(model), file_bytes(quantised)),
        sets={name: SetResult.of(*pair) for name, pair in measured.items()},
        rewards={},
        test_edits=(before.edits, after.edits),
        wer_increase=wer_increase(after.edits, before.edits, before.words),
        history=(),
        config=origin(
            {"quantiser": "int8, symmetric, one scale a row"},
            config.model,
            {name: to_container(config[name]) for name in SETS},
        ),
    )


def table(result: SearchResult, measured: Mapping[str, tuple[Counts, Counts]]) -> pd.DataFrame:
    """Return a table with a row for the file and one for each set."""
    rows = [("file, bytes", *(f"{size:,}" for size in result.file_bytes), "")]
    for name, (before, after) in measured.items():
        more = in_points(wer_increase(after.edits, before.edits, before.words))
        rows.append((f"{name} WER", f"{100 * before.wer:.2f} %", f"{100 * after.wer:.2f} %", more))
    return pd.DataFrame(rows, columns=["", "before", "int8", "points more, 95 % interval"])


@command("quantise")
def main(config: DictConfig) -> None:
    """Quantise one model."""
    make(config)


if __name__ == "__main__":
    main()
