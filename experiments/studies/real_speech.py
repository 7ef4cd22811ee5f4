"""A model that people use, on people's speech: ``python -m experiments.studies.real_speech root=FOLDER [workers=2]``.

Utterances of LibriSpeech's dev-clean and dev-other calibrate, serve to select the proxy set, and to choose, no speaker
for two of these. Rules and searches look for configurations of several sizes of the encoder and of the whole model;
what they find is measured on test-clean and test-other, chunk by chunk: on the first chunk of each, whose utterances
are spread over all speakers, or on all. Everything found is written to a file, and the same command goes on where it
was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.compared import Method, methods_of, search_of
from experiments.common.compose import to_container
from experiments.common.findings import ORIGINAL, Errors, Finding, best_on_dev, draw, pair_table, table
from experiments.common.kinds import NAME, SHARE, choice, list_of, mapping_of, mapping_with, whole
from experiments.common.on_test import Checked, Measurement, chunks, equal_transcripts, measured, reported
from experiments.common.options import COMPARED, OVERRIDES
from experiments.common.results import Cell
from experiments.common.searches import evaluator_on
from experiments.common.sized_searches import found_by_rule, found_by_search
from experiments.common.speech import calibrate_on
from experiments.common.study import Report, publish, study_results
from experiments.studies.proxy_selection import (
    Proxy,
    Selection,
    check_selection,
    proxy_table,
    selected,
    selection_cell,
)
from shrinkml_env import CompressibleModel, count_parameters, load_model
from shrinkml_env.asr.huggingface import HuggingFaceSeq2Seq
from shrinkml_env.compression import encoder_parameters
from shrinkml_env.compression.canonical import digest
from shrinkml_env.compression.layers import group_layers
from shrinkml_env.compression.store import model_content
from shrinkml_env.data import SpeechFolder

DEV = ("dev-clean", "dev-other")
TEST = ("test-clean", "test-other")

PURPOSES = ("calibration", "pool", "dev")
"""What utterances of the dev sets serve for: factors, the selection of the proxy set, the choice among finalists."""

SCOPES = ("encoder", "whole")
"""The parts that may be compressed: the encoder, or the whole model."""

CHECKED = 50
"""Utterances that are compared with transformers in one cell."""


@dataclass(frozen=True, slots=True)
class Sought:
    """A configuration of a size that a method is asked for.

    Attributes:
        scope: The part that is compressed: ``"encoder"``, or ``"whole"``.
        size: The largest share of the parameters in question.
        method: The rule or the search.
        ratio: The largest share of the whole model's parameters.
        search: The config of `experiments.search`.
        finalists: Number of configurations of a search that are measured on dev, besides those of the rules that it
            begins with.
    """

    scope: str
    size: float
    method: Method
    ratio: float
    search: DictConfig
    finalists: int


def purposes_of(config: DictConfig) -> dict[str, list[str]]:
    """Return the utterances of the dev sets for each purpose: purpose -> ids.

    Raises:
        ValueError: The dev sets lack one, or a speaker serves two purposes.
    """
    folder = SpeechFolder(config.root, DEV)
    speaker_of = dict(zip(folder.ids, folder.speakers, strict=True))
    serves: dict[str, str] = {}
    for purpose, ids in config.speech.items():
        for name in ids:
            if name not in speaker_of:
                raise ValueError(
                    f"speech.{purpose}: there is no utterance {name!r} in {' or '.join(DEV)} of {config.root}"
                )
            other = serves.setdefault(speaker_of[name], purpose)
            if other != purpose:
                raise ValueError(f"speech.{purpose}: {name!r} is of a speaker of speech.{other}, {speaker_of[name]}")
    return {str(purpose): list(ids) for purpose, ids in config.speech.items()}


def check_model(config: DictConfig, methods: Sequence[Method], model: CompressibleModel) -> None:
    """Check that what the study asks of the model can be done.

    Raises:
        ValueError: A pattern of dense layers matches none, no layer is left to compress, or transformers generates no
            transcripts to compare.
    """
    for scope, options in config.scopes.items():
        try:
            group_layers(model.layers, "layer", options.dense)
        except ValueError as error:
            raise ValueError(f"scopes.{scope}.{error}") from error
    for method in {method.name: method for method in methods}.values():
        search = search_of(config, method, 1.0).config
        for scope in scopes_of(config, method):
            try:
                group_layers(
                    model.layers, to_container(search.granularity), [*search.dense, *config.scopes[scope].dense]
                )
            except ValueError as error:
                raise ValueError(f"methods.{method.name}, with scopes.{scope}: {error}") from error
    if config.checked and not isinstance(model, HuggingFaceSeq2Seq):
        raise ValueError(
            "checked: only encoder-decoder models of Hugging Face are compared with transformers: give checked=0"
        )


def scopes_of(config: DictConfig, method: Method) -> list[str]:
    """Return the scopes that a method is asked for: its own, or all, of those that the study has."""
    own = config.methods[method.name].get("scopes", config.scopes)
    return [str(scope) for scope in config.scopes if scope in own]


def speech_of(config: DictConfig, purposes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return what `load_utterances` takes: purpose -> its utterances of the dev sets."""
    return {purpose: {"root": config.root, "subset": list(DEV), "ids": list(ids)} for purpose, ids in purposes.items()}


