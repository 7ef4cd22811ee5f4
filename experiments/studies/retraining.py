"""Study fine-tuning after compression: ``python -m experiments.studies.retraining data.train.root=FOLDER [workers=2]``.

Seed models of several sizes, with ranks from searches and rules, are fine-tuned in factored form, with and without
distillation from the original, and compared with the original trained for as long; and with models that are compressed
step by step, with the same training in between. Each result is also quantised. The same command resumes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from experiments.common.command import command
from experiments.common.compose import compose_config, option_of, override_of, to_container
from experiments.common.findings import Errors, best_on_dev
from experiments.common.finetuning import RESULT, finetune
from experiments.common.identity import key_of
from experiments.common.kinds import SHARE, list_of, mapping_of
from experiments.common.measure import measure
from experiments.common.options import AGENT, OVERRIDES
from experiments.common.parts import part
from experiments.common.pictures import plt, save_wer_against_size
from experiments.common.results import Cell
from experiments.common.searches import Search, check_search
from experiments.common.sized_searches import Chosen, choose_ranks, rule_cell, search_of_rule, sized_cell
from experiments.common.statistics import in_points
from experiments.common.stepwise import iterate
from experiments.common.study import Report, is_missing, publish, study_results
from shrinkml_env import EvaluationCache, compress, load_model, load_utterances, quantise, save_compressed
from shrinkml_env.compression.factorisations import make_factorisation
from shrinkml_env.evaluation.intervals import wer_increase
from shrinkml_env.files import read_json_object

SHOWN = ("workers", "reuse", "sizes", "undistilled", "rules", "by_hand", "agents", "stepwise", "seeds")
"""Keys of the config that select the models to make and compare; no model depends on them."""

OWN = (*SHOWN, "budget", "finalists", "overrides")
"""Keys of the config that `experiments.finetune` does not have."""

COMPRESSION = frozenset({"factorisation", "granularity", "dense", "environment"})
"""Options of a search that determine how a model is compressed by given ranks."""

WAYS = ("plain", "distilled")

MARKS = {"plain": "s--", "distilled": "o-", "untrained": "x:"}
"""Line styles of the curves in the picture."""

DENSE = "dense"
STEPWISE = " in steps"

HEAD = (
    "size",
    "ranks",
    "trained",
    "size ratio",
    "untrained: test WER %",
    "dev WER %",
    "test WER %",
    "above the original (95 % below)",
    "above dense, trained alike",
    "above the best by hand",
    "int8: MB",
    "int8: test WER %",
)
PAIRS = ("size", "trained", "this", "has more test WER than", "by (95 %)")


@dataclass(frozen=True, slots=True)
class Training:
    """One training.

    Attributes:
        ranks: Origin of the ranks: a rule or an agent.
        size: The limit on the model's size ratio.
        way: One of `WAYS`.
        config: The config of `experiments.finetune`, or of `experiments.iterate` if it has ``sizes``.
        untrained: Word errors of each test utterance before the training.
    """

    ranks: str
    size: float
    way: str
    config: Mapping[str, Any]
    untrained: Sequence[int]


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a training.

    Attributes:
        ranks: See `Training`.
        size: See `Training`.
        way: See `Training`.
        untrained: See `Training`.
        size_ratio: Size ratio of the model.
        dev_wer: WER on dev after the training, a fraction.
        edits: Word errors of each test utterance after the training.
        words: Reference words of each test utterance.
        int8_bytes: Size of the quantised model's file, bytes.
        int8_edits: Word errors of each test utterance after quantisation.
    """

    ranks: str
    size: float
    way: str
    untrained: Sequence[int]
    size_ratio: float
    dev_wer: float
    edits: Sequence[int]
    words: Sequence[int]
    int8_bytes: int
    int8_edits: Sequence[int]


def train(training: Training) -> dict[str, Any]:
    """Run a training and return its result, a `Trained`, JSON-able."""
    config = OmegaConf.create(dict(training.config))
    directory = (iterate if "sizes" in config else finetune)(config)
    result = read_json_object(directory / RESULT)
    quantised = quantise(load_model(directory / "model"))
    save_compressed(quantised, directory / "int8")
    after = result["after"]
    return asdict(
        Trained(
            ranks=training.ranks,
            size=training.size,
            way=training.way,
            untrained=training.untrained,
            size_ratio=result["size_ratio"],
            dev_wer=after["dev"]["wer"],
            edits=after["test"]["edits"],
            words=after["test"]["words"],
            int8_bytes=(directory / "int8" / "model.safetensors").stat().st_size,
            int8_edits=measure(quantised, load_utterances(to_container(config.data.test))).edits,
        )
    )


def averaged(seeds: Sequence[Trained]) -> Trained:
    """Return one result for several seeds, with the means of their measurements."""
    means = {
        name: np.mean([getattr(trained, name) for trained in seeds], axis=0)
        for name in ("dev_wer", "edits", "int8_bytes", "int8_edits")
    }
    return replace(seeds[0], **means)


