from experiments.reward_study import Point, Setting, draw, end, optimum, row, settings
from experiments.runs import Run, Task, play
from tests.experiments.test_benchmark import fake_table  # noqa: F401 - a fixture
from tests.test_tabular import LIVE, TABLE


def test_settings():
    found = settings({"linear": {"size_weight": [0.1, 0.2]}, "accuracy": {"budget": [0.5]}})
    assert found == [
        Setting("linear", "size_weight 0.1", ("reward.size_weight=0.1",)),
        Setting("linear", "size_weight 0.2", ("reward.size_weight=0.2",)),
        Setting("accuracy", "budget 0.5", ("constraint=check", "constraint.budget=0.5")),
    ]


def test_the_optimum_is_the_best_feasible_one(fake_table):  # noqa: F811
    measured = [LIVE.evaluate(ranks) for ranks in TABLE.configurations()]
    small = [evaluation for evaluation in measured if evaluation.size_ratio <= 0.4]
    best = min(small, key=lambda evaluation: evaluation.wer)
    assert optimum(settings({"accuracy": {"budget": [0.4]}})[0]).wer == best.wer
    heavy, light = (optimum(setting) for setting in settings({"linear": {"size_weight": [5, 0.001]}}))
    assert heavy.size_ratio < light.size_ratio


def test_a_run_ends_at_its_best_feasible_configuration():
    run = Run("ppo", "linear", 0, [0.9, 0.1, 0.5], [False, True, True], [0.3, 0.2, 0.1], [0.2, 0.4, 0.6])
    assert end(run) == Point(0.6, 0.1)
    assert end(Run("ppo", "linear", 0, [0.9], [False], [0.3], [0.2])) is None


def test_a_row_by_hand():
    runs = [
        Run("ppo", "linear", seed, [0.5], [feasible], [wer], [0.4 + wer])
        for seed, (wer, feasible) in enumerate([(0.1, True), (0.2, True), (0.0, False)])
    ]
    found = row(Setting("linear", "size_weight 1", ()), Point(0.3, 0.25), "ppo", runs, allowed=0.1)
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
    assert row(Setting("linear", "", ()), Point(0.3, 0.25), "ppo", runs[2:], 0.1)[5:] == ("", "", "1 of 1", "0 of 1")


def test_a_picture(fake_table, tmp_path):  # noqa: F811
    chosen = settings({"linear": {"size_weight": [0.1, 0.5]}, "amc": {"cost": ["params"]}})
    runs = {
        (setting, "random"): [
            play(Task("tabular", "random", setting.reward, seed, 5, setting.overrides)) for seed in (0, 1)
        ]
        for setting in chosen
    }
    draw(tmp_path / "study.png", {setting: optimum(setting) for setting in chosen}, runs)
    assert (tmp_path / "study.png").stat().st_size > 10_000