def search_config(
    config: DictConfig, method: Method, scope: str, ratio: float, model: str, speech: Mapping[str, Any]
) -> DictConfig:
    """Return the config of `experiments.search` for a method at a size.

    Args:
        config: The study's.
        method: The method.
        scope: The part that is compressed.
        ratio: The largest share of the whole model's parameters.
        model: What `load_model` takes.
        speech: Purpose -> what `load_utterances` takes.
    """
    search = search_of(config, method, ratio).config
    search.model = model
    search.dense = [*search.dense, *config.scopes[scope].dense]
    search.proxy, search.dev = speech["proxy"], speech["dev"]
    calibrate_on(search, speech["calibration"])
    return search


def make(task: Selection | Sought | Measurement | Checked) -> dict[str, Any]:
    """Return a `Proxy`, a `Finding`, `Errors`, or the number of equal transcripts, as JSON."""
    if isinstance(task, Selection):
        return selected(task)
    if isinstance(task, Checked):
        return {"equal": equal_transcripts(task)}
    if isinstance(task, Measurement):
        return measured(task)
    method = task.method
    if method.budget is None:
        problem, ranks, _ = found_by_rule(task.search, task.ratio)
    else:
        problem, ranks, _ = found_by_search(task.search, task.finalists, and_rules=True)
    evaluator = evaluator_on(problem, task.search, "dev")
    dev_wer = None if method.budget is None else evaluator.evaluate(ranks).wer
    return asdict(
        Finding(
            task.scope,
            task.size,
            method.name,
            method.seed,
            dict(ranks),
            evaluator.size_ratio(ranks),
            evaluator.macs(ranks) / evaluator.macs({}),
            problem.ledger.count,
            dev_wer,
        )
    )


class Study:
    """The study of one config: its cells in two steps, since what is measured on test has to be found first.

    Args:
        config: The study's config.
        methods: Its methods, see `methods_of`.
        model: The model.
        purposes: ``"calibration"``, ``"dev"`` and, if a method is a search, ``"proxy"`` -> ids of utterances of the dev
            sets.
    """

    def __init__(
        self,
        config: DictConfig,
        methods: Sequence[Method],
        model: CompressibleModel,
        purposes: Mapping[str, Sequence[str]],
    ) -> None:
        self.config = config
        self.methods = methods
        self.purposes = purposes
        self.chunks = {subset: chunks(config.root, subset, config.chunk) for subset in TEST}
        self.content = digest(model_content(model))
        self.params = count_parameters(model)
        self.scope_params = {"encoder": encoder_parameters(model), "whole": self.params}

    def ratio(self, scope: str, size: float) -> float:
        """Return the share of the whole model's parameters that is left with a share of those in question."""
        return 1 - (1 - size) * self.scope_params[scope] / self.params

    def search(self, method: Method, scope: str, size: float) -> DictConfig:
        """Return the config of a search, see `search_config`."""
        ratio = self.ratio(scope, size)
        speech = speech_of(self.config, self.heard_by(method))
        return search_config(self.config, method, scope, ratio, self.config.model, speech)

    def heard_by(self, method: Method) -> dict[str, Sequence[str]]:
        """Return the speech of a method: purpose -> ids. A rule searches on none: dev stands for it."""
        return {**self.purposes, **({"proxy": self.purposes["dev"]} if method.budget is None else {})}

    def described(self, method: Method, scope: str, size: float) -> DictConfig:
        """Return the config of a search without places: the model by its content, speech by its purpose."""
        names = {purpose: purpose for purpose in self.heard_by(method)}
        return search_config(self.config, method, scope, round(self.ratio(scope, size), 6), self.content, names)

    def search_cells(self) -> list[Cell[Sought]]:
        """Return the cells of the searches, scope by scope and size by size."""
        cells = []
        for scope, options in self.config.scopes.items():
            for size in options.sizes:
                for method in self.methods:
                    if scope not in scopes_of(self.config, method):
                        continue
                    search, ratio = self.search(method, scope, size), self.ratio(scope, size)
                    task = Sought(scope, size, method, ratio, search, self.config.finalists)
                    content: dict[str, Any] = {
                        "search": self.described(method, scope, size),
                        "speech": self.heard_by(method),
                        "ratio": round(ratio, 6),
                    }
                    if method.budget is not None:
                        content["finalists"] = f"{self.config.finalists}, and the rules of all ranks"
                    about = {"scope": scope, "size": size, "method": method.name, "seed": method.seed}
                    cells.append(Cell(task, content, about))
        return cells

    def measurements(self, found: Sequence[Finding]) -> list[list[Cell[Measurement]]]:
        """Return the cells of what is measured on test: the original's, then those of each finding.

        What several methods or seeds have found alike has equal keys: it is measured once.
        """
        first, scope = self.methods[0], next(iter(self.config.scopes))
        cells = [self._measurements(first, scope, {}, {"method": ORIGINAL}, whole=bool(self.config.complete))]
        for one in found:
            (method,) = [m for m in self.methods if (m.name, m.seed) == (one.method, one.seed)]
            seeds = [f for f in found if (f.scope, f.size, f.method) == (one.scope, one.size, one.method)]
            about = {"method": one.method, "scope": one.scope, "size": one.size, "seed": one.seed}
            whole = one.method in self.config.complete and one is best_on_dev(seeds)
            cells.append(self._measurements(method, one.scope, one.ranks, about, whole))
        return cells

    def _measurements(
        self, method: Method, scope: str, ranks: Mapping[str, int], about: Mapping[str, Any], whole: bool
    ) -> list[Cell[Measurement]]:
        """Return the cells of one configuration: of the first chunk of each test set, or of the whole sets."""
        search = self.search(method, scope, 1)
        content: dict[str, Any] = {"model": self.content, "ranks": dict(ranks), "granularity": search.granularity}
        if ranks:
            content["factorisation"] = self.described(method, scope, 1).factorisation
            content["calibration"] = self.purposes["calibration"]
        return [
            Cell(
                Measurement(search, ranks, self.config.root, subset, chunk),
                {**content, "test": chunk},
                {**about, "test": subset, "first": chunk[0]},
            )
            for subset, ids in self.chunks.items()
            for chunk in (ids if whole else ids[:1])
        ]

    def checks(self) -> list[Cell[Checked]]:
        """Return the cells of the comparison with transformers: random utterances of both test sets."""
        ids = sorted(name for of_set in self.chunks.values() for chunk in of_set for name in chunk)
        drawn = [ids[index] for index in np.random.default_rng(0).permutation(len(ids))[: self.config.checked]]
        tasks = [tuple(drawn[start : start + CHECKED]) for start in range(0, len(drawn), CHECKED)]
        return [
            Cell(
                Checked(self.config.model, self.config.root, TEST, task),
                {"model": self.content, "checked": task},
                {"checked": task[0]},
            )
            for task in tasks
        ]


