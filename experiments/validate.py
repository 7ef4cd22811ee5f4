"""Measure a result anew: ``python -m experiments.validate run=DIR``, or ``ranks=FILE``.

With a run: loads ``DIR/original`` and ``DIR/compressed`` as anybody would, transcribes every set, and compares all of
it with what ``best.json`` says. With a file like ``best.json``: compresses the model that it names by the ranks that it
holds, and compares likewise. Ends with an error where a number differs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from experiments.common.command import command
from experiments.common.measure import measure
from experiments.common.parts import part
from experiments.common.record import named_classes, read_record
from shrinkml_env import Evaluator, count_parameters, load_compressed, load_model, load_utterances
from shrinkml_env.envs import make_factorisation
from shrinkml_env.search_result import SetResult


def validate(directory: Path) -> list[str]:
    """Print what is measured; return what differs from the record, one line each.

    Raises:
        FileNotFoundError: The folder is not a finished run's.
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
    for name, spec in tqdm(record["utterances"].items(), desc="sets"):
        utterances = load_utterances(spec)
        result: dict[str, Any] = {"utterances": len(utterances)}
        for when, model in zip(("before", "after"), models.values(), strict=True):
            found = measure(model, utterances)
            edits, words = sum(found.edits), sum(found.words)
            result |= {f"edits_{when}": edits, "words": words, f"wer_{when}": edits / words}
            result[f"capped_{when}"] = found.capped
        measured["sets"][name] = result
        print(f"{name}: WER {100 * result['wer_before']:.2f} % before, {100 * result['wer_after']:.2f} % after")
    recorded = {key: record[key] for key in measured}
    return [f"{key}: recorded {was}, measured {now}" for key, was, now in _differences(recorded, measured)]


def validate_ranks(path: Path, trust: bool = False) -> list[str]:
    """Print what is measured; return what differs from the record, one line each. No cache is asked.

    Args:
        path: The file.
        trust: Import the class that it may name as its factorisation: whoever wrote the file decides what runs.

    Raises:
        ValueError: The file lacks something, its ranks are not of its model, or it names a class and is not trusted.
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
    sets = {name: load_utterances(spec) for name, spec in record["utterances"].items()}
    model = load_model(record["model"])
    factorisation = make_factorisation(model, method)
    measured: dict[str, Any] = {"sets": {}}
    for name, utterances in tqdm(sets.items(), desc="sets"):
        evaluator = Evaluator(model, utterances, record["granularity"], factorisation=factorisation)
        evaluator.matrix_ranks(record["ranks"])  # What is wrong with them is told before anything is measured.
        before, after = evaluator.baseline, evaluator.evaluate(record["ranks"])
        measured |= {"params": {"original": before.params, "compressed": after.params}, "size_ratio": after.size_ratio}
        result = SetResult.of(before, after)
        measured["sets"][name] = result.to_json()
        print(f"{name}: WER {100 * result.wer_before:.2f} % before, {100 * result.wer_after:.2f} % after")
    recorded = {key: record[key] for key in measured}
    return [f"{key}: recorded {was}, measured {now}" for key, was, now in _differences(recorded, measured)]


def _differences(recorded: Any, measured: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Return the leaves of two nested mappings that differ or that only one has."""
    if not (isinstance(recorded, dict) and isinstance(measured, dict)):
        return [] if recorded == measured else [(key, recorded, measured)]
    return [
        difference
        for name in sorted(recorded.keys() | measured.keys())
        for difference in _differences(recorded.get(name), measured.get(name), f"{key}.{name}".lstrip("."))
    ]


@command("validate")
def main(config: DictConfig) -> None:
    """Measure one result; the exit status is 1 where the record and the measurement differ."""
    torch.set_num_threads(1)
    if (config.run is None) == (config.ranks is None):
        raise ValueError("give one of run=DIR, a run of experiments.search, and ranks=FILE, a file like its best.json")
    if config.run is not None:
        differences = validate(Path(config.run))
    else:
        differences = validate_ranks(Path(config.ranks), config.trust)
    if differences:
        sys.exit("VALIDATION FAILED\n" + "\n".join(differences))
    print("every recorded number was measured again")


if __name__ == "__main__":
    main()
