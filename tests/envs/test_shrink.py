import copy
import functools
import itertools
import os
import pickle
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from mo_gymnasium.wrappers import LinearReward
from mo_gymnasium.wrappers.vector import MOSyncVectorEnv
from sb3_contrib import MaskablePPO
from stable_baselines3 import DDPG, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from shrinkml_env.compression import split_layers
from shrinkml_env.evaluation.ledger import BudgetExhausted, Ledger
from shrinkml_env.mdp.actions import ACTIONS
from shrinkml_env.mdp.constraints import CONSTRAINTS
from shrinkml_env.mdp.observations import OBSERVATIONS
from shrinkml_env.mdp.rewards import REWARDS
from shrinkml_env.mdp.shaping import POTENTIALS
from tests.helpers.fake_evaluator import LAYERS, OTHER_PARAMS, FakeEvaluator, make_fake_env
from tests.helpers.levels import levelled, make_levelled_env

KINDS = list(ACTIONS)
SEQUENTIAL = [kind for kind in KINDS if kind != "one_shot"]
STEPS = 5


def play(env, actions):
    """Everything that an episode returns."""
    results = [env.reset(seed=3)]
    results += [env.step(action) for action in actions]
    return results


def assert_same(one, other):
    assert repr(one) == repr(other)


@pytest.fixture
def registered():
    gym.register("FakeShrink-v0", entry_point=make_levelled_env)
    yield "FakeShrink-v0"
    del gym.registry["FakeShrink-v0"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("render_mode", [None, "ansi", "rgb_array"])
def test_both_checkers_pass_without_a_warning(registered, kind, observation, render_mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(registered, action=kind, observation=observation, render_mode=render_mode)
        check_env(env.unwrapped)
        sb3_check_env(env.unwrapped)
        sb3_check_env(env)


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_episode(kind):
    env = make_levelled_env(kind)
    _, info = env.reset(seed=0)
    assert info == {"ranks": {}, "size_ratio": 1.0}
    ranks = {}
    chosen = {layer.name: candidates[2] for layer, candidates in zip(env.layers, env.problem.candidates, strict=True)}
    for step, (layer, action) in enumerate(zip(env.layers, env.actions_for(chosen), strict=True), start=1):
        observation, reward, terminated, truncated, info = env.step(action)
        ranks[layer.name] = chosen[layer.name]
        assert observation in env.observation_space
        assert info["layer"] == layer.name
        assert info["ranks"] == ranks
        assert info["size_ratio"] == env.evaluator.size_ratio(ranks)
        assert info["projected"] is False
        assert terminated is (step == STEPS)
        assert truncated is False
        assert type(reward) is float
        assert reward == 0.0 or terminated
    expected = env.evaluator.evaluate(chosen)
    assert info["wer"] == expected.wer
    assert info["wer_baseline"] == 20 / 640
    assert (info["params"], info["macs"]) == (expected.params, expected.macs)
    assert info["feasible"] is True
    assert info["reward_terms"] == {"wer": -(expected.wer - 20 / 640), "size": -0.2 * expected.size_ratio}
    assert reward == pytest.approx(sum(info["reward_terms"].values()))
    assert env.problem.best is not None
    assert env.problem.best.ranks == expected.ranks


def test_one_shot_episode():
    env = make_fake_env("one_shot")
    env.reset()
    chosen = {layer.name: candidates[2] for layer, candidates in zip(env.layers, env.problem.candidates, strict=True)}
    (action,) = env.actions_for(chosen)
    observation, reward, terminated, _, info = env.step(action)
    assert terminated
    assert info["layer"] == "output"
    assert info["ranks"] == chosen
    sequential = make_fake_env("discrete")
    *_, (last, expected, _, _, _) = play(sequential, sequential.actions_for(chosen))
    assert (observation.tolist(), reward) == (last.tolist(), expected)
    with pytest.raises(ResetNeeded):
        env.step(action)


def test_vector_reward():
    env = make_fake_env("discrete", reward="vector")
    assert env.reward_space.shape == (2,)
    results = play(env, [3] * STEPS)
    for _, reward, terminated, _, _ in results[1:]:
        assert reward.dtype == np.float32
        assert reward in env.reward_space or not terminated
        if not terminated:
            assert reward.tolist() == [0.0, 0.0]
    info = results[-1][-1]
    assert reward.tolist() == pytest.approx([info["wer_baseline"] - info["wer"], 1 - info["size_ratio"]])
    assert not hasattr(make_fake_env(), "reward_space")


def test_dense_episode_is_the_original():
    env = make_fake_env()
    *_, (_, reward, _, _, info) = play(env, [np.array([1.0], np.float32)] * STEPS)
    assert info["size_ratio"] == 1.0
    assert info["params"] == OTHER_PARAMS + 32 * 27 + 256 * (32 + 64) + 256 * (48 + 64) + 40 + 12 * 9 + 6400
    assert (info["wer"], reward) == (20 / 640, pytest.approx(-0.2))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_actions_for_replays_a_configuration(kind, data):
    env = make_levelled_env(kind)
    ranks = {
        layer.name: data.draw(st.sampled_from(candidates))
        for layer, candidates in zip(env.layers, env.problem.candidates, strict=True)
    }
    info = play(env, env.actions_for(ranks))[-1][-1]
    assert info["ranks"] == ranks
    assert info["projected"] is False


def test_actions_for_partial_and_bad_ranks():
    env = make_fake_env("discrete")
    assert env.actions_for({"bridge": 3}) == [14, 24, 24, 2, 24]
    assert env.actions_for({"output": 40}) == [14, 24, 24, 5, 24]
    with pytest.raises(ValueError, match="'output': rank 4 is not a candidate"):
        env.actions_for({"output": 4})
    with pytest.raises(ValueError, match="no layer is named 'nowhere'"):
        env.actions_for({"nowhere": 4})


def test_actions_for_knows_the_layers_that_are_not_decided():
    space = {"name": "explicit", "candidates": {"output": [10, 20], "bridge": [2]}}
    env = make_fake_env("discrete", search_space=space)
    play(env, [0, 1])
    assert env.actions_for(env.problem.best.ranks) == [0, 1]
    assert env.actions_for({"encoder.0": 64, "gate": 1, "output": 10}) == [1, 0]
    with pytest.raises(
        ValueError, match=r"'encoder.0' is not in the search space: it stays dense \(64\), and no action"
    ):
        env.actions_for({"encoder.0": 4, "output": 10})


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_a_bad_action_leaves_the_episode_as_it_was(kind):
    env = make_levelled_env(kind)
    actions = env.actions_for({"output": 10, "encoder.0": 4})
    undisturbed = play(env, actions)
    results = [env.reset(seed=3)]
    for layer, action in zip(env.layers, actions, strict=True):
        for bad in (np.array([np.nan], np.float32), np.zeros((2, 2)), 99, None):
            with pytest.raises(ValueError, match=f"layer '{layer.name}'"):
                env.step(bad)
        results.append(env.step(action))
    assert_same(results, undisturbed)


def test_a_reward_that_fails_leaves_the_episode_as_it_was():
    env = make_fake_env("discrete", render_mode="ansi", reward=lambda evaluation, baseline: float("nan"))
    play(env, [3] * (STEPS - 1))
    before = env.render()
    for _ in range(2):
        with pytest.raises(ValueError, match="gave nan"):
            env.step(3)
        assert env.render() == before


def test_step_needs_an_episode():
    env = make_fake_env("discrete")
    with pytest.raises(ResetNeeded, match=r"call reset\(\)"):
        env.step(0)
    play(env, [0] * STEPS)
    with pytest.raises(ResetNeeded, match=r"call reset\(\)"):
        env.step(0)
    assert env.action_masks().all()


def test_masks_only_where_the_actions_have_them(registered):
    assert not hasattr(make_fake_env("continuous"), "action_masks")
    assert not gym.make(registered, action="continuous").has_wrapper_attr("action_masks")
    env = gym.make(registered, action="discrete")
    env.reset(seed=0)
    masks = []
    for _ in range(STEPS):
        masks.append(int(env.get_wrapper_attr("action_masks")().sum()))
        *_, info = env.step(10)
        assert info["projected"] is (masks[-1] <= 10)
    assert masks == [15, 25, 25, 6, 25]
    vector = DummyVecEnv([lambda: make_fake_env("discrete")])
    vector.reset()
    assert vector.env_method("action_masks")[0].sum() == 15


def test_budget_ends_a_search_and_spoils_nothing():
    env = make_fake_env("discrete", ledger=Ledger(budget=1))
    first = play(env, [0] * STEPS)
    assert_same(play(env, [0] * STEPS), first)
    env.reset()
    for _ in range(STEPS - 1):
        env.step(0)
    for _ in range(2):
        with pytest.raises(BudgetExhausted):
            env.step(1)
    assert env.step(0)[1] == first[-1][1]  # the known configuration is still free


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_pickles_and_deep_copies_in_mid_episode(kind):
    env = make_levelled_env(kind)
    actions = env.actions_for({"output": 10, "encoder.1": 6})
    play(env, actions[:2])
    copies = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    rest = [env.step(action) for action in actions[2:]]
    assert rest[-1][2]
    for other in copies:
        assert other.action.problem is other.observation.problem is other.problem is not env.problem
        assert_same([other.step(action) for action in actions[2:]], rest)


def test_vector_environment(registered):
    envs = gym.make_vec(registered, num_envs=3, vectorization_mode="sync", action="discrete")
    envs.reset(seed=1)
    for _ in range(STEPS):
        _, rewards, terminated, _, info = envs.step(np.array([0, 10, 24]))
    assert terminated.all()
    singles = [play(make_fake_env("discrete"), [action] * STEPS)[-1][1] for action in (0, 10, 24)]
    assert rewards.tolist() == singles
    assert info["size_ratio"][2] == 1.0
    envs.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_vector_environment_runs_it(kind):
    make = functools.partial(make_levelled_env, kind)
    for envs in (gym.vector.SyncVectorEnv([make, make]), gym.vector.AsyncVectorEnv([make, make])):
        envs.reset(seed=0)
        envs.action_space.seed(0)
        for _ in range(STEPS + 1):
            _, rewards, *_ = envs.step(envs.action_space.sample())
        assert rewards.shape == (2,)
        envs.close()
    for vectorised in (DummyVecEnv([make, make]), SubprocVecEnv([make, make])):
        vectorised.reset()
        for _ in range(STEPS):
            _, _, done, info = vectorised.step([vectorised.action_space.sample() for _ in range(2)])
            if done.all():
                assert "terminal_observation" in info[0]
                break
        assert done.all()
        if kind == "discrete":
            assert vectorised.env_method("action_masks")[1].sum() == 15
        vectorised.close()


@pytest.mark.slow
def test_masks_reach_a_masking_agent_through_another_process():
    make = functools.partial(make_fake_env, "discrete", constraint={"name": "mask", "budget": 0.4})
    envs = SubprocVecEnv([make, make])
    agent = MaskablePPO("MlpPolicy", envs, n_steps=10, batch_size=10, n_epochs=1, gamma=1.0, seed=0)

    class NothingProjected(BaseCallback):
        def _on_step(self):
            assert not any(info["projected"] for info in self.locals["infos"])
            return True

    agent.learn(60, callback=NothingProjected())
    envs.close()


def test_a_multi_objective_environment(registered):
    make = functools.partial(gym.make, registered, action="discrete", reward="vector", disable_env_checker=True)
    with pytest.warns(UserWarning, match=r"reward returned by `step\(\)` must be a float") as warned:
        check_env(make().unwrapped)
    assert {str(warning.message) for warning in warned} == {str(warned[0].message)}
    envs = MOSyncVectorEnv([make, make])
    envs.reset(seed=0)
    for _ in range(STEPS):
        _, rewards, terminated, _, _ = envs.step(envs.action_space.sample())
    assert rewards.shape == (2, 2)
    assert terminated.all()
    scalar = LinearReward(make(), weight=np.array([1.0, 0.2]))
    sb3_check_env(scalar)
    PPO("MlpPolicy", scalar, n_steps=10, batch_size=10, n_epochs=1).learn(20)
    # -(e - e0) + 0.2 (1 - s): the linear reward, and a fifth.
    linear = make_fake_env("discrete")
    expected = play(linear, [3] * STEPS)[-1][1]
    assert play(scalar, [3] * STEPS)[-1][1] == pytest.approx(expected + 0.2)


@pytest.mark.slow
def test_a_video_of_an_episode(registered, tmp_path):
    env = gym.make(registered, action="discrete", render_mode="rgb_array")
    env = gym.wrappers.RecordVideo(env, str(tmp_path / "videos"), episode_trigger=lambda _: True, disable_logger=True)
    env.reset()
    for _ in range(STEPS):
        env.step(3)
    env.close()
    (video,) = tmp_path.glob("videos/*.mp4")
    assert video.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["layer", "matrix"])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_every_combination_runs_or_says_why_not(granularity, action, observation):
    evaluator = FakeEvaluator(split_layers(LAYERS) if granularity == "matrix" else LAYERS, divergence=True)
    constraints = [{"name": name} | ({} if name == "none" else {"budget": 0.5}) for name in CONSTRAINTS]
    for reward, constraint, shaping in itertools.product(REWARDS, constraints, POTENTIALS):
        parts = {"reward": reward, "constraint": constraint, "shaping": shaping, "evaluator": evaluator}
        parts["search_space"] = levelled
        if (constraint["name"] == "mask" and action != "discrete") or (reward == "vector" and shaping != "none"):
            with pytest.raises(ValueError, match=r"have no masks|cannot be shaped"):
                make_fake_env(action, observation=observation, **parts)
            continue
        env = make_fake_env(action, observation=observation, **parts)
        env.reset(seed=0)
        env.action_space.seed(0)
        terminated = False
        while not terminated:
            observed, value, terminated, _, info = env.step(env.action_space.sample())
        assert observed in env.observation_space
        assert np.isfinite(value).all()
        assert info["size_ratio"] <= 0.5 or constraint["name"] in ("none", "check")


def test_the_divergence_is_told_where_it_is_measured():
    env = make_fake_env("one_shot", FakeEvaluator(divergence=True), reward={"name": "divergence", "size_weight": 0.1})
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(np.zeros(STEPS, np.int64))
    assert terminated
    assert info["divergence"] > 0
    assert reward == pytest.approx(-info["divergence"] - 0.1 * info["size_ratio"])
    assert info["reward_terms"]["divergence"] == -info["divergence"]
    with pytest.raises(ValueError, match="needs the divergence from the original"):
        make_fake_env(reward="divergence")


def test_environments_with_a_ledger_each_cannot_write_one_file(tmp_path):
    """As in gym.vector.SyncVectorEnv; to close an environment lets go of the file."""
    options = {"path": tmp_path / "evaluations.jsonl", "budget": 3}
    env = make_fake_env(ledger=options)
    with pytest.raises(ValueError, match=r"evaluations\.jsonl: another run is writing it, or another environment"):
        make_fake_env(ledger=options)
    env.close()
    make_fake_env(ledger=options).close()


def test_environments_may_share_a_ledger():
    ledger = Ledger()
    for action in (0, 10, 0):
        play(make_fake_env("discrete", ledger=ledger), [action] * STEPS)
    assert ledger.count == 2


SCRIPT = """
import numpy as np
from tests.helpers.fake_evaluator import make_fake_env
env = make_fake_env("continuous", reward="threshold")
env.action_space.seed(5)
results = [env.reset(seed=5)]
for _ in range(3 * 5):
    results.append(env.step(env.action_space.sample()))
    if results[-1][2]:
        results.append(env.reset())
np.set_printoptions(precision=17)
print(repr(results))
"""


@pytest.mark.slow
def test_same_seed_same_numbers_in_a_new_process(capsys):
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": other},
        cwd=Path(__file__).parents[2],
    ).stdout
    exec(SCRIPT, {})
    assert output == capsys.readouterr().out
    assert "reward_terms" in output


