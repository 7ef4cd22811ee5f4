"""What training wins back: ``python -m experiments.studies.retraining data.train.root=FOLDER [workers=2]``.

Seed models of several sizes, their ranks from searches and rules, are fine-tuned in factored form, with and without
distillation from the original, beside the original itself trained for as long; and compressed step by step, with the
same training in between. Each result is quantised, too. Everything made is in a file of its own, and the same command
goes on where it was stopped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

mpl.use("Agg")
from matplotlib import pyplot as plt

from experiments.common.command import command
from experiments.common.compose import compose_config
from experiments.common.identity import key_of
from experiments.common.kinds import NAME, SHARE, list_of, mapping_of
from experiments.common.measure import measure
from experiments.common.parts import part
from experiments.common.report import save_wer_against_size
from experiments.common.results import Cell
from experiments.common.run_directory import plain
from experiments.common.searches import Search, check_searches
from experiments.common.statistics import in_points
from experiments.common.study import Report, is_missing, made, publish
from experiments.finetune import RESULT, finetune
from experiments.iterate import iterate
from experiments.studies.tradeoff import Chosen, rule_cell, sized_cell
from experiments.studies.tradeoff import make as choose_ranks
from shrinkml_env import compress, load_model, load_utterances, quantise, save_compressed
from shrinkml_env.envs.assembly import make_factorisation
from shrinkml_env.evaluation.intervals import wer_increase
from shrinkml_env.files import read_json_object

SHOWN = ("workers", "reuse", "sizes", "undistilled", "rules", "by_hand", "agents", "stepwise", "seeds")
"""Keys that say which models are made and compared, and change none of them."""

OWN = (*SHOWN, "budget", "finalists", "overrides")
"""Keys that fine-tuning does not have."""

WAYS = ("plain", "distilled")

MARKS = {"plain": "s--", "distilled": "o-", "untrained": "x:"}
"""Of a picture's curves."""

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
    """One training to make.

    Attributes:
        ranks: Where the ranks came from.
        size: That the model had to keep.
        way: Of `WAYS`.
        config: Of `experiments.finetune`, or of `experiments.iterate` where it has sizes.
        untrained: Word errors of each test utterance before the training.
    """

    ranks: str
    size: float
    way: str
    config: Mapping[str, Any]
    untrained: Sequence[int]


