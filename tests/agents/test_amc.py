import numpy as np
import pytest
from gymnasium import spaces

from agents import AMC
from agents.amc import FinalRewardBuffer
from tests.helpers.fake_evaluator import make_fake_env

STEPS = 5
BOX = spaces.Box(-1, 1, (1,))


def feed(buffer, rewards):
    """One episode of two steps for each final reward."""
    zero, action = np.zeros((1, 1)), np.zeros((1, 1))
    for reward in rewards:
        buffer.add(zero, zero, action, np.array([0.0]), np.array([False]), [{}])
        buffer.add(zero, zero, action, np.array([reward]), np.array([True]), [{}])


def test_every_step_gets_the_final_reward_less_the_average():
    buffer = FinalRewardBuffer(100, BOX, BOX, decay=0.9)
    feed(buffer, [1.0, 2.0])
    # The average is 1 after the first episode, 0.9 * 1 + 0.1 * 2 = 1.1 after the second.
    assert buffer.rewards[:4, 0].tolist() == pytest.approx([0.0, 0.0, 0.9, 0.9])
    assert buffer.dones[:4, 0].tolist() == [0, 1, 0, 1]


def test_an_unfinished_episode_is_kept_back():
    buffer = FinalRewardBuffer(100, BOX, BOX)
    zero = np.zeros((1, 1))
    buffer.add(zero, zero, zero, np.array([0.0]), np.array([False]), [{}])
    assert buffer.size() == 0
    with pytest.raises(ValueError, match="one environment at a time"):
        FinalRewardBuffer(100, BOX, BOX, n_envs=2)


def test_actions_stay_inside_and_do_not_pile_up_at_the_ends():
    env = make_fake_env()
    agent = AMC("MlpPolicy", env, learning_starts=20, gamma=1.0, noise=0.8, noise_decay=1.0, seed=0)
    agent.learn(40)
    drawn = np.concatenate([agent._sample_action(0)[1] for _ in range(300)])
    assert drawn.dtype == np.float32
    assert (np.abs(drawn) <= 1).all()
    assert (np.abs(drawn) == 1).mean() < 0.01


def test_the_noise_shrinks():
    env = make_fake_env()
    agent = AMC("MlpPolicy", env, learning_starts=10, gamma=1.0, noise=0.5, noise_decay=0.5, seed=0)
    agent.learn(10 * STEPS)
    drawn = np.concatenate([agent._sample_action(0)[1] for _ in range(200)])
    assert drawn.std() < 0.5 * 0.5**6


def test_a_saturated_actor_still_acts_when_the_noise_is_gone():
    env = make_fake_env()
    agent = AMC("MlpPolicy", env, learning_starts=10, gamma=1.0, noise_decay=0.5, seed=0).learn(4 * STEPS)
    agent.actor.mu[-2].bias.data.fill_(30)
    agent._episode_num = 10_000
    drawn = np.concatenate([agent._sample_action(0)[1] for _ in range(200)])
    assert (drawn <= 1).all()
    assert (drawn > 0.99).all()


def test_learns_the_same_for_the_same_seed_saves_and_loads(tmp_path):
    runs = []
    for seed in (1, 1, 2):
        env = make_fake_env()
        agent = AMC("MlpPolicy", env, learning_starts=20, batch_size=16, gamma=1.0, seed=seed).learn(12 * STEPS)
        runs.append([trial.ranks for trial in env.problem.history])
    assert runs[0] == runs[1] != runs[2]
    agent.save(tmp_path / "amc")
    observation, _ = env.reset()
    loaded = AMC.load(tmp_path / "amc", env)
    assert np.array_equal(loaded.predict(observation)[0], agent.predict(observation)[0])
    loaded.learn(STEPS)


def test_it_learns_from_complete_episodes_only():
    """With any settings: before the first episode is over there is nothing to learn from."""
    agent = AMC("MlpPolicy", make_fake_env(), learning_starts=2, train_freq=1, seed=0).learn(4)
    assert agent._n_updates == 0
    assert agent.learn(STEPS + 1, reset_num_timesteps=False)._n_updates > 0
    by_default = AMC("MlpPolicy", make_fake_env(), learning_starts=0, seed=0).learn(2 * STEPS)
    assert by_default._n_updates == 2 * STEPS


def test_a_new_training_begins_with_a_new_episode():
    agent = AMC("MlpPolicy", make_fake_env(), learning_starts=0, seed=0)
    agent.learn(3, callback=lambda *_: agent.num_timesteps < 3)
    agent.learn(STEPS)
    buffer = agent.replay_buffer
    assert buffer.dones[: buffer.size(), 0].tolist() == [0, 0, 0, 0, 1]