def test_render():
    env = make_fake_env("discrete", render_mode="ansi")
    env.reset()
    env.step(0)
    lines = env.render().splitlines()
    assert len(lines) == 1 + STEPS + 1
    assert lines[1].split() == ["frontend", "1", "27", "6.8%"]  # 59 of 864
    assert lines[2].split() == ["encoder.0", "64", "100.0%"]
    assert lines[-1] == f"1 of 5 layers decided, size ratio {env.problem.size({'frontend': 1}):.3f}"
    for _ in range(STEPS - 1):
        *_, info = env.step(24)
    assert env.render().splitlines()[-1].endswith(f"WER {info['wer']:.1%} (original 3.1%)")
    env.reset()
    assert "WER" not in env.render()
    with pytest.raises(ValueError, match="render_mode"):
        make_fake_env(render_mode="human")


def test_pictures(tmp_path, registered):
    env = gym.make(registered, action="discrete", render_mode="rgb_array")
    env.reset()
    shapes, frames = set(), []
    for action in (0, 10, 24, 3, 5):
        frames.append(env.render())
        shapes.add((frames[-1].shape, frames[-1].dtype))
        env.step(action)
    assert shapes == {((260, 960, 3), np.dtype(np.uint8))}
    # Every decision shows, and so does the outcome.
    assert all((one != other).any() for one, other in pairwise([*frames, env.render()]))


@pytest.mark.parametrize("name", ["ppo", "ddpg"])
def test_stable_baselines_agents_run_unmodified(name):
    env = make_fake_env()
    if name == "ppo":
        agent = PPO("MlpPolicy", env, n_steps=20, batch_size=20, n_epochs=2, gamma=1.0, seed=0)
    else:
        agent = DDPG("MlpPolicy", env, learning_starts=20, batch_size=16, gamma=1.0, seed=0)
    agent.learn(60)
    assert env.problem.ledger.count > 1
    observation, _ = env.reset()
    for _ in range(STEPS):
        action, _ = agent.predict(observation, deterministic=True)
        observation, *_ = env.step(action)


def test_the_original_is_measured_once_and_never_in_an_episode():
    evaluator = FakeEvaluator()
    env = make_fake_env("discrete", evaluator=evaluator)
    play(env, [3] * (STEPS - 1))
    assert evaluator.measured == []
    env.step(3)
    assert len(evaluator.measured) == 1
