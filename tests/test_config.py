"""The names in conf/ are the names in `gym.make`, with the same defaults."""

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate

from shrinkml_env.actions import ACTIONS
from shrinkml_env.constraints import CONSTRAINTS
from shrinkml_env.observations import OBSERVATIONS
from shrinkml_env.rewards import REWARDS
from shrinkml_env.search_space import SEARCH_SPACES
from shrinkml_env.shaping import POTENTIALS

CONF = Path(__file__).parents[1] / "conf"
GROUPS = {
    "action": ACTIONS,
    "observation": OBSERVATIONS,
    "reward": REWARDS,
    "constraint": CONSTRAINTS,
    "shaping": POTENTIALS,
    "search_space": SEARCH_SPACES,
}


@pytest.mark.parametrize("group", GROUPS)
def test_every_name_has_its_file(group):
    assert {path.stem for path in (CONF / group).glob("*.yaml")} == set(GROUPS[group])


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, names in GROUPS.items() for name in names])
def test_every_file_makes_what_the_name_means(group, name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("search", overrides=[f"{group}={name}"])[group]
    kind = GROUPS[group][name]
    assert get_class(config._target_) is kind
    made = instantiate(config)
    # Every option is written out, and has the default that it has in Python (a budget has none).
    options = {} if kind.__init__ is object.__init__ else dict(inspect.signature(kind).parameters)
    assert set(config) - {"_target_"} == set(options)
    for option, parameter in options.items():
        assert parameter.default is parameter.empty or config[option] == parameter.default, option
    assert type(made) is kind
