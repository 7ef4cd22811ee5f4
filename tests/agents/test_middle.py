import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy

from agents import MiddleAction
from tests.helpers.fake_evaluator import make_fake_env
from tests.helpers.levels import levelled


def test_it_plays_the_common_level_once():
    env = make_fake_env("level", search_space=levelled, constraint={"name": "check", "budget": 0.6})
    agent = MiddleAction(env).learn(100).learn(100)
    assert agent.num_timesteps == 5
    (trial,) = env.problem.history
    level = env.problem.search_space.at_level(env.action.common)
    assert {name: trial.ranks[name] for name in level} == level


@pytest.mark.parametrize("kind", ["discrete", "one_shot"])
def test_the_middle_of_other_spaces(kind):
    env = make_fake_env(kind)
    MiddleAction(env).learn(1)
    space = env.problem.search_space
    (trial,) = env.problem.history
    places = space.places(trial.ranks)
    middle = [12] * 5 if kind == "discrete" else [count // 2 for count in space.counts]
    assert places == tuple(min(place, count - 1) for place, count in zip(middle, space.counts, strict=True))


def test_a_callback_ends_it():
    env = make_fake_env()
    agent = MiddleAction(env)
    agent.learn(5, callback=lambda *_: False)
    assert agent.num_timesteps == 1


def test_saved_and_loaded(tmp_path):
    env = make_fake_env()
    MiddleAction(env).learn(1).save(tmp_path / "agent")
    loaded = MiddleAction.load(tmp_path / "agent", env)
    assert loaded.num_timesteps == 5
    assert loaded.predict(env.reset()[0])[0] == np.zeros(1)
    assert loaded.learn(1).num_timesteps == 10  # in this environment it has played nothing yet
    (tmp_path / "other").write_text("{}")
    with pytest.raises(ValueError, match="other was not saved by MiddleAction"):
        MiddleAction.load(tmp_path / "other")
    for use in (lambda agent: agent.learn(1), lambda agent: agent.predict(None)):
        with pytest.raises(RuntimeError, match="the agent has no environment"):
            use(MiddleAction.load(tmp_path / "agent"))


@pytest.mark.parametrize("action", ["continuous", "discrete", "one_shot"])
@pytest.mark.parametrize("observation", ["features", "dict"])
def test_a_batch_of_observations_gets_a_batch_of_actions(action, observation):
    agent = MiddleAction(make_fake_env(action, observation=observation))
    seen, _ = agent.env.reset()
    one, _ = agent.predict(seen)
    many = {name: np.stack([box] * 3) for name, box in seen.items()} if observation == "dict" else np.stack([seen] * 3)
    actions, _ = agent.predict(many)
    assert actions.shape == (3, *np.shape(one))
    assert (actions == one).all()


def test_stable_baselines_evaluates_it():
    reward, _ = evaluate_policy(MiddleAction(env := make_fake_env()), env, n_eval_episodes=2, warn=False)
    assert reward == pytest.approx(env.problem.history[0].reward)  # summed in single precision


def test_one_environment_only():
    with pytest.raises(TypeError, match="MiddleAction plays one environment"):
        MiddleAction(gym.vector.SyncVectorEnv([make_fake_env]))


def test_a_wrapper_may_end_the_episode():
    agent = MiddleAction(gym.wrappers.TimeLimit(make_fake_env(), 2))
    assert agent.learn(1).num_timesteps == 2
