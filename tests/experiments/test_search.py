"""A whole search on a small recogniser of another architecture, and its validation."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize

from experiments.search import search
from experiments.validate import validate, validate_ranks
from shrinkml_env import save_compressed
from shrinkml_env.evaluation.ledger import read_ledger
from tests.models import TinyCTC, tones


@pytest.fixture
def workplace(tmp_path):
    """A saved model and three sets in LibriSpeech's layout, whose references the model half recognises."""
    model = TinyCTC()
    save_compressed(model, tmp_path / "model")
    for seed, subset in enumerate(("proxy", "dev", "test")):
        chapter = tmp_path / subset / "1" / "2"
        chapter.mkdir(parents=True)
        lines = []
        for index, waveform in enumerate(tones(4, seed)):
            soundfile.write(chapter / f"1-2-{index:04d}.flac", np.clip(waveform.numpy(), -1, 1), 16_000)
            words = model.transcribe([waveform])[0].split()
            lines.append(f"1-2-{index:04d} {' '.join(['word', *words[1:], 'more']).upper()}")
        (chapter / "1-2.trans.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def configure(workplace, *overrides):
    sets = [f"{name}={{root: {workplace}, subset: {name}}}" for name in ("proxy", "dev", "test")]
    with initialize(version_base="1.3", config_path="../../conf"):
        return compose(
            "search",
            [f"model.name={workplace / 'model'}", f"outputs={workplace / 'outputs'}", *sets, *overrides],
        )


@pytest.mark.parametrize(
    "overrides",
    [
        ["agent=ppo", "agent.n_steps=8", "agent.batch_size=8", "agent.n_epochs=1"],
        ["agent=ddpg", "agent.learning_starts=8", "agent.batch_size=8"],
        ["agent=random", "reward=threshold"],
        ["agent=uniform", "action=discrete", "granularity=matrix"],
        ["agent=custom", "agent._target_=agents.RandomSearch"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_search_leaves_a_validated_model(workplace, overrides, capsys):
    directory = search(configure(workplace, "budget=6", "finalists=2", *overrides), "title")
    printed = capsys.readouterr().out
    record = json.loads((directory / "best.json").read_text())
    _, evaluations = read_ledger(directory / "evaluations.jsonl")
    assert record["evaluations"] == len(evaluations) <= 6
    assert record["ranks"] in [dict(evaluation.ranks) for evaluation in evaluations]
    assert str(directory) in printed
    assert f"{100 * record['sets']['test']['wer_after']:.2f} %" in printed
    for name in ("config.yaml", "search.png", "report.html", "compressed/model.safetensors", "tensorboard"):
        assert (directory / name).exists(), name
    assert validate(directory) == []
    assert validate_ranks(directory / "best.json") == []


def test_a_killed_search_resumes_to_the_same_end(workplace):
    config = configure(workplace, "agent=random", "budget=8", "finalists=2")
    directory = search(config, "title")
    ledger, best = (directory / "evaluations.jsonl").read_bytes(), (directory / "best.json").read_bytes()
    # As a kill in the middle of a line leaves it.
    lines = ledger.splitlines(keepends=True)
    shutil.rmtree(directory)
    directory.mkdir()
    (directory / "evaluations.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:20])
    assert search(config, "title") == directory
    assert (directory / "evaluations.jsonl").read_bytes() == ledger
    assert (directory / "best.json").read_bytes() == best


def leaves(record, path=()):
    """The paths of all numbers in nested mappings."""
    if isinstance(record, dict):
        return [leaf for name, value in record.items() for leaf in leaves(value, (*path, name))]
    return [path]


def test_validation_notices_every_wrong_number(workplace):
    directory = search(configure(workplace, "agent=random", "budget=3", "finalists=1"), "title")
    content = (directory / "best.json").read_text()
    numbers = [
        path for path in leaves(json.loads(content)) if path[0] in ("params", "file_bytes", "sets", "size_ratio")
    ]
    assert len(numbers) == 2 + 2 + 1 + 3 * 8
    for path in numbers:
        record = json.loads(content)
        inner = record
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] += 1
        (directory / "best.json").write_text(json.dumps(record))
        assert [difference.split(":")[0] for difference in validate(directory)] == [".".join(path)]
    with pytest.raises(FileNotFoundError, match=r"best\.json"):
        validate(workplace)
    record = json.loads(content)
    record["sets"]["test"]["edits_after"] += 1
    (directory / "best.json").write_text(json.dumps(record))
    (difference,) = validate_ranks(directory / "best.json")
    assert difference.startswith("sets.test.edits_after: recorded")
    del record["ranks"]
    (directory / "best.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"best\.json lacks ranks"):
        validate_ranks(directory / "best.json")


def test_the_run_directory_follows_from_the_config(workplace):
    from experiments.run_directory import run_directory

    first, again = (run_directory(configure(workplace, "seed=3"), "t") for _ in range(2))
    other = run_directory(configure(workplace, "seed=4"), "t")
    assert first == again
    assert first != other
