import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from experiments.common.identity import IRRELEVANT, key_content, key_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_a_key_is_frozen():
    """SHA-256 of '{"budget": 200, "reward": {"name": "linear", "size_weight": 0.2}, "seed": 0}', by sha256sum."""
    content = {"seed": 0, "reward": {"size_weight": 0.2, "name": "linear"}, "budget": 200}
    assert key_of(content) == "f0824728"


def test_outputs_workers_and_memory_do_not_count():
    content = {"seed": 0, "agent": {"name": "x"}}
    configs = [OmegaConf.create({**content, name: 7}) for name in IRRELEVANT]
    assert {key_of(config) for config in configs} == {key_of(content)}
    # In a config that is one of several things, too.
    assert {key_of({"search": config, "size": 1}) for config in configs} == {key_of({"search": content, "size": 1})}
    # Only at the top: an agent may well have an option of that name.
    inner = OmegaConf.create({**content, "agent": {"name": "x", "workers": 2}})
    assert key_of(inner) != key_of(content)
    assert key_content(inner.agent) == {"name": "x", "workers": 2}


def test_a_download_does_not_count():
    keys = {key_of(OmegaConf.create({"data": {"root": "a", "download": download}})) for download in (True, False)}
    assert keys == {key_of({"data": {"root": "a", "download": False}})}


@given(st.dictionaries(st.text(min_size=1, max_size=3), JSON, max_size=4))
def test_the_order_of_options_does_not_count(content):
    assert key_of(dict(reversed(content.items()))) == key_of(content)


@given(JSON)
def test_what_is_plain_is_described_by_itself(content):
    assert key_content(content) == content


def test_a_config_is_described_as_what_it_resolves_to():
    config = OmegaConf.create({"seed": 3, "agent": {"seed": "${seed}", "sizes": [1, "${seed}"]}})
    assert key_content(config) == {"seed": 3, "agent": {"seed": 3, "sizes": [1, 3]}}


@pytest.mark.parametrize(
    ("target", "described"),
    [
        ("agents.RandomSearch", "RandomSearch"),
        ("agents.random_search.RandomSearch", "RandomSearch"),
        ("shrinkml_env.asr.training.TrainingSettings", "TrainingSettings"),
        ("stable_baselines3.PPO", "stable_baselines3.PPO"),
        ("nowhere.Nothing", "nowhere.Nothing"),
        ("collections.OrderedDict", "collections.OrderedDict"),
    ],
)
def test_classes_that_are_not_yours_have_no_code(target, described):
    assert key_content({"_target_": target, "seed": 1}) == {"_target_": described, "seed": 1}


def test_your_own_class_is_its_path_and_its_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "my_own_reward.py"
    keys = []
    for body in ("1", "2", "1"):
        module.write_text(f"class Mine:\n    value = {body}\n")
        keys.append(key_of({"reward": {"_target_": "my_own_reward.Mine"}}))
        sys.modules.pop("my_own_reward")
    assert keys[0] == keys[2] != keys[1]


def test_modules_that_are_imported_count_by_their_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for body in ("1", "2", "1"):
        (tmp_path / "my_own_model.py").write_text(f"value = {body}\n")
        keys.append(key_of(OmegaConf.create({"imports": ["my_own_model"]})))
    assert keys[0] == keys[2] != keys[1]
    assert key_content(OmegaConf.create({"imports": ["numpy", "agents"]})) == {"imports": ["numpy", "agents"]}
    assert key_content(OmegaConf.create({"imports": []})) == {"imports": []}


def test_options_that_came_later_do_not_count_where_they_are_as_before():
    old = {"factorisation": {"name": "svd"}, "form": "factors"}
    assert key_content({"factorisation": {"name": "svd", "form": "factors"}, "form": "factors"}) == old
    new = {"factorisation": {"name": "svd", "form": "pivoting"}}
    assert key_content(new) == new


def test_an_option_that_came_later_does_not_count_at_its_default():
    assert key_content(OmegaConf.create({"model": "las_small", "dense": []})) == {"model": "las_small"}
    assert key_content(OmegaConf.create({"dense": ["decoder.*"]})) == {"dense": ["decoder.*"]}


@pytest.mark.parametrize("target", ["agents.ClosedForm", "agents.closed_form.ClosedForm"])
def test_an_argument_that_came_later_does_not_count_at_its_default(target):
    assert key_content({"_target_": target, "draws": 1, "rounds": 1}) == {"_target_": "ClosedForm", "draws": 1}
    assert key_content({"_target_": target, "rounds": 2}) == {"_target_": "ClosedForm", "rounds": 2}
    assert key_content({"_target_": "agents.PPO", "rounds": 1}) == {"_target_": "PPO", "rounds": 1}
