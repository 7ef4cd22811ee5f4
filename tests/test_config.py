"""The names in conf/ are the names in `gym.make`, with the same defaults."""

import inspect
from contextlib import suppress

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from experiments.common.agent import make_agent
from experiments.common.compose import compose_config, to_container
from experiments.common.parts import check_part, part
from shrinkml_env.compression.factorisations import FACTORISATIONS
from shrinkml_env.envs.registration import arguments_v1
from shrinkml_env.evaluation.ledger import BudgetExhausted, Ledger
from shrinkml_env.mdp.actions import ACTIONS
from shrinkml_env.mdp.constraints import CONSTRAINTS
from shrinkml_env.mdp.observations import OBSERVATIONS
from shrinkml_env.mdp.rewards import REWARDS
from shrinkml_env.mdp.shaping import POTENTIALS
from shrinkml_env.space.formation import SEARCH_SPACES
from tests.helpers.configs import AGENTS, CONF
from tests.helpers.fake_evaluator import make_fake_env
from tests.helpers.predicted import do_without_a_model

GROUPS = {
    "action": ACTIONS,
    "observation": OBSERVATIONS,
    "reward": REWARDS,
    "constraint": CONSTRAINTS,
    "shaping": POTENTIALS,
    "search_space": SEARCH_SPACES,
    "factorisation": FACTORISATIONS,
}
NO_OPTIONS = {
    **dict.fromkeys(("action", "observation", "shaping"), ("problem",)),
    "constraint": ("evaluator", "search_space"),
}


PRESETS = {"factorisation": {"pivoting": "activation_aware"}}
"""Files with other options for a name that has a file of its own."""


@pytest.mark.parametrize("group", GROUPS)
def test_every_name_has_its_file(group):
    files = {path.stem for path in (CONF / group).glob("*.yaml")}
    assert files == {*GROUPS[group], *PRESETS.get(group, ()), "custom"}


@pytest.mark.parametrize(("group", "preset"), [(group, preset) for group, found in PRESETS.items() for preset in found])
def test_a_preset_has_every_option_of_its_name(group, preset):
    name = PRESETS[group][preset]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        of_name, of_preset = (compose("search", overrides=[f"{group}={file}"])[group] for file in (name, preset))
    check_part(group, of_preset)
    assert (list(of_preset), of_preset.name) == (list(of_name), name)
    assert of_preset != of_name


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, names in GROUPS.items() for name in names])
def test_every_file_is_what_gym_make_takes(group, name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        needed = ["search_space.candidates={encoder.2:[16,32]}"] if name == "explicit" else []
        config = compose("search", overrides=[f"{group}={name}", *needed])[group]
    check_part(group, config)
    spec = part(group, config)
    assert spec["name"] == name
    # Every option is written out, and has the default that it has in Python (a budget, or explicit ranks, have none).
    kind = GROUPS[group][name]
    parameters = {} if kind.__init__ is object.__init__ else dict(inspect.signature(kind).parameters)
    options = {option: value for option, value in parameters.items() if option not in NO_OPTIONS.get(group, ())}
    assert set(spec) - {"name"} == set(options)
    for option, parameter in options.items():
        assert parameter.default is parameter.empty or spec[option] == parameter.default, option


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_searches(name, monkeypatch):
    """On the fake model, with the action kind that its config asks for."""
    do_without_a_model(monkeypatch)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        # The fake model's layers have few multiples of 16.
        fine = ["agent.multiple=1"] if name == "lite_asr" else []
        config = compose("search", overrides=[f"agent={name}", "seed=3", *fine])
    # Those that fit a Gaussian process to all they have measured are slow, and soon there.
    budget = 15 if name in ("gp", "model_based") else 50
    env = make_fake_env(part("action", config.action), ledger=Ledger(budget=budget))
    agent = make_agent(config.agent, env)
    with suppress(BudgetExhausted):
        agent.learn(total_timesteps=120)
    assert env.problem.ledger.count == 1 if name == "middle" else env.problem.ledger.count > 10


def test_the_command_line_has_the_last_word_on_actions():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("search", overrides=["agent=dqn", "action=one_shot"])
    assert config.action.name == "one_shot"
    assert config.agent._target_.endswith("DQN")


@pytest.mark.parametrize(
    ("command", "key", "embedded"),
    [
        ("search", "proxy", "proxy"),
        ("sensitivity", "proxy", "proxy"),
        ("select_proxy", "pool", "proxy-pool"),
        ("uniform_curve", "set", "test"),
        ("train_asr", "data.train", {"root": "data/corpus", "subset": "train"}),
    ],
)
def test_a_data_set_is_named_in_one_way(command, key, embedded):
    choice = ["data=librispeech", "data.root=/data", "data.subset=[a,b]", "data.dev.limit=3"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        configs = [compose(command), compose(command, choice)]
    found = [to_container(OmegaConf.select(config, key)) for config in configs]
    limit = {"limit": 72} if key == "proxy" else {}
    assert found == [embedded, {"root": "/data", "subset": ["a", "b"], **limit}]
    if "dev" in configs[1]:
        assert to_container(configs[1].dev) == {"root": "/data", "subset": "dev-clean", "limit": 3}


def test_every_config_is_named_as_its_command_is():
    """Those in a folder of their own, too."""
    modules = {
        path.stem: path.relative_to(CONF.parent)
        for path in (CONF.parent / "experiments").glob("**/*.py")
        if "common" not in path.parts and path.stem != "__init__"
    }
    assert {path.stem for path in CONF.glob("*.yaml")} <= set(modules)
    assert (CONF / "compress" / "compress.yaml").is_file()


def test_environment_v1_is_what_gym_make_has():
    """Options that the command writes out have the defaults of what gym.make leaves out."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("search", overrides=["environment=v1", "constraint.budget=0.3"])
        plain = compose("search", overrides=["environment=v0"])
        assert plain == compose("search")
    expected = arguments_v1(0.3, "calibration")
    for name, value in expected.items():
        found = OmegaConf.to_container(config, resolve=True)[name]
        wanted = {"name": value} if name in GROUPS and isinstance(value, str) else value
        if isinstance(wanted, dict):
            assert wanted.items() <= found.items(), name
        else:
            assert found == wanted, name
    changed = {name for name in config if config[name] != plain[name]}
    assert changed - {"agent"} == expected.keys()


@pytest.mark.parametrize("name", AGENTS)
def test_agents_do_not_discount(name):
    """The reward comes at the end of an episode; Stable-Baselines3's default is 0.99."""
    agent = compose_config("search", [f"agent={name}"]).agent
    if "gamma" in inspect.signature(get_class(agent._target_).__init__).parameters:
        assert agent.gamma == 1
