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
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from experiments.common.command import command
from experiments.common.command_errors import given_by
from experiments.common.compose import compose_config, option_of
from experiments.common.findings import ORIGINAL, Errors, Finding, Reported, best_on_dev, draw, pair_table, table
from experiments.common.kinds import NAME, SHARE, choice, list_of, mapping_of, mapping_with, whole
from experiments.common.on_test import Checked, Measurement, equal_transcripts, measured
from experiments.common.options import COMPARED, OVERRIDES
from experiments.common.results import Cell
from experiments.common.searches import Search, check_search, evaluator_on
from experiments.common.sized_searches import found_by_rule, found_by_search
from experiments.common.speech import calibrate_on
from experiments.common.study import Report, publish, study_results
from experiments.select_proxy import select
from shrinkml_env import CompressibleModel, count_parameters, load_model
from shrinkml_env.compression import encoder_parameters
from shrinkml_env.compression.canonical import digest
from shrinkml_env.compression.store import model_content
from shrinkml_env.data import SpeechFolder
from shrinkml_env.data.split import spread
from shrinkml_env.evaluation.intervals import Estimate

DEV = ("dev-clean", "dev-other")
TEST = ("test-clean", "test-other")

PURPOSES = ("calibration", "pool", "dev")
"""What utterances of the dev sets serve for: factors, the selection of the proxy set, the choice among finalists."""

SCOPES = ("encoder", "whole")
"""The parts that may be compressed: the encoder, or the whole model."""

SELECTED = "ranking"
"""The method that selects the proxy set, see `shrinkml_env.data.selection`."""

CHECKED = 50
"""Utterances that are compared with transformers in one cell."""


@dataclass(frozen=True, slots=True)
class Method:
    """A rule or a search, as in the study's config.

    Attributes:
        name: Its name in tables.
        agent: Name of the agent in conf/agent.
        overrides: Overrides of `experiments.search`.
        seed: The agent's.
        reward: Name of the reward in conf/reward.
        budget: Unique evaluations; None for a rule.
    """

    name: str
    agent: str
    overrides: tuple[str, ...]
    seed: int = 0
    reward: str = "divergence"
    budget: int | None = None


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


@dataclass(frozen=True, slots=True)
class Selection:
    """A proxy set to select.

    Attributes:
        config: A config of `experiments.select_proxy` that asks for one size.
    """

    config: DictConfig


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy set that was selected.

    Attributes:
        ids: Its utterances.
        kendall: (group of models, method) -> Kendall's tau between the divergences on a set of this size, selected by
            the method, and on dev: mean, and bounds of the 95 % interval.
    """

    ids: Sequence[str]
    kendall: Sequence[tuple[str, str, tuple[float, ...]]]


def methods_of(config: DictConfig) -> list[Method]:
    """Return the study's methods, each with each of its seeds.

    Raises:
        ValueError: A method's settings are wrong, or an option names a method that there is not.
    """
    methods = [
        Method(str(name), options.agent, tuple(options.overrides), seed, *searching(options))
        for name, options in config.methods.items()
        for seed in range(options.get("seeds", 1))
    ]
    for method in methods:
        own = [f"agent={method.agent}", f"reward={method.reward}", *method.overrides]
        check_search(search_of(config, method, 1.0), {"base": config.base, f"methods.{method.name}": own})
    for option in ("complete", "rivals"):
        for name in config[option]:
            if name not in config.methods:
                raise ValueError(f"{option}: {name!r} is not among the methods: {', '.join(config.methods)}")
    return methods


def check_selection(overrides: Sequence[str]) -> None:
    """Check the overrides of `experiments.select_proxy` that select the proxy set.

    Raises:
        ValueError: One is wrong or of what the study decides, or they ask for several sizes.
    """
    for override in overrides:
        if option_of(override) in ("model", "pool", "dev"):
            raise ValueError(f"selection: {override}: the study's own options decide it")
    with given_by("selection", "select_proxy", overrides):
        size, *others = compose_config("select_proxy", overrides).sizes
        if others:
            raise ValueError(f"sizes must be one, that of the proxy set, got {[size, *others]}")


def purposes_of(config: DictConfig) -> dict[str, list[str]]:
    """Return the utterances of the dev sets for each purpose: purpose -> ids.

    Raises:
        ValueError: The dev sets lack one.
    """
    known = set(SpeechFolder(config.root, DEV).ids)
    for purpose, ids in config.speech.items():
        for name in ids:
            if name not in known:
                raise ValueError(
                    f"speech.{purpose}: there is no utterance {name!r} in {' or '.join(DEV)} of {config.root}"
                )
    return {str(purpose): list(ids) for purpose, ids in config.speech.items()}


def speech_of(config: DictConfig, purposes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return what `load_utterances` takes: purpose -> its utterances of the dev sets."""
    return {purpose: {"root": config.root, "subset": list(DEV), "ids": list(ids)} for purpose, ids in purposes.items()}


