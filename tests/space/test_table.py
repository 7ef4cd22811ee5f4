"""The tables that come with the package, and their live twins."""

import warnings
from importlib.resources import files

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from shrinkml_env import load_model
from shrinkml_env.compression import SVD
from shrinkml_env.data import load_utterances
from shrinkml_env.envs.registration import make_tabular_env
from shrinkml_env.mdp.rewards import REWARDS
from shrinkml_env.space.table import SHIPPED_TABLES, Table


@pytest.fixture(scope="module")
def table():
    return Table.load()


@pytest.fixture(scope="module")
def best(table):
    """Reward -> the numbers of the 500 best configurations on proxy."""
    evaluations = table.evaluator().evaluations
    found = {}
    for name in REWARDS.keys() - {"vector", "divergence"}:  # a table holds word errors, and the first is of two parts
        problem = make_tabular_env(reward=name, table=table).problem
        rewards = np.array([problem.reward(evaluation)[0] for evaluation in evaluations])
        found[name] = np.argsort(-rewards, kind="stable")[:500]
    return found


@pytest.fixture(scope="module")
def finished():
    """The model, and its factors, which take a second."""
    model = load_model("las_small")
    return {"model": model, "factorisation": SVD(model)}


def test_complete_on_proxy_and_small(table):
    assert table.size >= 16_384
    assert (files("shrinkml_env") / "assets/table.npz").stat().st_size <= 3_000_000
    assert table.edits["proxy"].min() > 0
    assert table.edits["proxy"].shape == (table.size,)


@pytest.mark.slow
@pytest.mark.parametrize("subset", ["dev", "test"])
def test_the_best_and_many_others_on_dev_and_test(table, best, subset):
    known = table.edits[subset] >= 0
    assert known[-1]
    assert len(best) >= 8
    for name, numbers in best.items():
        assert known[numbers].all(), name
    assert known[np.random.default_rng(0).permutation(table.size)[:1000]].all()


@pytest.mark.slow
@pytest.mark.parametrize("action", ["discrete", "continuous"])
def test_both_checkers_pass_without_a_warning(action):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("ShrinkMLTabular-v0", action=action).unwrapped
        gymnasium_check_env(env, skip_render_check=True)
        sb3_check_env(env)


@pytest.mark.slow
@pytest.mark.parametrize(("subset", "rows"), [("proxy", 3), ("dev", 1)])
def test_random_rows_are_what_the_live_twin_measures(table, finished, subset, rows):
    tabular = gym.make("ShrinkMLTabular-v0", subset=subset).unwrapped
    live = gym.make("ShrinkML-v0", **tabular.live_kwargs | finished | {"cache": None}).unwrapped
    configurations = list(table.configurations())
    known = np.flatnonzero(table.edits[subset] >= 0)
    for number in np.random.default_rng(5).choice(known, rows, replace=False):
        actions = tabular.actions_for(configurations[number])
        results = []
        for env in (tabular, live):
            observed = [env.reset(seed=0)[0]]
            for action in actions:
                observation, reward, *_, info = env.step(action)
                observed.append(observation)
            results.append((np.array(observed), reward, info))
        (one, reward, info), (other, real_reward, real) = results
        assert np.allclose(one, other, atol=1e-6)
        assert reward == pytest.approx(real_reward, abs=1e-12)
        for key in ("ranks", "wer", "wer_baseline", "size_ratio", "params", "macs", "feasible", "reward_terms"):
            assert info[key] == real[key], key


@pytest.mark.slow
def test_an_evaluator_on_other_utterances_measures_for_real(table, tmp_path, monkeypatch):
    monkeypatch.setenv("SHRINKML_CACHE", str(tmp_path / "evaluations.sqlite"))
    on_proxy = table.evaluator("dev").on(load_utterances("proxy"))
    assert on_proxy.layers == table.layers
    configuration = list(table.configurations())[np.flatnonzero(table.edits["dev"] >= 0)[7]]
    expected, measured = table.evaluator("proxy").evaluate(configuration), on_proxy.evaluate(configuration)
    assert measured.ranks == expected.ranks
    assert (sum(measured.edits), sum(measured.words)) == (sum(expected.edits), sum(expected.words))
    assert (measured.params, measured.macs) == (expected.params, expected.macs)


