"""Measure a result again: ``python -m experiments.validate run=DIR``, or ``ranks=FILE``.

With a run, the command loads ``DIR/original`` and ``DIR/compressed``, transcribes every set, and compares parameters,
bytes, size ratio and word errors with ``best.json``. With a file like ``best.json``, it compresses the file's model by
the file's ranks, and compares in the same way. It ends with an error if a number differs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from experiments.common.command import command
from experiments.common.kinds import NAME, optional
from experiments.common.measure import measure
from experiments.common.parts import part
from experiments.common.record import named_classes, read_record
from experiments.common.searches import compensated
from shrinkml_env import Evaluator, count_parameters, load_compressed, load_model, load_utterances
from shrinkml_env.compression.factorisations import make_factorisation
from shrinkml_env.progress import progress
from shrinkml_env.search_result import SetResult


def validate(directory: Path) -> list[str]:
    """Measure the models of a run and print the WERs; return the differences from the record, one line each.

    Raises:
        FileNotFoundError: The folder does not contain a finished run.
        ValueError: The record is not valid, or lacks the utterance sets.
    """
    path = directory / "best.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: is {directory} a finished run of experiments.search?")
    record = read_record(path, "params", "file_bytes", "size_ratio", "sets")
    if "utterances" not in record:
        raise ValueError(f"{path} lacks utterances, the sets that were measured: give them to run_search as config=")
    models = {name: load_compressed(directory / name) for name in ("original", "compressed")}
    measured: dict[str, Any] = {
        "params": {name: count_parameters(model) for name, model in models.items()},
        "file_bytes": {name: (directory / name / "model.safetensors").stat().st_size for name in models},
        "sets": {},
    }
    measured["size_ratio"] = measured["params"]["compressed"] / measured["params"]["original"]
    for name, spec in progress(record["utterances"].items(), desc="sets"):
        utterances = load_utterances(spec, name)
        before, after = (measure(model, utterances) for model in models.values())
        result = SetResult.of(before, after)
        measured["sets"][name] = result.to_json()
        tqdm.write(f"{name}: WER {100 * result.wer_before:.2f} % before, {100 * result.wer_after:.2f} % after")
    recorded = {key: record[key] for key in measured}
    return [f"{key}: recorded {was}, measured {now}" for key, was, now in _differences(recorded, measured)]


def validate_ranks(path: Path, trust: bool = False) -> list[str]:
    """Measure the configuration in a file, without a cache, and print the WERs; return the differences from the record.

    Args:
        path: The file.
        trust: Whether to import the class that the file may name as its factorisation, which runs its code.

    Raises:
        ValueError: The record is not valid, its ranks do not fit its model, or it names a class and is not trusted.
        FileNotFoundError: There is no such file or model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"ranks={path}: there is no such file")
    needed = ("model", "factorisation", "granularity", "utterances", "ranks", "params", "size_ratio", "sets")
    record = read_record(path, *needed)
    method, classes = record["factorisation"], named_classes(record["factorisation"])
    if classes:
        if not trust:
            raise ValueError(
                f"{path} names {classes[0]} as its factorisation, and what a file names is not run: give trust=true if "
                "you trust whoever wrote it"
            )
        method = part("factorisation", OmegaConf.create(method))
    sets = {name: load_utterances(spec, name) for name, spec in record["utterances"].items()}
    model = load_model(record["model"])
    if record.get("compensated") and not (isinstance(method, Mapping) and "calibration" in method):
        raise ValueError(f"{path}: compensated is true, but the factorisation names no calibration speech to do it on")
    factorisation = make_factorisation(model, method)  # without a cache: everything is computed anew
    if record.get("compensated"):
        some = Evaluator(model, next(iter(sets.values())), record["granularity"], factorisation=factorisation)
        factorisation = compensated(some, record, record["ranks"])
    measured: dict[str, Any] = {"sets": {}}
    for name, utterances in progress(sets.items(), desc="sets"):
        evaluator = Evaluator(model, utterances, record["granularity"], factorisation=factorisation)
        evaluator.matrix_ranks(record["ranks"])  # raises an error for wrong ranks before anything is measured
        before, after = evaluator.baseline, evaluator.evaluate(record["ranks"])
        measured |= {"params": {"original": before.params, "compressed": after.params}, "size_ratio": after.size_ratio}
        result = SetResult.of(before, after)
        measured["sets"][name] = result.to_json()
        tqdm.write(f"{name}: WER {100 * result.wer_before:.2f} % before, {100 * result.wer_after:.2f} % after")
    recorded = {key: record[key] for key in measured}
    return [f"{key}: recorded {was}, measured {now}" for key, was, now in _differences(recorded, measured)]


def _differences(recorded: Any, measured: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Return the leaves in which two nested mappings differ: (dotted key, recorded value, measured value)."""
    if not (isinstance(recorded, dict) and isinstance(measured, dict)):
        return [] if recorded == measured else [(key, recorded, measured)]
    return [
        difference
        for name in sorted(recorded.keys() | measured.keys())
        for difference in _differences(recorded.get(name), measured.get(name), f"{key}.{name}".lstrip("."))
    ]


@command("validate", run=optional(NAME), ranks=optional(NAME))
def main(config: DictConfig) -> None:
    """Measure one result; exit with status 1 if the record and the measurement differ."""
    if (config.run is None) == (config.ranks is None):
        raise ValueError("give one of run=DIR, a run of experiments.search, and ranks=FILE, a file like its best.json")
    if config.run is not None:
        differences = validate(Path(config.run))
    else:
        differences = validate_ranks(Path(config.ranks), config.trust)
    if differences:
        sys.exit("VALIDATION FAILED\n" + "\n".join(differences))
    print("sizes and word errors were measured again, and are those recorded")


if __name__ == "__main__":
    main()
