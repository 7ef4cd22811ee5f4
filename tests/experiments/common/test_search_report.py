"""The page of a search, and its data."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from stable_baselines3 import PPO

from experiments.common.course import SEARCH, Course, EpisodeReturns
from experiments.common.search_report import (
    has_one_size,
    layer_rows,
    learning_chart,
    size_chart,
    wer_chart,
    write_report,
)
from experiments.common.transcripts import changed_transcripts, compare_words
from shrinkml_env import Ledger
from shrinkml_env.sb3 import BudgetCallback
from tests.helpers.fake_evaluator import make_fake_env
from tests.helpers.results import make_result, make_utterances


def xy(chart, label):
    (found,) = [series["points"] for series in chart["series"] if series["label"] == label]
    return [(point["x"], point["y"]) for point in found]


def test_the_chart_of_sizes():
    result = make_result()
    rules = {"uniform ranks": result.history[0].evaluation}
    chart = size_chart(result, [trial.evaluation for trial in result.history[1:]], rules)
    # 56400, 58040 and 61160 of 61160 parameters; 74, 20 and 20 of 640 words.
    assert xy(chart, "evaluated") == [(0.92217, 11.5625), (0.94899, 3.125), (1.0, 3.125)]
    assert xy(chart, "front of these") == [(0.92217, 11.5625), (0.94899, 3.125)]
    assert xy(chart, "curve of uniform ranks") == [(0.94899, 3.125), (1.0, 3.125)]
    assert xy(chart, "uniform ranks") == [(0.92217, 11.5625)]
    assert xy(chart, "chosen") == [(0.94899, 3.125)]
    assert xy(chart, "original") == [(0.92217, 3.125), (1.0, 3.125)]
    tip = chart["series"][1]["points"][0]["tip"]
    assert tip[:3] == ["evaluation 1 of 3", "size ratio 0.922", "WER 11.56 %"]
    # The gate is none of the search's layers.
    assert tip[3:] == ["frontend dense", "encoder.0 dense", "encoder.1 dense", "bridge dense", "output 10"]


def test_the_chart_of_wers():
    result = make_result()
    chart = wer_chart(result, {"uniform ranks": result.history[0].evaluation})
    assert xy(chart, "uniform ranks") == [(1, 11.5625), (3, 11.5625)]
    assert xy(chart, "evaluated") == [(1, 11.5625), (2, 3.125), (3, 3.125)]
    assert xy(chart, "chosen") == [(2, 3.125)]
    assert xy(chart, "original") == [(1, 3.125), (3, 3.125)]
    (tried,) = [series["points"] for series in chart["series"] if series["label"] == "evaluated"]
    assert tried[0]["tip"][0] == "evaluation 1 of 3"


def test_one_size():
    # 56400, 58040 and 61160 of 61160 parameters.
    first, second, third = make_result().history
    near = replace(second, evaluation=replace(second.evaluation, size_ratio=second.evaluation.size_ratio + 0.009))
    assert has_one_size(make_result(history=(second, near)), [])
    assert not has_one_size(make_result(history=(first, second)), [])
    assert not has_one_size(make_result(history=(second, near)), [third.evaluation])
    assert not has_one_size(make_result(history=(second,)), [])


def test_the_page_of_one_size(tmp_path):
    _, second, _ = make_result().history
    write_report(tmp_path, make_result(history=(second, second)), Course())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "WER of each evaluation" in page
    assert "WER against size" not in page
    assert (tmp_path / "search.png").exists()


def test_the_learning_curve():
    result, course = make_result(), Course()
    rewards = [-54 / 640 - 0.2 * 56400 / 61160, -0.2 * 58040 / 61160, -0.2]
    chart = learning_chart(result, course)
    assert np.array(xy(chart, "evaluation")) == pytest.approx(np.array([*enumerate(rewards, 1)]), abs=1e-5)
    best = [rewards[0], rewards[1], rewards[1]]
    assert np.array(xy(chart, "best so far")) == pytest.approx(np.array([*enumerate(best, 1)]), abs=1e-5)
    means = [rewards[0], sum(rewards[:2]) / 2, sum(rewards) / 3]
    found = xy(chart, "mean of the last 20 evaluations")
    assert np.array(found) == pytest.approx(np.array([*enumerate(means, 1)]), abs=1e-5)
    # Of the episodes until each evaluation, but no more than twenty: the first return is forgotten in the end.
    course.returns = [(1, -1.0), (1, -0.5), *[(2, -0.25)] * 19]
    assert xy(learning_chart(result, course), "mean of the last 20 episodes") == [(1, -0.75), (2, -0.2625)]


def test_the_best_so_far_is_feasible():
    problem = make_fake_env(constraint={"name": "check", "budget": 0.95}, ledger=Ledger()).problem
    for ranks in {}, {"output": 10}, {"output": 20}:
        problem.evaluate(ranks)
    chart = learning_chart(make_result(history=problem.history), Course())
    assert [x for x, _ in xy(chart, "best so far")] == [2, 3]


def test_the_rows_of_layers():
    *_, bridge, output = layer_rows(make_result())
    assert (bridge["rank"], bridge["kept_share"], bridge["rank_share"]) == ("dense", 1.0, 1.0)
    assert (output["name"], output["rank"], output["kept"]) == ("output", "20", "51 %")
    assert output["rank_share"] == 20 / 64
    assert output["kept_share"] == 20 * 164 / 6400


@pytest.mark.parametrize(
    ("hypothesis", "compared"),
    [
        ("the cat sat", [("right", "the cat sat")]),
        ("a cat sat down", [("wrong", "a"), ("right", "cat sat"), ("wrong", "down")]),
        ("the sat", [("right", "the"), ("missing", "cat"), ("right", "sat")]),
        ("", [("missing", "the cat sat")]),
    ],
)
def test_words_are_compared(hypothesis, compared):
    assert compare_words("the cat sat", hypothesis) == compared


def test_the_largest_changes_come_first():
    first, second = changed_transcripts(make_result(), make_utterances())
    assert (first.id, second.id) == ("u2", "u0")
    assert first.compressed == [("right", "<b>one"), ("wrong", "too"), ("right", "three"), ("wrong", "four")]
    assert (second.reference, second.original) == ("the cat sat", [("right", "the cat sat")])
    assert second.compressed == [("right", "the"), ("missing", "cat"), ("right", "sat")]
    kind, _, content = second.sound.partition(",")
    assert kind == "data:audio/mpeg;base64"
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert len(samples) / rate == pytest.approx(1, abs=0.2)
    assert np.abs(samples).max() == pytest.approx(0.1, rel=0.3)


def test_sound_has_a_limit(monkeypatch):
    (first, _) = changed_transcripts(make_result(), make_utterances())
    monkeypatch.setattr("experiments.common.transcripts.SOUND", len(first.sound))
    assert [one.sound for one in changed_transcripts(make_result(), make_utterances())] == [first.sound, None]


def test_nothing_changed():
    assert changed_transcripts(make_result(test_edits=((0, 1, 0), (0, 1, 0))), make_utterances()) == []


def test_the_page(tmp_path):
    result, course = make_result(), Course()
    course.phases, course.evaluations = {"search": 12.34}, [1.0, 9.0, 2.0]
    transcripts = changed_transcripts(result, make_utterances())
    damage = {layer.name: 0.001 * place for place, layer in enumerate(result.layers)}
    first, _, third = (trial.evaluation for trial in result.history)
    rules = {"uniform ranks": first, "ranks of the least predicted damage": third}
    write_report(tmp_path, result, course, transcripts=transcripts, damage=damage, rules=rules)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<td>search</td><td>12.3<meter value="12.34" max="12.34">' in page
    assert "An evaluation took 2.00 s in the median" in page
    assert '<meter value="0.001"' in page
    said = " ".join(re.sub("<[^>]*>", "", page).split())
    # 58040 of 61160 parameters; 1 and 4 of the 8 words of test, 20 and 74 of the 640 of proxy.
    assert "The compressed model keeps 94.9 % of the parameters." in said
    assert "on test is 50.00 %, the original's 12.50 %: the increase is +37.50 points" in said
    assert "is 3.12 % for the chosen ranks, 11.56 % for uniform ranks and 3.12 % for ranks of the least" in said
    # Texts are texts, whatever they hold.
    assert "&lt;b&gt;one two three" in page
    assert "<b>one" not in page
    assert "a &lt;search&gt;" in page
    # What is drawn, without the series that have no points.
    (data,) = re.findall('<script type="application/json" id="data">(.*)</script>', page)
    labels = [series["label"] for series in json.loads(data)["wers"]["series"]]
    assert labels == [
        "original",
        "evaluated",
        "front of these",
        "uniform ranks",
        "ranks of the least predicted damage",
        "chosen",
    ]
    # There is no command outside of commands.
    assert "The command" not in page


def test_a_course_knows_the_returns_of_all_episodes():
    env, course = make_fake_env(ledger=Ledger(budget=6)), Course()
    ledger = env.problem.ledger
    ledger.subscribe(course)
    agent = PPO("MlpPolicy", env, n_steps=10, batch_size=10, n_epochs=1, gamma=1.0, seed=0)
    agent.learn(10_000, callback=[BudgetCallback(), EpisodeReturns(course, ledger)])
    rewards = [trial.reward for trial in env.problem.history]
    assert len(course.evaluations) == len(rewards) == 6
    assert course.phases[SEARCH] == pytest.approx(sum(course.evaluations))
    # The first episode with each count is the one that was new.
    new = dict(reversed(course.returns))
    assert [new[count] for count in range(1, 7)] == pytest.approx(rewards)
