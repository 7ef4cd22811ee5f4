from omegaconf import OmegaConf

from experiments.common.agent import make_agent
from experiments.common.compose import compose_config
from experiments.common.parts import part
from shrinkml_env.envs.wrapped import episode_length
from tests.helpers.fake_evaluator import make_fake_env


def agent_of(*overrides):
    """The agent and its environment, which has five layers."""
    config = compose_config("search", overrides)
    env = make_fake_env(part("action", config.action))
    return make_agent(config.agent, env), env, config


def test_episodes_are_as_long_as_the_model_is_deep():
    agent, env, config = agent_of("agent=ppo", "agent.n_steps=${episodes:8}", "agent.batch_size=${episodes:4}")
    assert episode_length(env) == 5
    assert (agent.n_steps, agent.batch_size) == (40, 20)
    # A config that is only written down says it in words.
    assert OmegaConf.to_container(config, resolve=True)["agent"]["n_steps"] == "8 episodes"


def test_one_shot_episodes_have_one_step():
    agent, env, _ = agent_of("agent=ppo", "action=one_shot")
    assert episode_length(env) == 1
    assert agent.n_steps == agent.batch_size == 8


def test_plain_numbers_are_steps():
    assert agent_of("agent=ppo", "agent.n_steps=14", "agent.batch_size=7")[0].n_steps == 14


def test_networks_of_ones_own():
    agent, _, _ = agent_of("agent=sac", "+agent.policy_kwargs.net_arch={pi: [8], qf: [16, 4]}")
    assert agent.policy_kwargs["net_arch"] == {"pi": [8], "qf": [16, 4]}
    assert type(agent.policy_kwargs["net_arch"]) is dict
    assert [layer.out_features for layer in agent.critic.qf0 if hasattr(layer, "out_features")] == [16, 4, 1]