def test_all_evaluations_are_those_of_each(table):
    evaluator = table.evaluator()
    evaluations, configurations = evaluator.evaluations, list(table.configurations())
    assert len(evaluations) == table.size
    for number in [0, table.size - 1, *np.random.default_rng(1).integers(table.size, size=300)]:
        assert evaluations[number] == evaluator.evaluate(configurations[number])
    with pytest.raises(ValueError, match=r"the table does not hold .* on 'dev'"):
        table.evaluator("dev").evaluations  # noqa: B018


@pytest.mark.parametrize("name", SHIPPED_TABLES)
def test_every_shipped_table_is_complete_and_small(name):
    table = Table.load(name)
    assert table.size >= 4_096
    assert (files("shrinkml_env") / SHIPPED_TABLES[name]).stat().st_size <= 500_000
    assert (table.edits["proxy"] >= 0).all()
    for subset in ("dev", "test"):
        assert table.edits[subset][-1] >= 0
        assert (table.edits[subset] >= 0).sum() >= 100
    assert "/" not in str(table.utterances.get("proxy")).replace("LibriSpeech/", "")
    if table.divergence:
        assert np.isfinite(table.divergence["proxy"]).all()
        assert table.divergence["proxy"][-1] == 0
        assert table.divergence["proxy"].min() == 0


@pytest.fixture(scope="module")
def pivoting():
    return Table.load("las_small_pivoting")


def test_levels_of_the_best_factors(pivoting):
    """Level by level the model is larger, and further from broken; a common level may be shifted to a size."""
    space, evaluator = pivoting.search_space, pivoting.evaluator()
    levels = [evaluator.evaluate(space.at_level(level)) for level in range(space.top_level + 1)]
    sizes, damages = ([getattr(one, name) for one in levels] for name in ("size_ratio", "divergence"))
    assert sizes == sorted(sizes)
    assert damages == sorted(damages, reverse=True)
    assert levels[-1] == evaluator.baseline
    env = gym.make(
        "ShrinkMLTabular-v0",
        table="las_small_pivoting",
        action="level",
        reward="divergence",
        constraint={"name": "shift", "budget": 0.3},
    )
    env.reset()
    for _ in range(7):
        *_, terminated, _, info = env.step(np.zeros(1, np.float32))
    assert terminated
    assert 0.25 < info["size_ratio"] <= 0.3
    assert 0 < info["divergence"] < env.unwrapped.table.divergence["proxy"].max()


@pytest.mark.slow
def test_a_row_of_the_best_factors_is_what_the_live_twin_measures(pivoting):
    tabular = gym.make("ShrinkMLTabular-v0", table="las_small_pivoting", reward="divergence").unwrapped
    live = gym.make("ShrinkML-v0", **tabular.live_kwargs).unwrapped
    (number,) = np.random.default_rng(3).integers(pivoting.size, size=1)
    ranks = list(pivoting.configurations())[number]
    found, real = tabular.problem.evaluator.evaluate(ranks), live.problem.evaluator.evaluate(ranks)
    assert (sum(real.edits), sum(real.words)) == (sum(found.edits), sum(found.words))
    assert (real.params, real.macs, real.capped) == (found.params, found.macs, found.capped)
    assert real.divergence == pytest.approx(found.divergence, rel=1e-5)


@pytest.mark.slow
def test_the_optimum_is_the_best_of_all_rewards(table):
    env = make_tabular_env(reward="linear", table=table)
    wer = table.edits["proxy"] / table.words["proxy"]
    sizes = np.array([evaluation.size_ratio for evaluation in table.evaluator().evaluations])
    assert env.optimum == pytest.approx((-(wer - wer[-1]) - 0.2 * sizes).max())


@pytest.mark.slow
@pytest.mark.parametrize("reward", sorted(REWARDS.keys() - {"vector", "divergence", "accuracy", "amc"}))
def test_the_defaults_of_rewards_that_weigh_the_size_lead_to_a_useful_one(table, reward):
    rewards = make_tabular_env(reward=reward, table=table).rewards
    assert 0.2 <= table.evaluator().evaluations[int(np.argmax(rewards))].size_ratio <= 0.6