def table(results: Sequence[Trained], original: Sequence[int], by_hand: Sequence[str]) -> pd.DataFrame:
    """Return a table with a row for each training.

    Args:
        results: One result for each size, origin of ranks and way.
        original: The original's word errors on each test utterance.
        by_hand: Hand-crafted rules; the others are compared with the best of these on dev.
    """
    rows: list[tuple[str, ...]] = []
    for one in results:
        alike = [other for other in results if other.way == one.way]
        dense = next(other for other in alike if other.ranks == DENSE)
        rules = [other for other in alike if other.size == one.size and other.ranks in by_hand]
        rival = best_on_dev(rules) if rules else None
        lost = wer_increase(one.edits, original, one.words, one_sided=True)
        rows.append(
            (
                f"{one.size:g}",
                f"{one.ranks} (by hand)" if one is rival else one.ranks,
                one.way,
                f"{one.size_ratio:.3f}",
                f"{_wer(one.untrained, one.words):.2f}",
                f"{100 * one.dev_wer:.2f}",
                f"{_wer(one.edits, one.words):.2f}",
                in_points(lost),
                "" if one is dense else _more(one, dense),
                "" if rival is None or one.ranks in by_hand else _more(one, rival),
                f"{one.int8_bytes / 1e6:.2f}",
                f"{_wer(one.int8_edits, one.words):.2f}",
            )
        )
    return pd.DataFrame(rows, columns=list(HEAD))


def pair_table(results: Sequence[Trained]) -> pd.DataFrame:
    """Return a table that compares distilled with plain trainings, and compression in steps with that at once."""
    named = {(one.size, one.ranks, one.way): one for one in results}
    rows: list[tuple[str, ...]] = []
    for size, ranks, way in named:
        one = named[size, ranks, way]
        plainly = named.get((size, ranks, "plain"))
        if way == "distilled" and plainly is not None:
            rows.append((f"{size:g}", "", f"{ranks} distilled", f"{ranks} plain", _more(one, plainly)))
        at_once = named.get((size, ranks.removesuffix(STEPWISE), way))
        if at_once is not None and at_once is not one:
            rows.append((f"{size:g}", way, ranks, at_once.ranks, _more(one, at_once)))
    return pd.DataFrame(rows, columns=list(PAIRS))


def _wer(edits: Sequence[int], words: Sequence[int]) -> float:
    """Return the corpus WER in percent."""
    return 100 * Errors(edits, words).wer


def _more(one: Trained, other: Trained) -> str:
    return in_points(wer_increase(one.edits, other.edits, one.words))


def draw(path: Path, results: Sequence[Trained], original: Sequence[int]) -> None:
    """Draw test WER against size, before and after training."""
    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    for place, ranks in enumerate(dict.fromkeys(one.ranks for one in results if one.ranks != DENSE)):
        curves: dict[str, dict[float, float]] = {}
        for one in results:
            if one.ranks == ranks:
                curves.setdefault(one.way, {})[one.size_ratio] = _wer(one.edits, one.words)
                if not ranks.endswith(STEPWISE):
                    curves.setdefault("untrained", {})[one.size_ratio] = _wer(one.untrained, one.words)
        for way, curve in curves.items():
            axes.plot(*zip(*sorted(curve.items()), strict=True), MARKS[way], color=f"C{place}", label=f"{ranks}, {way}")
    axes.axhline(_wer(original, results[0].words), color="black", linewidth=0.8, label="the original")
    save_wer_against_size(figure, axes, path, "size ratio")


def rank_cells(config: DictConfig) -> list[Cell[Any]]:
    """Return the cells that determine the ranks of the seed models, size by size, rules first."""
    require_one_compression(config)
    common = (override_of("model", config.original), *config.overrides)
    cells: list[Cell[Any]] = []
    for size in config.sizes:
        for rule in config.rules:
            search = search_of_rule(rule, common)
            check_search(search, {"overrides": config.overrides, "rules": [f"agent={rule}"]})
            cells.append(rule_cell(rule, search, size))
        for agent, overrides in config.agents.items():
            kept = (*common, *overrides, f"constraint.budget={size}")
            search = Search("live", str(agent), "divergence", 0, config.budget, kept)
            options = {"overrides": config.overrides, f"agents.{agent}": [f"agent={agent}", *overrides]}
            check_search(search, options)
            cells.append(sized_cell(str(agent), search, config.finalists))
    return cells


def require_one_compression(config: DictConfig) -> None:
    """Check that all seed models are compressed in one way, by the study's own overrides.

    Raises:
        ValueError: An agent's overrides change the factors or the layers, or compression in steps, which knows whole
            layers only, is compared with other layers.
    """
    for agent, overrides in config.agents.items():
        for override in overrides:
            if option_of(override).partition(".")[0] in COMPRESSION:
                raise ValueError(f"agents.{agent}: {override} would compress its model otherwise: give it in overrides")
    for override in config.overrides:
        if config.stepwise.sizes and option_of(override).partition(".")[0] in ("granularity", "dense"):
            raise ValueError(f"{override}: compression in steps knows whole layers only: give stepwise.sizes=[]")


