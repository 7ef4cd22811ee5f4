"""What training wins back: ``python -m experiments.studies.retraining data.train.root=FOLDER [workers=2]``.

Seed models of several sizes, their ranks from searches and rules, are fine-tuned in factored form, with and without
distillation from the original, beside the original itself trained for as long; and compressed step by step, with the
same training in between. Each result is quantised, too. Everything made is in a file of its own, and the same command
goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import hydra
import matplotlib as mpl
import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

mpl.use("Agg")
from matplotlib import pyplot as plt

from experiments.common.measure import measure
from experiments.common.report import format_table, save_wer_against_size
from experiments.common.resumable import results_of
from experiments.common.run_directory import plain, read_json, run_directory
from experiments.common.runs import CONF, Task, compose_search, digest, require_lists
from experiments.common.statistics import points, wer_increase
from experiments.finetune import RESULT, finetune
from experiments.iterate import iterate
from experiments.studies.tradeoff import Found, Rule, Search
from experiments.studies.tradeoff import make as find
from shrinkml_env import compress, load_model, load_utterances, quantise, save_compressed

SHOWN = ("workers", "sizes", "undistilled", "rules", "by_hand", "agents", "stepwise", "seeds")
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
    result = read_json(directory / RESULT)
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


def rows(results: Sequence[Trained], original: Sequence[int], by_hand: Sequence[str]) -> list[tuple[str, ...]]:
    """One for each training.

    Args:
        results: One for each size, origin of ranks and way.
        original: Word errors of each test utterance by the original.
        by_hand: Among which dev chooses what the others are compared with.
    """
    table: list[tuple[str, ...]] = []
    for one in results:
        alike = [other for other in results if other.way == one.way]
        dense = next(other for other in alike if other.ranks == DENSE)
        rules = [other for other in alike if other.size == one.size and other.ranks in by_hand]
        rival = min(rules, key=lambda other: other.dev_wer, default=None)
        lost = wer_increase(one.edits, original, one.words, one_sided=True)
        table.append(
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
    return table


def pairs(results: Sequence[Trained]) -> list[tuple[str, ...]]:
    """Distilled beside plain, and in steps beside at once."""
    named = {(one.size, one.ranks, one.way): one for one in results}
    table: list[tuple[str, ...]] = []
    for size, ranks, way in named:
        one = named[size, ranks, way]
        plainly = named.get((size, ranks, "plain"))
        if way == "distilled" and plainly is not None:
            table.append((f"{size:g}", "", f"{ranks} distilled", f"{ranks} plain", _more(one, plainly)))
        at_once = named.get((size, ranks.removesuffix(STEPWISE), way))
        if at_once is not None and at_once is not one:
            table.append((f"{size:g}", way, ranks, at_once.ranks, _more(one, at_once)))
    return table


def _wer(edits: Sequence[float], words: Sequence[int]) -> float:
    """In %."""
    return 100 * float(np.sum(edits)) / sum(words)


def _more(one: Trained, other: Trained) -> str:
    return points(wer_increase(one.edits, other.edits, one.words))


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


def ranks_to_find(config: DictConfig, folder: Path) -> dict[Path, Search | Rule]:
    """File -> how to find the ranks of a seed model."""
    common = (f"model.name={config.original}", *config.overrides)
    wanted: dict[Path, Search | Rule] = {}
    for size in config.sizes:
        for rule in config.rules:
            task = Task("live", rule, "accuracy", 0, 0, common)
            wanted[folder / f"{rule}-{size:g}-{digest(task)}.json"] = Rule(task, size)
        for agent, overrides in config.agents.items():
            kept = (*common, *overrides, f"constraint.budget={size}")
            task = Task("live", str(agent), "divergence", 0, config.budget, kept)
            wanted[folder / f"{agent}-{size:g}-{digest(task)}.json"] = Search(str(agent), task, config.finalists)
    return wanted


def seed_model(folder: Path, found: Found) -> Path:
    """Where a seed model lies."""
    return folder / f"{found.agent}-{found.size:g}"


def make_seed_models(original: str, search: DictConfig, found: Sequence[Found], folder: Path) -> None:
    """The compressed models, made as a search would."""
    model = load_model(original)
    factorisation = instantiate(search.factorisation)(model)
    for one in found:
        save_compressed(compress(model, one.ranks, factorisation), seed_model(folder, one))


def trainings(
    config: DictConfig, search: DictConfig, found: Sequence[Found], seeds: Path, runs: Path
) -> Iterable[Training]:
    """All that are to be made, the dense model's first; seed models lie in `seeds`, and `runs` is for the trainings."""
    for way, seed in itertools.product(WAYS, range(config.seeds)):
        part = OmegaConf.masked_copy(config, [str(key) for key in config if key not in OWN])
        part.merge_with({"outputs": str(runs), "training": {"seed": config.training.seed + seed}})
        if way == "plain":
            part.distillation = None

        def tuned(model: str, part: DictConfig = part) -> Any:
            return OmegaConf.to_container(OmegaConf.merge(part, {"seed_model": model}), resolve=True)

        wanted = [one for one in found if way == "distilled" or one.size in config.undistilled]
        if wanted:
            yield Training(DENSE, 1.0, way, tuned(config.original), found[0].edits_before)
        for one in wanted:
            yield Training(one.agent, one.size, way, tuned(str(seed_model(seeds, one))), one.edits)
        at_once = {(one.agent, one.size): one for one in wanted}
        for sizes in plain(config.stepwise.sizes):
            rule, size = config.stepwise.rule, sizes[-1]
            if (rule, size) in at_once:
                untrained = at_once[rule, size].edits
                yield Training(rule + STEPWISE, size, way, _stepwise(rule, sizes, search, part), untrained)


