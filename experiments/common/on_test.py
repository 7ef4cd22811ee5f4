"""What a model, compressed or not, makes of utterances of a test set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from experiments.common.compose import to_container
from experiments.common.findings import Errors, Finding, Reported
from experiments.common.imports import import_modules
from experiments.common.parts import part
from experiments.common.results import Cell
from shrinkml_env import CompressibleModel, EvaluationCache, Evaluator, load_model
from shrinkml_env.compression.factorisations import make_factorisation
from shrinkml_env.data import SpeechFolder
from shrinkml_env.data.split import spread

__all__ = ["Checked", "Measurement", "chunks", "equal_transcripts", "measured", "reported"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A configuration to measure on a chunk of a test set.

    Attributes:
        search: The config whose model, factorisation and granularity it belongs to.
        ranks: Layer name -> rank.
        root: The folder of the test sets.
        subset: The name of the test set.
        ids: The utterances of the chunk.
    """

    search: DictConfig
    ranks: Mapping[str, int]
    root: str
    subset: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """Utterances whose transcripts are compared with those of transformers' own ``generate``.

    Attributes:
        model: The model, one of Hugging Face.
        root: The folder of the sets.
        subsets: The names of the sets.
        ids: The utterances.
    """

    model: str
    root: str
    subsets: tuple[str, ...]
    ids: tuple[str, ...]


def measured(task: Measurement) -> dict[str, Any]:
    """Return the `Errors` of one configuration on a chunk of a test set, as JSON."""
    import_modules(task.search.imports)  # a worker process has not imported them yet
    model, factorisation = _prepared(task.search.model, OmegaConf.to_yaml(task.search.factorisation, resolve=True))
    folder = SpeechFolder(task.root, task.subset)
    places = {name: place for place, name in enumerate(folder.ids)}
    utterances = [folder[places[name]] for name in task.ids]
    evaluator = Evaluator(
        model,
        utterances,
        to_container(task.search.granularity),
        EvaluationCache(),
        factorisation,
        memory=0,
        dense=to_container(task.search.dense),
    )
    found = evaluator.evaluate(task.ranks)
    return asdict(Errors(list(found.edits), list(found.words)))


@lru_cache(maxsize=2)
def _prepared(name: str, factorisation: str) -> tuple[CompressibleModel, Any]:
    """Return a model and its factorisation, given as YAML."""
    model = load_model(name)
    config = OmegaConf.create(factorisation)
    assert isinstance(config, DictConfig)
    spec = part("factorisation", config)
    return model, make_factorisation(model, spec, EvaluationCache())


def equal_transcripts(task: Checked) -> int:
    """Count the utterances that a model and transformers' ``generate`` transcribe alike."""
    model: Any = load_model(task.model)
    folder = SpeechFolder(task.root, task.subsets)
    places = {name: place for place, name in enumerate(folder.ids)}
    equal = 0
    for name in task.ids:
        waveform = folder[places[name]].waveform
        with torch.inference_mode():
            tokens = model.network.generate(model.features(waveform))
        (ours,) = model.transcribe([waveform])
        equal += ours == model.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
    return equal


def chunks(root: str, subset: str, size: int) -> list[tuple[str, ...]]:
    """Return a test set's utterances in chunks of a size, each spread over all speakers: the ids of each."""
    folder = SpeechFolder(root, subset)
    left = list(range(len(folder)))
    found = []
    while left:
        chosen = spread(left, folder.speakers, size)
        found.append(tuple(folder.ids[index] for index in chosen))
        left = sorted(set(left) - set(chosen))
    return found


def reported(
    found: Sequence[Finding], cells: Sequence[Sequence[Cell[Measurement]]], results: Sequence[Errors]
) -> list[Reported]:
    """Join the chunks of each configuration.

    Args:
        found: The findings.
        cells: As `Study.measurements` returns them.
        results: The result of each cell.

    Returns:
        The original, then the findings, each beside the original on the same utterances.
    """
    left = iter(results)
    before, *errors = [_joined((cell.task.subset, next(left)) for cell in of_one) for of_one in cells]
    return [
        Reported(None, before, before),
        *(
            Reported(one, after, {name: before[name].first(len(of_set.edits)) for name, of_set in after.items()})
            for one, after in zip(found, errors, strict=True)
        ),
    ]


def _joined(chunks: Iterable[tuple[str, Errors]]) -> dict[str, Errors]:
    """Join the errors of chunks, each with the name of its test set: name of the test set -> errors."""
    found: dict[str, Errors] = {}
    for subset, errors in chunks:
        so_far = found.get(subset, Errors([], []))
        found[subset] = Errors([*so_far.edits, *errors.edits], [*so_far.words, *errors.words])
    return found
