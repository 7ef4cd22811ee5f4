import numpy as np

from experiments.common.searches import Search, explored
from experiments.studies import reward_study
from experiments.studies.reward_study import Model, Setting, SettingSearch, draw, model_of, optimum, row, settings
from tests.helpers.fake_table import LIVE, TABLE


def make(search):
    return reward_study.make(SettingSearch(Setting(search.reward, "", search.overrides), search))


def test_settings():
    found = settings({"linear": {"size_weight": [0.1, 0.2]}, "harmonic": {"beta": [0.5]}})
    assert found == [
        Setting("linear", "size_weight 0.1", ("reward.size_weight=0.1",)),
        Setting("linear", "size_weight 0.2", ("reward.size_weight=0.2",)),
        Setting("harmonic", "beta 0.5", ("reward.beta=0.5",)),
    ]


def test_the_optimum_is_the_best_there_is(fake_table, monkeypatch):
    measured = [LIVE.evaluate(ranks) for ranks in TABLE.configurations()]
    monkeypatch.setattr(reward_study, "_live_on_test", lambda: LIVE)
    best = max(measured, key=lambda evaluation: -evaluation.wer - 0.5 * evaluation.size_ratio)
    found = optimum(settings({"linear": {"size_weight": [0.5]}})[0])
    assert found[:2] == (best.size_ratio, best.wer)
    heavy, light = (optimum(setting) for setting in settings({"linear": {"size_weight": [5, 0.001]}}))
    assert heavy.size_ratio < light.size_ratio


def test_test_is_measured_where_the_table_does_not_hold_it(fake_table, monkeypatch):
    known = TABLE.edits["test"] >= 0
    asked = []
    monkeypatch.setattr(reward_study, "_live_on_test", lambda: asked.append(1) or LIVE)
    configurations = list(TABLE.configurations())
    for is_known in (True, False):
        ranks = configurations[int(np.flatnonzero(known == is_known)[0])]
        on_proxy = TABLE.evaluator().evaluate(ranks)
        on_test = TABLE.evaluator("test").evaluate(ranks) if is_known else LIVE.evaluate(ranks)
        assert model_of(on_proxy) == Model(on_proxy.size_ratio, on_proxy.wer, on_test.wer)
        assert bool(asked) != is_known


def test_a_run_ends_at_its_best_feasible_configuration(fake_table, monkeypatch):
    monkeypatch.setattr(reward_study, "_live_on_test", lambda: LIVE)
    tight = ("constraint=check", "constraint.budget=0.4")
    search = Search("tabular", "random", "accuracy", 0, 30, tight)
    history = explored(search).problem.history
    best = min(trial.evaluation.wer for trial in history if trial.feasible)
    assert not all(trial.feasible for trial in history)
    assert make(search)["end"].proxy_wer == best
    nothing = Search("tabular", "random", "accuracy", 0, 1, ("constraint=check", "constraint.budget=0.001"))
    assert make(nothing) == {"end": None}


def test_a_row_by_hand():
    ends = [Model(0.5, 0.3, 0.1), Model(0.6, 0.4, 0.2), None]
    found = row(Setting("linear", "size_weight 1", ()), Model(0.3, 0.1, 0.25), "ppo", ends, allowed=0.1)
    assert found == (
        "linear",
        "size_weight 1",
        "0.300",
        "25.00",
        "ppo",
        "0.550 (0.500 to 0.600)",
        "15.00 (10.00 to 20.00)",
        "1 of 3",
        "1 of 3",
    )
    nothing = row(Setting("linear", "", ()), Model(0.3, 0.1, 0.25), "ppo", [None], 0.1)
    assert nothing[5:] == ("", "", "1 of 1", "0 of 1")


def test_a_picture(fake_table, tmp_path, monkeypatch, panels):
    monkeypatch.setattr(reward_study, "_live_on_test", lambda: LIVE)
    chosen = settings({"linear": {"size_weight": [0.1, 0.5]}, "amc": {"cost": ["params"]}})
    ends = {
        (setting, "random"): [
            make(Search("tabular", "random", setting.reward, seed, 5, setting.overrides))["end"] for seed in (0, 1)
        ]
        for setting in chosen
    }
    draw(tmp_path / "study.png", {setting: optimum(setting) for setting in chosen}, ends)
    assert min(panels) > 1