@command(
    "real_speech",
    base=OVERRIDES,
    checked=whole(0),
    chunk=whole(1),
    complete=list_of(NAME, least=0),
    methods=mapping_of(mapping_with({**COMPARED, "scopes": list_of(choice(*SCOPES))}, needed=("agent", "overrides"))),
    rivals=list_of(NAME, least=0),
    root=NAME,
    selection=OVERRIDES,
    scopes=mapping_with(
        dict.fromkeys(
            SCOPES, mapping_with({"dense": list_of(NAME, least=0), "sizes": list_of(SHARE)}, ("dense", "sizes"))
        )
    ),
    speech=mapping_with(dict.fromkeys(PURPOSES, list_of(NAME)), needed=PURPOSES),
)
def main(config: DictConfig) -> None:
    """Run the missing searches and measurements, then print the tables."""
    methods = methods_of(config)
    if not config.scopes:
        raise ValueError("scopes: none is left: keep encoder or whole")
    check_selection(config.selection)
    purposes = purposes_of(config)
    model = load_model(config.model)
    check_model(config, methods, model)
    selections = (
        [selection_cell(config, model, purposes, speech_of(config, purposes))]
        if any(method.budget for method in methods)
        else []
    )
    chosen = study_results("real_speech", config, selections, make, lambda result: Proxy(**result), "proxy set")
    heard: dict[str, Sequence[str]] = {"calibration": purposes["calibration"], "dev": purposes["dev"]}
    if chosen:
        heard["proxy"] = chosen[0].ids
    study = Study(config, methods, model, heard)
    searches = study.search_cells()
    found = [
        # Cells of the same settings share a result, under the names that each has in this config.
        replace(one, method=cell.task.method.name, scope=cell.task.scope, size=cell.task.size)
        for cell, one in zip(
            searches,
            study_results("real_speech", config, searches, make, lambda result: Finding(**result)),
            strict=True,
        )
    ]
    measurements = study.measurements(found)
    chunk_cells = [cell for of_one in measurements for cell in of_one]
    errors = study_results("real_speech", config, chunk_cells, make, lambda result: Errors(**result), "test sets")
    checks = study.checks()
    equal = study_results("real_speech", config, checks, make, lambda result: int(result["equal"]), "checks")
    rows = reported(found, measurements, errors)
    count = sum(len(cell.task.ids) for cell in checks)
    notes = [f"transcripts of the original that equal those of transformers: {sum(equal)} of {count}"] if equal else []
    tables = [*map(proxy_table, chosen), table(rows), pair_table(rows, config.rivals)]
    publish("real_speech", config, Report(tables, {"real_speech": lambda path: draw(path, rows)}, notes))


if __name__ == "__main__":
    main()
