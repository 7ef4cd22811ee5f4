import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from experiments.common.agent import make_agent
from experiments.common.compose import compose_config
from experiments.common.parts import part
from experiments.common.searches import Search, search_cell
from experiments.studies import tune
from experiments.studies.tune import drawn_settings, final_score, setting_cells
from tests.helpers.fake_evaluator import make_fake_env

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 300), st.integers(0, 99))
def test_different_settings_and_first_the_same(sizes, count, seed):
    """A larger number begins with the settings of a smaller one, so that a study can be continued."""
    space = {f"option{place}": list(range(size)) for place, size in enumerate(sizes)}
    everything = {
        tuple(f"{key}={value}" for key, value in zip(space, values, strict=True))
        for values in itertools.product(*space.values())
    }
    drawn = drawn_settings(space, count, seed)
    assert len(set(drawn)) == len(drawn) == min(count, len(everything))
    assert set(drawn) <= everything
    assert drawn_settings(space, 1000, seed)[:count] == drawn


def test_all_settings_are_equally_probable():
    space = {"a": [1, 2, 3, 4], "b": [True, False]}
    drawn = Counter(drawn_settings(space, 2, seed)[1][0] for seed in range(400))
    assert drawn.keys() == {"a=1", "a=2", "a=3", "a=4"}
    assert all(70 <= count <= 130 for count in drawn.values())


def config():
    return OmegaConf.to_container(compose_config("tune"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Samplers warn of experimental and of deprecated options.
@pytest.mark.parametrize("agent", config()["agents"])
def test_the_settings_are_those_of_the_agents_config(agent):
    """Every override can be composed, and made into an agent; one without a plus is of something that is there."""
    space = config()["spaces"][agent]
    for setting in drawn_settings(space, 3, seed=1):
        composed = Search("tabular", agent, "linear", 0, 5, setting).config
        make_agent(composed.agent, make_fake_env(part("action", composed.action)))


def test_the_reported_rewards_are_not_tuned_on():
    benchmark, tuned = compose_config("benchmark"), config()
    assert not set(tuned["seeds"]) & set(range(benchmark.first_seed, benchmark.first_seed + benchmark.seeds))
    for reward, *options in tuned["rewards"]:
        name = reward.partition("=")[2]
        default, changed = (compose_config("search", [reward, *extra]).reward for extra in ([], options))
        assert name in benchmark.rewards
        assert default != changed


def test_scores_are_between_the_ends(fake_table):
    assert final_score(Search("tabular", "random", "linear", 0, 48)) == pytest.approx(1.0)  # all of 4 * 3 * 4
    assert -1 <= final_score(Search("tabular", "random", "linear", 0, 1)) < 1


def test_every_setting_meets_the_same_rewards_and_seeds(tmp_path):
    config = compose_config("tune", ["trials=2", f"outputs={tmp_path}"])
    drawn = drawn_settings(tune.space_of(config, "knapsack"), 2, seed=0)
    for setting in (tune.PRESENT, *drawn):
        searches = [cell.task for cell in setting_cells(config, "knapsack", setting)]
        assert [(search.reward, search.seed, search.overrides) for search in searches] == [
            (reward, seed, (option, *setting))
            for reward, option in [
                ("linear", "reward.size_weight=0.5"),
                ("harmonic", "reward.beta=0.5"),
                ("soft_threshold", "reward.kappa=4"),
            ]
            for seed in (1000, 1001)
        ]


def test_a_score_is_kept_under_all_that_it_depends_on(monkeypatch):
    """Two agents' defaults must not share one, though nothing but the defaults differs."""
    search = Search("tabular", "knapsack", "linear", 1000, 100)
    others = [
        Search("tabular", "knapsack", "linear", 1001, 100),
        Search("tabular", "knapsack", "linear", 1000, 100, ("agent.points=99",)),
    ]
    assert len({search_cell(one).key for one in (search, *others)}) == 3


@pytest.mark.slow
def test_the_command_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    played = []

    def scored(cell):
        played.append(cell.key)
        return {"score": 0.9 if "agent.points=3" in cell.task.overrides else 0.5}

    monkeypatch.setattr(
        tune, "study_results", lambda study, config, cells, make, read, name: [*map(read, map(scored, cells))]
    )
    config = compose_config("tune", ["agents=[knapsack]", "trials=2", f"outputs={tmp_path}"])
    tune.main.__wrapped__(config)
    first = list(played)
    assert len(first) == 3 * 6
    # More of the same study: what was drawn before comes first again.
    played.clear()
    config.trials = 4
    tune.main.__wrapped__(config)
    assert played[: 3 * 6] == first
    assert len(played) == 5 * 6
    assert len(set(played)) == 4 * 6  # one of the settings is the present one
    assert "agent.points=3" in capsys.readouterr().out.splitlines()[-2]


def test_scores_are_between_the_ends_that_the_constraint_leaves(fake_table):
    """All episodes are played: the best of them scores 1, whatever is better in the table and not allowed."""
    limited = ("reward=accuracy", "constraint=clip", "constraint.budget=0.6")
    assert final_score(Search("tabular", "random", "accuracy", 0, 48, limited)) == pytest.approx(1.0)