def selection_cell(
    config: DictConfig, model: CompressibleModel, purposes: Mapping[str, Sequence[str]]
) -> Cell[Selection]:
    """Return the cell that selects the proxy set.

    Args:
        config: The study's.
        model: The model.
        purposes: ``"calibration"``, ``"pool"`` and ``"dev"`` -> ids of utterances of the dev sets.
    """

    def described(name: str, speech: Mapping[str, Any]) -> DictConfig:
        found = compose_config("select_proxy", config.selection)
        found.model, found.pool, found.dev = name, speech["pool"], speech["dev"]
        calibrate_on(found, speech["calibration"])
        return found

    content = described(digest(model_content(model)), {purpose: purpose for purpose in purposes})
    task = Selection(described(config.model, speech_of(config, purposes)))
    return Cell(task, {"select": content, "speech": dict(purposes)}, {"selected": "proxy"})


def chunks(config: DictConfig, subset: str) -> list[tuple[str, ...]]:
    """Return a test set's utterances in chunks, each spread over all speakers: the ids of each."""
    folder = SpeechFolder(config.root, subset)
    left = list(range(len(folder)))
    found = []
    while left:
        chosen = spread(left, folder.speakers, config.chunk)
        found.append(tuple(folder.ids[index] for index in chosen))
        left = sorted(set(left) - set(chosen))
    return found


def search_of(config: DictConfig, method: Method, ratio: float) -> Search:
    """Return the search of a method at a size, without the study's model and speech; see `search_config`."""
    overrides = [*config.base, *method.overrides]
    if method.budget is not None:
        overrides.append(f"constraint.budget={ratio}")
    return Search("live", method.agent, method.reward, method.seed, method.budget or 1, tuple(overrides))


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


def selected(task: Selection) -> dict[str, Any]:
    """Return the `Proxy` that a config of `experiments.select_proxy` selects, as JSON."""
    found = select(task.config)
    (ids,) = [ids for (method, _), ids in found.ids.items() if method == SELECTED]
    kendall = [(group, method, tuple(row.kendall)) for (group, method, _), row in found.fidelity.items()]
    return asdict(Proxy(ids, kendall))


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
        self.chunks = {subset: chunks(config, subset) for subset in TEST}
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
                    if scope not in self.config.methods[method.name].get("scopes", self.config.scopes):
                        continue
                    search = self.search(method, scope, size)
                    task = Sought(scope, size, method, self.ratio(scope, size), search, self.config.finalists)
                    content: dict[str, Any] = {
                        "search": self.described(method, scope, size),
                        "speech": self.heard_by(method),
                    }
                    if method.budget is not None:
                        content["finalists"] = f"{self.config.finalists} and the rules"
                    about = {"scope": scope, "size": size, "method": method.name, "seed": method.seed}
                    cells.append(Cell(task, {**content, "size": size}, about))
        return cells

    def measurements(self, found: Sequence[Finding]) -> list[Cell[Measurement]]:
        """Return the cells of what is measured on test: the original's, then those of what was found, in order.

        What two methods or seeds have found alike is measured once.
        """
        complete = set(self.config.complete)
        first = self.methods[0]
        scope = next(iter(self.config.scopes))
        asked: list[tuple[Method, str, float, Mapping[str, int], bool]] = [(first, scope, 1, {}, bool(complete))]
        for scope, size in dict.fromkeys((one.scope, one.size) for one in found):
            for method in self.methods:
                seeds = [f for f in found if (f.scope, f.size, f.method) == (scope, size, method.name)]
                for one in seeds:
                    if one.seed == method.seed:
                        whole = method.name in complete and one is best_on_dev(seeds)
                        asked.append((method, scope, size, one.ranks, whole))
        cells = []
        for method, scope, size, ranks, whole in asked:
            named = {"method": method.name, "scope": scope, "size": size, "seed": method.seed}
            found_by = named if ranks else {"method": ORIGINAL}
            made_by = {}
            if ranks:
                factors = self.described(method, scope, 1).factorisation
                made_by = {"factorisation": factors, "calibration": self.purposes["calibration"]}
            for subset, ids in self.chunks.items():
                for chunk in ids if whole else ids[:1]:
                    task = Measurement(self.search(method, scope, 1), ranks, self.config.root, subset, chunk)
                    content = {"model": self.content, **made_by}
                    content |= {"ranks": dict(ranks), "granularity": task.search.granularity, "test": chunk}
                    cells.append(Cell(task, content, {**found_by, "test": subset, "first": chunk[0]}))
        unique: dict[str, Cell[Measurement]] = {}
        for cell in cells:
            unique.setdefault(cell.key, cell)
        return list(unique.values())

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