@dataclass(frozen=True, slots=True)
class Trained:
    """What became of it; edits are the word errors of each test utterance.

    Attributes:
        ranks: As in `Training`, and so are `size`, `way` and `untrained`.
        size_ratio: Of the model's parameters.
        dev_wer: A fraction.
        edits: After the training.
        words: Reference words of each test utterance.
        int8_bytes: The file's, quantised.
        int8_edits: After quantisation.
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
    """A `Trained`, as JSON."""
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
            int8_edits=measure(quantised, load_utterances(plain(config.data.test))).edits,
        )
    )


def averaged(seeds: Sequence[Trained]) -> Trained:
    """One for several seeds, with the mean of what they have measured."""
    means = {
        name: np.mean([getattr(trained, name) for trained in seeds], axis=0)
        for name in ("dev_wer", "edits", "int8_bytes", "int8_edits")
    }
    return replace(seeds[0], **means)


def table(results: Sequence[Trained], original: Sequence[int], by_hand: Sequence[str]) -> pd.DataFrame:
    """Return a row for each training.

    Args:
        results: One for each size, origin of ranks and way.
        original: Word errors of each test utterance by the original.
        by_hand: Among which dev chooses what the others are compared with.
    """
    rows: list[tuple[str, ...]] = []
    for one in results:
        alike = [other for other in results if other.way == one.way]
        dense = next(other for other in alike if other.ranks == DENSE)
        rules = [other for other in alike if other.size == one.size and other.ranks in by_hand]
        rival = min(rules, key=lambda other: other.dev_wer, default=None)
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
                f"{100 * lost.value:+.2f} ({100 * lost.high:+.2f})",
                "" if one is dense else _more(one, dense),
                "" if rival is None or one.ranks in by_hand else _more(one, rival),
                f"{one.int8_bytes / 1e6:.2f}",
                f"{_wer(one.int8_edits, one.words):.2f}",
            )
        )
    return pd.DataFrame(rows, columns=list(HEAD))


def pair_table(results: Sequence[Trained]) -> pd.DataFrame:
    """Return distilled beside plain, and in steps beside at once."""
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


def _wer(edits: Sequence[float], words: Sequence[int]) -> float:
    """In %."""
    return 100 * float(np.sum(edits)) / sum(words)


def _more(one: Trained, other: Trained) -> str:
    return in_points(wer_increase(one.edits, other.edits, one.words))


def draw(path: Path, results: Sequence[Trained], original: Sequence[int]) -> None:
    """Test WER against size, before and after."""
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
    """Return the cells of the ranks of the seed models, size by size: rules first."""
    common = (f"model={config.original}", *config.overrides)
    cells: list[Cell[Any]] = []
    for size in config.sizes:
        cells += [rule_cell(rule, size, common) for rule in config.rules]
        for agent, overrides in config.agents.items():
            kept = (*common, *overrides, f"constraint.budget={size}")
            search = Search("live", str(agent), "divergence", 0, config.budget, kept)
            cells.append(sized_cell(str(agent), search, config.finalists))
    check_searches([cell.task.search for cell in cells])
    return cells


def seed_model(config: DictConfig, found: Chosen) -> Path:
    """Return where a seed model lies: its folder is named after all that it is made of."""
    content = [config.original, plain(config.overrides), dict(found.ranks)]
    return Path(config.outputs) / "seeds" / f"{found.agent}-{found.size:g}-{key_of(content)}"


def make_seed_models(config: DictConfig, search: DictConfig, found: Sequence[Chosen]) -> None:
    """Make the compressed models as a search would."""
    model = load_model(config.original)
    factorisation = make_factorisation(model, part("factorisation", search.factorisation))
    for one in found:
        save_compressed(compress(model, one.ranks, factorisation), seed_model(config, one))


def trainings(config: DictConfig, search: DictConfig, found: Sequence[Chosen]) -> Iterable[Training]:
    """Yield all trainings that are to be made, the dense model's first."""
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
        for sizes in plain(config.stepwise.sizes):
            rule, size = config.stepwise.rule, sizes[-1]
            if (rule, size) in at_once:
                untrained = at_once[rule, size].edits
                yield Training(rule + STEPWISE, size, way, _stepwise(rule, sizes, search, tuning), untrained)


def _stepwise(rule: str, sizes: Sequence[float], search: DictConfig, tuning: DictConfig) -> Any:
    """Return a config of `experiments.iterate`, which compresses as a search and trains as the tuning says."""
    own = compose_config("iterate", [f"agent={rule}", f"sizes={list(sizes)}"])
    OmegaConf.set_struct(own, False)
    own.update({key: tuning[key] for key in tuning if key != "seed_model"})
    own.update({key: search[key] for key in ("factorisation", "proxy")})
    return OmegaConf.to_container(own, resolve=True)


def training_cell(training: Training) -> Cell[Training]:
    """Return the cell of a training; its key does not depend on where folders and data lie: data goes by its names."""
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
    """Return what has become of all trainings; what is missing is made, with the seed models that it begins with."""
    search = Search("live", "random", "accuracy", 0, 1, tuple(config.overrides)).config
    cells = [training_cell(one) for one in trainings(config, search, found)]
    if is_missing("retraining", config, cells):
        make_seed_models(config, search, found)
    return made("retraining", config, cells, train, lambda result: Trained(**result), "trainings")


def averages(results: Sequence[Trained]) -> list[Trained]:
    """Return one for each size, origin of ranks and way, in their order."""
    groups: dict[tuple[float, str, str], list[Trained]] = {}
    for one in results:
        groups.setdefault((one.size, one.ranks, one.way), []).append(one)
    return [averaged(group) for group in groups.values()]


@command(
    "retraining",
    undistilled=list_of(SHARE, least=0),
    agents=mapping_of(list_of(NAME, least=0)),
)
def main(config: DictConfig) -> None:
    """Find ranks, make seed models, train them, compare."""
    found = made("retraining", config, rank_cells(config), choose_ranks, lambda result: Chosen(**result))
    results = averages(trained(config, found))
    original = found[0].edits_before
    tables = [table(results, original, config.by_hand), pair_table(results)]
    publish("retraining", config, Report(tables, lambda path: draw(path, results, original)))


if __name__ == "__main__":
    main()