def _stepwise(rule: str, sizes: Sequence[float], search: DictConfig, part: DictConfig) -> Any:
    """A config of `experiments.iterate`, which compresses as a search and trains as the part says."""
    GlobalHydra.instance().clear()  # This program's own config has been read.
    with initialize_config_dir(str(CONF), version_base="1.3"):
        own = compose("iterate", [f"agent={rule}", f"sizes={list(sizes)}"])
    OmegaConf.set_struct(own, False)
    own.update({key: part[key] for key in part if key != "seed_model"})
    own.update({key: search[key] for key in ("factorisation", "proxy")})
    return OmegaConf.to_container(own, resolve=True)


def key_of(training: Training) -> str:
    """Of all that a training depends on, wherever its folders and its data lie; data goes by its names."""
    content = asdict(training)
    config = {key: value for key, value in training.config.items() if key not in ("outputs", "seed_model")}
    speech = {key: value for key, value in config["data"]["train"].items() if key != "root"}
    if speech.get("ids"):
        speech["ids"] = Path(speech["ids"]).name
    content["config"] = {**config, "data": {**config["data"], "train": speech}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


@hydra.main(version_base="1.3", config_path="../../conf", config_name="retraining")
def main(config: DictConfig) -> None:
    """Make what is missing, then compare."""
    require_lists(sizes=config.sizes)
    # Where the data lies changes nothing; other data of the same names needs outputs= of its own.
    directory = run_directory(config, "retraining", besides=(*SHOWN, "data"))
    folders = {name: directory / name for name in ("ranks", "seeds", "runs", "trained")}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    found = [
        Found(**result)
        for result in results_of(ranks_to_find(config, folders["ranks"]), find, config.workers, "searches")
    ]
    search = compose_search(Task("live", "random", "accuracy", 0, 0, tuple(config.overrides)))
    wanted = {}
    for training in trainings(config, search, found, folders["seeds"], folders["runs"]):
        name = f"{training.ranks}-{training.size:g}-{training.way}-{key_of(training)}.json"
        wanted[folders["trained"] / name] = training
    if not all(path.exists() for path in wanted):
        make_seed_models(config.original, search, found, folders["seeds"])
    groups: dict[tuple[float, str, str], list[Trained]] = {}
    for result in results_of(wanted, train, config.workers, "trainings"):
        trained = Trained(**result)
        groups.setdefault((trained.size, trained.ranks, trained.way), []).append(trained)
    results = [averaged(group) for group in groups.values()]
    original = found[0].edits_before
    text = format_table(HEAD, rows(results, original, config.by_hand))
    if compared := pairs(results):
        text += f"\n\n{format_table(PAIRS, compared)}"
    (directory / "table.txt").write_text(text + "\n")
    print(text)
    draw(directory / "retraining.png", results, original)
    print(f"ranks, models, tables and picture: {directory}")


if __name__ == "__main__":
    main()