def seed_model(config: DictConfig, found: Chosen) -> Path:
    """Return the folder of a seed model, whose name depends on all that the model is made of."""
    content = [config.original, to_container(config.overrides), dict(found.ranks)]
    return Path(config.outputs) / "seeds" / f"{found.agent}-{found.size:g}-{key_of(content)}"


def make_seed_models(config: DictConfig, search: DictConfig, found: Sequence[Chosen]) -> None:
    """Compress and save the seed models, as a search does."""
    model = load_model(config.original)
    factorisation = make_factorisation(model, part("factorisation", search.factorisation), EvaluationCache())
    for one in found:
        save_compressed(compress(model, one.ranks, factorisation), seed_model(config, one))


def trainings(config: DictConfig, search: DictConfig, found: Sequence[Chosen]) -> Iterable[Training]:
    """Yield all trainings of the study, the dense model's first."""
    for way, seed in itertools.product(WAYS, range(config.seeds)):
        tuning = OmegaConf.masked_copy(config, [str(key) for key in config if key not in OWN])
        runs = str(Path(config.outputs) / "runs")
        tuning.merge_with({"outputs": runs, "training": {"seed": config.training.seed + seed}})
        if way == "plain":
            tuning.distillation = None

        def tuned(model: str, tuning: DictConfig = tuning) -> Any:
            return OmegaConf.to_container(OmegaConf.merge(tuning, {"seed_model": model}), resolve=True)

        wanted = [one for one in found if way == "distilled" or one.size in config.undistilled]
        if wanted:
            yield Training(DENSE, 1.0, way, tuned(config.original), found[0].edits_before)
        for one in wanted:
            yield Training(one.agent, one.size, way, tuned(str(seed_model(config, one))), one.edits)
        at_once = {(one.agent, one.size): one for one in wanted}
        for sizes in to_container(config.stepwise.sizes):
            rule, size = config.stepwise.rule, sizes[-1]
            if (rule, size) in at_once:
                untrained = at_once[rule, size].edits
                yield Training(rule + STEPWISE, size, way, _stepwise(rule, sizes, search, tuning), untrained)


def _stepwise(rule: str, sizes: Sequence[float], search: DictConfig, tuning: DictConfig) -> Any:
    """Return a config of `experiments.iterate` with a search's factorisation and the settings of a fine-tuning."""
    own = compose_config("iterate", [f"agent={rule}", f"sizes={list(sizes)}"])
    OmegaConf.set_struct(own, False)
    own.update({key: tuning[key] for key in tuning if key != "seed_model"})
    own.update({key: search[key] for key in ("factorisation", "proxy")})
    return OmegaConf.to_container(own, resolve=True)


def training_cell(training: Training) -> Cell[Training]:
    """Return the cell of a training; its key contains the names of data sets, but not the paths of folders."""
    content = asdict(training)
    config = {key: value for key, value in training.config.items() if key != "seed_model"}
    speech = {key: value for key, value in config["data"]["train"].items() if key != "root"}
    if speech.get("ids"):
        speech["ids"] = Path(speech["ids"]).name
    content["config"] = OmegaConf.create({**config, "data": {**config["data"], "train": speech}})
    seed = config["training"]["seed"]
    about = {"ranks": training.ranks, "size": training.size, "way": training.way, "seed": seed}
    return Cell(training, content, about)


def trained(config: DictConfig, found: Sequence[Chosen]) -> list[Trained]:
    """Return the results of all trainings; missing ones are run, after making the seed models."""
    search = Search("live", "random", "accuracy", 0, 1, tuple(config.overrides)).config
    cells = [training_cell(one) for one in trainings(config, search, found)]
    if is_missing("retraining", config, cells):
        make_seed_models(config, search, found)
    return study_results("retraining", config, cells, train, lambda result: Trained(**result), "trainings")


def averages(results: Sequence[Trained]) -> list[Trained]:
    """Return one result, averaged over seeds, for each size, origin of ranks and way, in their order."""
    groups: dict[tuple[float, str, str], list[Trained]] = {}
    for one in results:
        groups.setdefault((one.size, one.ranks, one.way), []).append(one)
    return [averaged(group) for group in groups.values()]


@command(
    "retraining",
    undistilled=list_of(SHARE, least=0),
    agents=mapping_of(OVERRIDES, keys=AGENT),
)
def main(config: DictConfig) -> None:
    """Find ranks, make seed models, train them, and compare."""
    cells = rank_cells(config)
    if not cells:
        raise ValueError("nothing to train: give sizes, and rules or agents")
    found = study_results("retraining", config, cells, choose_ranks, lambda result: Chosen(**result))
    results = averages(trained(config, found))
    original = found[0].edits_before
    tables = [table(results, original, config.by_hand), pair_table(results)]
    publish("retraining", config, Report(tables, {"retraining": lambda path: draw(path, results, original)}))


if __name__ == "__main__":
    main()