def searching(options: DictConfig) -> tuple[Any, ...]:
    """Return reward and budget of a search; nothing for a rule."""
    return (options.reward, options.budget) if "budget" in options else ()


def reported(
    study: Study, found: Sequence[Finding], cells: Sequence[Cell[Measurement]], results: Sequence[Errors]
) -> list[Reported]:
    """Join the chunks of each configuration: the original first, then `found`, in order."""
    joined: dict[str, dict[str, Errors]] = {}
    for cell, result in zip(cells, results, strict=True):
        task = cell.task
        key = str((sorted(task.ranks.items()), OmegaConf.to_yaml(task.search.factorisation)) if task.ranks else "")
        so_far = joined.setdefault(key, {}).get(task.subset, Errors([], []))
        joined[key][task.subset] = Errors([*so_far.edits, *result.edits], [*so_far.words, *result.words])
    before = joined[""]
    rows = [Reported(None, before, before)]
    for one in found:
        (method,) = [m for m in study.methods if (m.name, m.seed) == (one.method, one.seed)]
        factors = OmegaConf.to_yaml(study.search(method, one.scope, 1).factorisation)
        errors = joined[str((sorted(one.ranks.items()), factors))]
        same = {name: before[name].first(len(of_set.edits)) for name, of_set in errors.items()}
        rows.append(Reported(one, errors, same))
    return rows


def proxy_table(proxy: Proxy) -> pd.DataFrame:
    """Return a row for each group of models and method of selection: how well such a proxy set ranks them."""
    rows = [
        (group, method, str(len(proxy.ids)), str(Estimate(*map(float, values))))
        for group, method, values in proxy.kendall
    ]
    return pd.DataFrame(rows, columns=["models", "proxy set selected by", "utterances", "Kendall's tau with dev"])


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
    check_selection(config.selection)
    purposes = purposes_of(config)
    model = load_model(config.model)
    selections = [selection_cell(config, model, purposes)] if any(method.budget for method in methods) else []
    chosen = study_results("real_speech", config, selections, make, lambda result: Proxy(**result), "proxy set")
    heard: dict[str, Sequence[str]] = {"calibration": purposes["calibration"], "dev": purposes["dev"]}
    if chosen:
        heard["proxy"] = chosen[0].ids
    study = Study(config, methods, model, heard)
    searches = study.search_cells()
    found = [
        # Methods of the same settings share a result, under the name that each has in this config.
        replace(one, method=cell.task.method.name)
        for cell, one in zip(
            searches,
            study_results("real_speech", config, searches, make, lambda result: Finding(**result)),
            strict=True,
        )
    ]
    measurements = study.measurements(found)
    errors = study_results("real_speech", config, measurements, make, lambda result: Errors(**result), "test sets")
    equal = study_results("real_speech", config, study.checks(), make, lambda result: int(result["equal"]), "checks")
    rows = reported(study, found, measurements, errors)
    checked = f"transcripts of the original that equal those of transformers: {sum(equal)} of {config.checked}"
    notes = [checked] if equal else []
    tables = [*map(proxy_table, chosen), table(rows), pair_table(rows, config.rivals)]
    publish("real_speech", config, Report(tables, {"real_speech": lambda path: draw(path, rows)}, notes))


if __name__ == "__main__":
    main()
