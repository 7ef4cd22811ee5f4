"""A whole search on a small recogniser of another architecture, and its validation."""

import json
import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents import ClosedForm, ModelBasedSearch, RandomSearch, UniformRank
from experiments.common.compose import compose_config
from experiments.common.search_run import predicting_rule, search
from experiments.validate import validate, validate_ranks
from shrinkml_env.evaluation import read_ledger


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["agent=ppo", "agent.n_steps=8", "agent.batch_size=8", "agent.n_epochs=1"],
        ["agent=ppo", "num_envs=2", "workers=2", "agent.n_steps=8", "agent.batch_size=8", "agent.n_epochs=1"],
        ["agent=ddpg", "agent.learning_starts=8", "agent.batch_size=8"],
        ["agent=random", "reward=threshold"],
        ["agent=uniform", "action=discrete", "granularity=matrix"],
        ["agent=custom", "agent._target_=agents.RandomSearch"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_search_leaves_a_validated_model(configure, overrides, capsys):
    directory = search(configure("budget=6", "finalists=2", *overrides), "title")
    printed = capsys.readouterr().out
    record = json.loads((directory / "best.json").read_text())
    _, evaluations = read_ledger(directory / "evaluations.jsonl")
    assert record["evaluations"] == len(evaluations) <= 6
    assert record["utterance_passes"] == len(evaluations) * record["sets"]["proxy"]["utterances"]
    assert record["ranks"] in [dict(evaluation.ranks) for evaluation in evaluations]
    assert record["encoder_params"] is None  # This model does not say what its encoder is.
    assert str(directory) in printed
    assert f"{100 * record['sets']['test']['wer_after']:.2f} %" in printed
    for name in ("config.yaml", "search.png", "report.html", "compressed/model.safetensors"):
        assert (directory / name).exists(), name
    board = EventAccumulator(str(directory / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("evaluation/wer")] == list(range(1, len(evaluations) + 1))
    assert board.Scalars("result/test_wer")[0].value == pytest.approx(record["sets"]["test"]["wer_after"])
    assert board.Images("search")[0].encoded_image_string.startswith(b"\x89PNG")
    settings = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert record["settings"]["reward"].encode() in settings
    assert validate(directory) == []
    assert validate_ranks(directory / "best.json") == []


def test_a_killed_search_resumes_to_the_same_end(configure):
    config = configure("agent=random", "budget=8", "finalists=2")
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


@pytest.mark.slow
def test_validation_notices_every_wrong_number(configure, tmp_path):
    directory = search(configure("agent=random", "budget=3", "finalists=1"), "title")
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
        inner[path[-1]] += -0.01 if path == ("size_ratio",) else 1  # A ratio above 1 is none.
        (directory / "best.json").write_text(json.dumps(record))
        assert [difference.split(":")[0] for difference in validate(directory)] == [".".join(path)]
    with pytest.raises(FileNotFoundError, match=r"best\.json"):
        validate(tmp_path)
    record = json.loads(content)
    record["sets"]["test"]["edits_after"] += 1
    (directory / "best.json").write_text(json.dumps(record))
    (difference,) = validate_ranks(directory / "best.json")
    assert difference.startswith("sets.test.edits_after: recorded")
    del record["ranks"]
    (directory / "best.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"best\.json lacks ranks"):
        validate_ranks(directory / "best.json")


def test_the_run_directory_follows_from_the_config(configure):
    from experiments.common.run_directory import run_directory

    first, again = (run_directory(configure("seed=3"), "t") for _ in range(2))
    other = run_directory(configure("seed=4"), "t")
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["agent=custom"], r"agent=custom needs .* agent\._target_=my\.module"),
        (
            ["agent=custom", "agent._target_=nowhere.Agent"],
            r"agent\._target_=nowhere\.Agent .*No module named 'nowhere'",
        ),
        (["agent=custom", "agent._target_=agents.Agent"], r"agent\._target_=agents\.Agent .*no attribute 'Agent'"),
        (["+reward.foo=3"], "reward 'linear' has no option 'foo'; its options are size_weight"),
        (["search_space=explicit"], r"search_space needs its option 'candidates': give search_space\.candidates="),
        (["agent=random", "+agent.foo=3"], "agent: .* has no option 'foo'; its options are seed"),
        (["reward=custom", "reward._target_=agents"], r"reward\._target_=agents is not a class but a module"),
    ],
)
def test_a_class_that_is_not_there_leaves_nothing_behind(configure, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        search(configure("budget=2", *overrides), "title")
    assert not (tmp_path / "outputs").exists()


def test_the_rule_beside_a_search_predicts_as_the_search_does():
    config = compose_config("search", [])
    rule = ClosedForm(draws=2)
    assert predicting_rule(config, rule) is rule
    assert predicting_rule(config, ModelBasedSearch(rules=[UniformRank(), rule])) is rule
    assert predicting_rule(config, ModelBasedSearch()) is predicting_rule(config, RandomSearch()) is None
    options = ["search_space=predicted", "search_space.calibration=calibration", "search_space.draws=3"]
    predicted = predicting_rule(compose_config("search", options), RandomSearch())
    assert (predicted.calibration, predicted.draws, predicted.seed) == ("calibration", 3, None)
    # A rule that the search begins with knows of its rounds.
    rounds = ClosedForm(calibration="calibration", draws=3, rounds=2)
    assert predicting_rule(compose_config("search", options), ModelBasedSearch(rules=[rounds])) is rounds
