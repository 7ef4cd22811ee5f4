"""Files of runs that are damaged, or something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import agents
from experiments import leaderboard, summary
from shrinkml_env import Ledger
from shrinkml_env.asr import JointCTCAttention
from shrinkml_env.asr.training import CHECKPOINT, Trainer, TrainingSettings
from shrinkml_env.search_directory import claim, describe_search
from tests.helpers.fake_evaluator import make_fake_env
from tests.helpers.speech import PLAIN, make_corpus, make_learner
from tests.reliability.bad_input.spoil import DEEP, PICKLE, Spoil, change, cut, replace_with, unchanged, without

RECORD: dict[str, Any] = {
    "title": "ppo-linear-0",
    "model": "las_small",
    "factorisation": "svd",
    "granularity": "layer",
    "ranks": {"decoder.output": 5},
    "params": {"original": 2, "compressed": 1},
    "file_bytes": {"original": 2, "compressed": 1},
    "utterances": {"proxy": "proxy", "dev": "dev", "test": "test"},
    "settings": {"reward": "linear", "seed": "0"},
    "evaluations": 3,
    "size_ratio": 0.5,
    "rewards": {"proxy": 0.1},
    "sets": {name: {"wer_before": 0.1, "wer_after": 0.2} for name in ("proxy", "dev", "test")},
}


def resumed(spoil: Spoil, folder: Path) -> None:
    env = make_fake_env(ledger=Ledger(budget=2))
    path, agent = folder / "search.json", agents.RandomSearch(env)
    claim(folder, describe_search(env, agent))
    claim(folder, describe_search(env, agent))
    spoil(path)
    unchanged(path, lambda: claim(folder, describe_search(env, agent)))


IDENTITIES: list[tuple[str, str, Spoil]] = [
    ("search.json is cut off", r"search\.json is damaged .*: give another directory, or remove this one", cut(0.5)),
    ("search.json is a list", r"search\.json is damaged .*: give another directory", replace_with(b"[]")),
    ("search.json is nested a hundred thousand times", r"search\.json is damaged .*: give another", replace_with(DEEP)),
    (
        "search.json is another search's",
        r"holds a search with agent\.name 'Mine', not 'RandomSearch': give another directory, or remove this one",
        lambda path: change(path, {"agent": {"name": "Mine"}}),
    ),
]


def record(use: Callable[[Path], object], spoil: Spoil, folder: Path) -> None:
    path = folder / "run" / "best.json"
    path.parent.mkdir()
    path.write_text(json.dumps(RECORD))
    spoil(path)
    unchanged(path, lambda: use(path))


def changed(**changes: Any) -> Spoil:
    return lambda path: change(path, changes)


RECORDS: list[tuple[str, str, Spoil]] = [
    ("a text", r"best\.json: not JSON", replace_with(b"hello")),
    ("empty", r"best\.json: not JSON", replace_with(b"")),
    ("cut off", r"best\.json: not JSON", cut(0.5)),
    ("not in UTF-8", r"best\.json: not JSON", replace_with(b'{"a": "\xff"}')),
    ("nested a hundred thousand times", r"best\.json: not JSON: it is nested too deeply", replace_with(DEEP)),
    ("a list", r"best\.json: not a JSON object", replace_with(b"[]")),
    (
        "sets are missing",
        r"best\.json lacks sets: it must be the best\.json of a run",
        lambda path: without(path, "sets"),
    ),
    (
        "size_ratio is missing",
        r"best\.json lacks size_ratio: it must be the best\.json of a run",
        lambda path: without(path, "size_ratio"),
    ),
    ("sets is a list", r"best\.json: sets must be an object of sets", changed(sets=[])),
    ("no sets", r"best\.json: sets must be an object of sets", changed(sets={})),
    ("no utterances", r"best\.json: utterances must be an object of sets", changed(utterances={})),
    (
        "a WER is a text",
        r"best\.json: sets must be an object of sets",
        changed(sets={"dev": {"wer_before": "x", "wer_after": 0}}),
    ),
    (
        "a WER is NaN",
        r"best\.json: sets must be an object of sets",
        changed(sets={"dev": {"wer_before": float("nan"), "wer_after": 0}}),
    ),
    (
        "size_ratio is a text",
        r"best\.json: size_ratio must be a number above 0 and at most 1, got 'small'",
        changed(size_ratio="small"),
    ),
    ("size_ratio is 2", r"best\.json: size_ratio must be a number above 0 and at most 1, got 2", changed(size_ratio=2)),
    ("evaluations is a list", r"best\.json: evaluations must be a whole number, got \[\]", changed(evaluations=[])),
    ("rewards is a text", r"best\.json: rewards must be an object of numbers", changed(rewards="x")),
    ("settings hold a number", r"best\.json: settings must be an object of texts", changed(settings={"seed": 0})),
    ("ranks is a list", r"best\.json: ranks must be an object of whole numbers, got \[3\]", changed(ranks=[3])),
    ("model is a mapping", r"best\.json: model must be a name or a path", changed(model={"_target_": "os.system"})),
]

RANKS_FILES: list[tuple[str, str, Spoil]] = [
    ("factorisation is missing", r"best\.json lacks factorisation", lambda path: without(path, "factorisation")),
    (
        "factorisation names a class",
        r"best\.json names os\.system as its factorisation, and what a file names is not run",
        changed(factorisation={"_target_": "os.system"}),
    ),
    ("factorisation is unknown", "no factorisation is named 'mine'", changed(factorisation={"name": "mine"})),
    (
        "granularity is unknown",
        "granularity must be 'layer', 'matrix' or a mapping of blocks, got 'x'",
        changed(granularity="x"),
    ),
    ("ranks of another model", "no layer is named 'nothing'", changed(ranks={"nothing": 3}, utterances={"dev": "dev"})),
    (
        "a rank that is too large",
        "layer 'decoder.output': rank must be an integer in",
        changed(ranks={"decoder.output": 999_999}, utterances={"dev": "dev"}),
    ),
    ("a model that is not there", "'nowhere' is neither a shipped model", changed(model="nowhere")),
    ("a set that is not there", "no utterance set is named 'mine'", changed(utterances={"dev": "mine"})),
    ("sets that are lists", r"best\.json: utterances must be an object", changed(utterances={"dev": []})),
    ("compensated is a text", r"best\.json: compensated must be true or false", changed(compensated="no")),
    (
        "compensated without calibration speech",
        "compensated is true, but the factorisation names no calibration speech",
        changed(compensated=True, factorisation={"name": "svd"}),
    ),
]

SUBMISSIONS: list[tuple[str, str, Spoil]] = [
    ("settings lack reward", r"best\.json: settings lacks reward", changed(settings={"seed": "0"})),
    (
        "sets lack test",
        r"best\.json: sets lacks test",
        changed(sets=dict.fromkeys(("proxy", "dev"), RECORD["sets"]["dev"])),
    ),
    ("title is missing", r"best\.json lacks title", lambda path: without(path, "title")),
]

REFUSED: list[tuple[str, str, Spoil]] = [
    ("another model", "the leaderboard is for the model las_small, not /tmp/mine", changed(model="/tmp/mine")),
    (
        "a class in it",
        "a submission is data, and this one names code: os.system",
        changed(factorisation={"_target_": "os.system"}),
    ),
    (
        "dev is test",
        "the leaderboard is for the shipped sets, each for its purpose: dev is test",
        changed(utterances={"proxy": "proxy", "dev": "test", "test": "test"}),
    ),
    (
        "a set too few",
        "the leaderboard is for the sets proxy, dev, test, not proxy, dev",
        changed(utterances={"proxy": "proxy", "dev": "dev"}),
    ),
]


def refusals(path: Path) -> None:
    raise ValueError(" ".join(leaderboard.refusals(path)))


def training_record(spoil: Spoil, folder: Path) -> None:
    path = folder / "run" / "result.json"
    path.parent.mkdir()
    wer = {"wer": 0.1}
    content = {
        "size_ratio": 0.5,
        "training": {"utterances": 3, "cpu_seconds": 1.5},
        "before": {"dev": wer},
        "after": {"dev": wer, "test": wer},
    }
    path.write_text(json.dumps(content))
    summary.trained_table(folder)
    spoil(path)
    summary.trained_table(folder)


TRAINING_RECORDS: list[tuple[str, str, Spoil]] = [
    ("cut off", r"result\.json: not JSON", cut(0.5)),
    (
        "after is missing",
        r"result\.json lacks after: it must be the result\.json of a fine-tuning",
        lambda path: without(path, "after"),
    ),
    (
        "after lacks test",
        r"result\.json: after must be an object with dev and test",
        changed(after={"dev": {"wer": 0.1}}),
    ),
    (
        "cpu_seconds is a text",
        r"result\.json: training must be an object with utterances and cpu_seconds",
        changed(training={"utterances": 1, "cpu_seconds": "x"}),
    ),
]


def checkpoint(spoil: Spoil, folder: Path) -> None:
    corpus = make_corpus(folder)

    def trainer() -> Trainer:
        settings = TrainingSettings(epochs=1, batch_seconds=2.0)
        return Trainer(make_learner(corpus), corpus, corpus[:1], PLAIN, JointCTCAttention(), settings, folder / "run")

    trainer()._save_checkpoint()
    path = folder / "run" / CHECKPOINT
    spoil(path)
    unchanged(path, trainer)


def state(change_state: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change_state(content)
        torch.save(content, path)

    return spoil


NO_CHECKPOINT = r"checkpoint\.pt: not a whole checkpoint of a training .*; remove it to begin anew"

CHECKPOINTS: list[tuple[str, str, Spoil]] = [
    ("a text", NO_CHECKPOINT, replace_with(b"hello")),
    ("empty", NO_CHECKPOINT, replace_with(b"")),
    ("cut off", NO_CHECKPOINT, cut(0.5)),
    ("a pickle", NO_CHECKPOINT, replace_with(PICKLE)),
    (
        "only weights",
        r"checkpoint\.pt: not a checkpoint of a training; remove it to begin anew",
        lambda path: torch.save({"w": torch.zeros(1)}, path),
    ),
    (
        "of other speech",
        r"checkpoint\.pt belongs to another training set, model, objective, number of processes or settings",
        state(lambda content: content.update(fingerprint="x")),
    ),
    (
        "a tensor is missing",
        r"checkpoint\.pt: damaged .*; remove it to begin anew",
        state(lambda content: content["model"].popitem()),
    ),
    (
        "an optimizer of another model",
        r"checkpoint\.pt: damaged .*; remove it to begin anew",
        state(lambda content: content.update(optimizer={})),
    ),
]


def agent(name: str, spoil: Spoil, folder: Path) -> None:
    kind = getattr(agents, name)
    made = kind(make_fake_env("discrete"), seed=0)
    made.learn(5)
    made.save(folder / "agent")
    spoil(folder / "agent")
    kind.load(folder / "agent")


AGENTS: list[tuple[str, Spoil]] = [
    ("a text", replace_with(b"hello")),
    ("a pickle", replace_with(PICKLE)),
    ("cut off", cut(0.5)),
    ("empty", replace_with(b"")),
]
