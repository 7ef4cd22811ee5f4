"""Searches of Stable-Baselines3's agents end by a callback, which also logs them."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, ConvertCallback, EvalCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shrinkml_env import BudgetExhausted, Ledger
from shrinkml_env.envs.vector import VectorShrinkEnv
from shrinkml_env.envs.wrapped import search_problem
from shrinkml_env.sb3 import BudgetCallback, EvaluationLog, ShrinkVecEnv
from shrinkml_env.search import explore
from tests.helpers.fake_evaluator import FakeEvaluator, make_fake_env
from tests.helpers.learners import ppo

LEDGER = Ledger(budget=4)


class Ends(BaseCallback):
    """Notes when training ends."""

    ended = 0

    def _on_step(self):
        return True

    def _on_training_end(self):
        self.ended += 1


@pytest.mark.parametrize(
    ("kind", "action", "options"),
    [
        (PPO, "continuous", {"n_steps": 8, "batch_size": 8}),
        (SAC, "continuous", {"learning_starts": 8, "batch_size": 4}),
        (DQN, "discrete", {"learning_starts": 8, "batch_size": 4}),
    ],
)
def test_stable_baselines_agents_end_by_callback(kind, action, options, tmp_path):
    env = make_fake_env(action, ledger=Ledger(budget=9))
    agent = kind("MlpPolicy", env, seed=0, **options)
    seen, other = Ends(), Monitor(make_fake_env(action))
    callbacks = [
        seen,
        EvalCallback(other, n_eval_episodes=1, eval_freq=20, verbose=0),
        CheckpointCallback(15, str(tmp_path)),
    ]
    returned = agent.learn(10_000, callback=[BudgetCallback(), *callbacks])
    assert returned is agent
    assert seen.ended == 1
    assert env.problem.ledger.count == 9
    assert callbacks[1].best_mean_reward > -np.inf
    assert sorted(path.name for path in tmp_path.glob("*.zip"))[0].startswith("rl_model_15")
    # Nothing is left: a further call ends with its first step.
    before = agent.num_timesteps
    agent.learn(1000, callback=BudgetCallback(), reset_num_timesteps=False)
    assert agent.num_timesteps == before + 1


def test_a_callback_ends_several_environments_in_the_middle_of_a_step():
    evaluator = FakeEvaluator()
    envs = ShrinkVecEnv(VectorShrinkEnv(make_fake_env(evaluator=evaluator, ledger=Ledger(budget=7)), 4))
    seen = Ends()
    agent = ppo(envs, n_steps=10, batch_size=40)
    assert agent.learn(10_000, callback=[BudgetCallback(), seen]) is agent
    assert seen.ended == 1
    assert len(evaluator.measured) == envs.first.problem.ledger.count == 7
    # A further training with the callback ends at once.
    assert agent.learn(1000, callback=BudgetCallback(), reset_num_timesteps=False) is agent
    # Without the callback the environment says so itself.
    with pytest.raises(BudgetExhausted):
        agent.learn(10_000)


def test_the_same_evaluations_with_and_without_the_callback():
    histories = []
    for callback in (BudgetCallback(), None):
        env = make_fake_env(ledger=Ledger(budget=12))
        agent = ppo(env)
        try:
            agent.learn(10_000, callback=callback)
        except BudgetExhausted:
            assert callback is None
        histories.append([trial.ranks for trial in env.problem.history])
    assert histories[0] == histories[1]
    assert len(histories[0]) == 12


def test_evaluations_are_in_the_agents_log():
    class Reads(BaseCallback):
        def _on_step(self):
            values.append(dict(self.logger.name_to_value))
            return True

    values = []
    env = make_fake_env(ledger=Ledger(budget=3))
    ppo(env).learn(1000, callback=[BudgetCallback(), Reads()])
    last, best = env.problem.history[-1], max(trial.reward for trial in env.problem.history)
    assert values[-1]["evaluation/count"] == 3
    assert values[-1]["evaluation/wer"] == last.evaluation.wer
    assert values[-1]["evaluation/size_ratio"] == last.evaluation.size_ratio
    assert values[-1]["evaluation/best_reward"] == best


def test_an_end_that_the_callback_does_not_see_is_no_endless_loop():
    """`EvalCallback` plays on the same environments; the budget ends while it does."""
    envs = ShrinkVecEnv(VectorShrinkEnv(make_fake_env(ledger=Ledger(budget=12)), 3))
    evaluation = EvalCallback(envs, n_eval_episodes=30, eval_freq=5, deterministic=False, warn=False)
    with pytest.raises(BudgetExhausted):
        ppo(envs, batch_size=24).learn(10_000, callback=[BudgetCallback(), evaluation])
    assert envs.first.problem.ledger.spent


def test_environments_in_other_processes_are_refused():
    envs = SubprocVecEnv([make_fake_env] * 2)
    with pytest.raises(ValueError, match=r"other processes: use ShrinkVecEnv"):
        ppo(envs).learn(100, callback=BudgetCallback())
    envs.close()


@pytest.mark.parametrize(
    ("make_envs", "error", "message"),
    [
        (lambda: DummyVecEnv([lambda: gym.make("CartPole-v1")]), TypeError, "must be a ShrinkML environment.*CartPole"),
        (make_fake_env, ValueError, "a search needs a budget"),
        (lambda: make_fake_env(ledger=Ledger(budget=0)), ValueError, "a search needs a budget.*got 0"),
        (
            lambda: DummyVecEnv([lambda: make_fake_env(ledger=LEDGER)] * 2),
            ValueError,
            r"do not end together: use ShrinkVecEnv\(.*num_envs=2",
        ),
    ],
)
def test_what_a_budget_cannot_end_is_refused_at_the_start(make_envs, error, message):
    with pytest.raises(error, match=message):
        ppo(make_envs(), batch_size=8).learn(100, callback=BudgetCallback())


def test_every_evaluation_is_in_tensorboard_once(tmp_path):
    """Also the three that one step of several environments makes."""
    ledger = Ledger(budget=7)
    envs = ShrinkVecEnv(VectorShrinkEnv(make_fake_env(ledger=ledger), 3))
    agent = ppo(envs, batch_size=24, tensorboard_log=str(tmp_path))
    agent.learn(10_000, callback=BudgetCallback())
    events = EventAccumulator(agent.logger.dir)
    events.Reload()
    history = envs.first.problem.history
    rewards = np.maximum.accumulate([trial.reward for trial in history])
    for name, values in {
        "wer": [trial.evaluation.wer for trial in history],
        "size_ratio": [trial.evaluation.size_ratio for trial in history],
        "best_reward": rewards,
    }.items():
        points = events.Scalars(f"evaluation/{name}")
        assert [point.step for point in points] == [1, 2, 3, 4, 5, 6, 7]
        assert [point.value for point in points] == pytest.approx(list(values))


def test_the_best_feasible_reward_is_logged():
    evaluator = FakeEvaluator()
    problem = make_fake_env(evaluator=evaluator, constraint={"name": "check", "budget": 0.5}).problem
    logger = Logger(None, [])
    log = EvaluationLog(logger, problem)
    space = problem.search_space
    seen = []
    for count, ranks in enumerate([space.dense, space.smallest, space.dense], 1):
        log(evaluator.evaluate(ranks), count)
        seen.append(logger.name_to_value["evaluation/best_reward"])
    dense, smallest = (problem.reward(evaluator.evaluate(ranks))[0] for ranks in (space.dense, space.smallest))
    assert dense > smallest
    assert seen == [dense, smallest, smallest]


def test_an_error_in_a_callback_leaves_no_quiet_environment():
    class Fails(BaseCallback):
        def _on_step(self):
            raise KeyError("mine")

    envs = ShrinkVecEnv(VectorShrinkEnv(make_fake_env(ledger=Ledger(budget=7)), 4))
    with pytest.raises(KeyError, match="mine"):
        explore(envs, ppo(envs, n_steps=10, batch_size=40), Fails())
    with pytest.raises(BudgetExhausted):
        ppo(envs, n_steps=10, batch_size=40).learn(10_000)


@pytest.mark.parametrize("form", ["one", "list", "function", "none"])
def test_every_form_of_callback(form):
    seen, calls = Ends(), []
    callback = {"one": seen, "list": [seen], "function": lambda *_: calls.append(0) or True, "none": None}[form]
    env = make_fake_env(ledger=Ledger(budget=3))
    problem = explore(env, ppo(env), callback)
    assert problem.ledger.count == 3
    assert (seen.ended, bool(calls)) == (form in ("one", "list"), form == "function")


def test_normalised_observations_end_as_well():
    envs = ShrinkVecEnv(VectorShrinkEnv(make_fake_env(ledger=Ledger(budget=7)), 3))
    wrapped = VecNormalize(envs, norm_reward=False)
    assert ppo(wrapped, batch_size=24).learn(10_000, callback=BudgetCallback()).num_timesteps > 0
    assert envs.first.problem.ledger.count == 7
    assert not envs.hides_budget_end


def test_the_environment_that_an_agent_has_put_into_its_own():
    """`get_env` of an agent returns the environment in a DummyVecEnv."""
    agent = ppo(make_fake_env(ledger={"budget": 4}), batch_size=8)
    problem = search_problem(agent.get_env())
    assert explore(agent.get_env(), agent) is problem
    assert problem.ledger.spent


def test_the_callback_after_an_error_and_before_any_training():
    BudgetCallback().close()
    env = make_fake_env(ledger=Ledger(budget=9))
    agent, ours = ppo(env), BudgetCallback()

    def fails(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        agent.learn(5, callback=[ours, ConvertCallback(fails)])
    agent.learn(5, callback=ours)
    assert env.problem.ledger._observers == []
