"""Parts of a search, from what is written in a config."""

import functools

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.common.compose import CONF
from experiments.common.parts import check_part, label, part
from shrinkml_env.compression.factorisations import ActivationAware
from shrinkml_env.mdp.constraints import Clip
from shrinkml_env.mdp.rewards import Harmonic
from tests.helpers.fake_evaluator import make_fake_env


class Stretched:
    """A class as a user may have it, with an option that must be given."""

    def __init__(self, problem, factor):
        self.factor = factor


def two_arguments(evaluation, baseline, weight=1.0):
    return -weight * evaluation.wer


def of(group, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("search", overrides=list(overrides))[group]


def test_a_name_and_its_options_are_a_mapping():
    assert part("reward", of("reward", "reward.size_weight=0.3")) == {"name": "linear", "size_weight": 0.3}
    assert part("search_space", of("search_space", "search_space.count=3")) == {"name": "full", "count": 3}


def test_a_class_of_your_own_is_made_or_left_to_be_made():
    mine = "shrinkml_env.mdp.rewards.Harmonic"
    config = of("reward", "reward=custom", f"reward._target_={mine}", "+reward.beta=0.5")
    check_part("reward", config)
    assert part("reward", config) == Harmonic(beta=0.5)
    target = "shrinkml_env.compression.factorisations.ActivationAware"
    config = of("factorisation", "factorisation=custom", f"factorisation._target_={target}")
    assert part("factorisation", config) == ActivationAware()
    target = "shrinkml_env.mdp.constraints.Clip"
    config = of("constraint", "constraint=custom", f"constraint._target_={target}", "+constraint.budget=0.5")
    check_part("constraint", config)
    clip = part("constraint", config)
    assert isinstance(clip, functools.partial)
    assert (clip.func, clip.keywords) == (Clip, {"budget": 0.5})
    assert make_fake_env(constraint=clip).problem.size_limit == 0.5


def test_a_function_of_your_own_is_a_reward():
    target = f"{__name__}.two_arguments"
    config = of("reward", "reward=custom", f"reward._target_={target}", "+reward._partial_=true", "+reward.weight=2")
    check_part("reward", config)
    reward = part("reward", config)
    assert (reward.func, reward.keywords) == (two_arguments, {"weight": 2})


@pytest.mark.parametrize(
    ("group", "config", "message"),
    [
        ("reward", {"name": "lineer"}, "no reward is named 'lineer'; known names: absolute, "),
        ("reward", {"name": "linear", "foo": 1}, "reward 'linear' has no option 'foo'; its options are size_weight"),
        ("constraint", {"name": "clip"}, "constraint 'clip' needs the option 'budget'; its options are budget, res"),
        ("action", {"name": "discrete", "problem": 1}, "action 'discrete' has no option 'problem'"),
        ("search_space", {"name": "explicit", "candidates": "???"}, r"give search_space\.candidates=\.\.\."),
        ("action", {"_target_": "???"}, r"action=custom needs the path of your class: action\._target_=my"),
        (
            "action",
            {"_target_": "nowhere.Mine"},
            r"action\._target_=nowhere\.Mine cannot be .*No module named 'nowhere'",
        ),
        (
            "agent",
            {"_target_": "agents.Agnt"},
            r"agent\._target_=agents\.Agnt cannot be imported: .*no attribute 'Agnt'",
        ),
        ("reward", {"_target_": "agents"}, r"reward\._target_=agents is not a class but a module"),
        ("action", {"_target_": f"{__name__}.Stretched"}, r"needs its option 'factor': give \+action\.factor="),
        (
            "action",
            {"_target_": f"{__name__}.Stretched", "problem": 1},
            "has no option 'problem'; its options are factor",
        ),
        ("agent", {"_target_": "agents.RandomSearch", "env": 1}, "has no option 'env'; its options are seed"),
    ],
)
def test_what_cannot_be_made_is_told_before(group, config, message):
    with pytest.raises(ValueError, match=message):
        check_part(group, OmegaConf.create(config))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "harmonic"])
def test_every_agent_can_be_checked_without_being_made(name):
    for path in (CONF / "agent").glob("*.yaml"):
        if path.stem != "custom":
            check_part("agent", of("agent", f"agent={path.stem}", f"reward={name}"))


def test_labels_are_short():
    assert label(of("reward")) == "linear(size_weight=0.2)"
    assert label(OmegaConf.create({"_target_": "my.module.Mine", "inner": {"a": [1, 2]}, "on": True})) == (
        "Mine(inner={a=[1, 2]}, on=True)"
    )
    assert label("layer") == "layer"
