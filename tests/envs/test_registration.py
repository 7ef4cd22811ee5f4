import math
import warnings
from functools import partial

import gymnasium as gym
import pytest
import torch

from shrinkml_env.compression import SVD, ActivationAwareSVD
from shrinkml_env.data import Utterance
from shrinkml_env.envs import registration
from shrinkml_env.envs.registration import VARIANTS_V1, arguments_v1, make_env
from shrinkml_env.evaluation import Ledger, default_cache_path
from shrinkml_env.mdp.actions import ACTIONS, ActionKind, Discrete
from shrinkml_env.mdp.constraints import Clip
from shrinkml_env.mdp.observations import Features
from shrinkml_env.mdp.rewards import Linear
from shrinkml_env.mdp.shaping import ActivationErrorPotential
from shrinkml_env.registry import resolve_for
from tests.helpers.fake_evaluator import FakeEvaluator
from tests.helpers.las import MODEL, make_model, noise
from tests.helpers.models import TinyCTC, half_recognised, tones


class Model(torch.nn.Linear):
    """Stands for a recogniser; the fake evaluator below looks at its device only."""

    layers = ()
    storage_dtype = torch.float32

    def __init__(self):
        super().__init__(1, 1)


@pytest.fixture
def parts(monkeypatch):
    """Replaces what loads models and speech; the parts it was asked for are in the returned dict."""
    asked = {}

    def make_evaluator(model, utterances, granularity, cache, factorisation, **limits):
        asked.update(
            device=next(model.parameters()).device.type,
            utterances=utterances,
            granularity=granularity,
            cache=cache,
            factorisation=factorisation,
            **limits,
        )
        return FakeEvaluator(divergence=limits["divergence"])

    def load_model(name):
        asked["model"] = name
        return Model()

    monkeypatch.setattr(registration, "load_model", load_model)
    monkeypatch.setattr(registration, "load_utterances", lambda spec, name="": spec)
    monkeypatch.setattr(registration, "Evaluator", make_evaluator)
    monkeypatch.setattr(registration, "_try_out", lambda model, utterances: asked.update(tried=(model, utterances)))
    return asked


def test_defaults(parts):
    env = make_env()
    assert env.action_space == gym.spaces.Box(-1, 1, (1,))
    assert env.problem.reward_function == Linear(size_weight=0.2)
    assert {len(candidates) for candidates in env.problem.candidates} <= set(range(2, 26))
    cache = parts.pop("cache")
    assert cache.path == default_cache_path()
    assert parts.pop("factorisation").key == "svd-float32"
    assert parts.pop("tried")[1] == "proxy"
    limits = {"workers": 1, "memory": 256 * 2**20, "divergence": False, "dense": ()}
    assert parts == {"model": "las_small", "utterances": "proxy", "granularity": "layer", "device": "cpu", **limits}


def test_what_a_reward_depends_on_is_measured(parts):
    make_env(reward="divergence")
    assert parts["divergence"] is True


def test_workers_and_memory(parts):
    make_env(workers=3, memory_mb=5)
    assert (parts["workers"], parts["memory"]) == (3, 5 * 1024 * 1024)


def test_names_mappings_and_objects(parts, tmp_path):
    model = TinyCTC()
    ledger = Ledger(budget=3)
    env = make_env(
        model=model,
        proxy=["utterance"],
        action=Discrete,
        reward={"name": "threshold", "punishment": 2.0},
        search_space={"name": "full", "count": 4},
        cache=None,
        ledger=ledger,
    )
    assert env.action_space == gym.spaces.Discrete(5)
    assert env.problem.reward_function.punishment == 2.0
    assert env.problem.ledger is ledger
    assert "model" not in parts
    assert parts["utterances"] == ["utterance"]
    assert parts["cache"] is None
    limited = make_env(ledger={"path": tmp_path / "evaluations.jsonl", "budget": 7}, cache=tmp_path / "cache.sqlite")
    assert (limited.problem.ledger.budget, parts["cache"].path.name) == (7, "cache.sqlite")


def test_parts_that_are_made_of_the_problem_are_given_as_classes(parts):
    env = make_env(
        action=lambda problem: Discrete(problem),
        observation=partial(Features, activation_error=True),
        constraint=partial(Clip, budget=0.4),
        shaping=ActivationErrorPotential,
    )
    problem = env.problem
    assert env.action.problem is env.observation.problem is env.potential.problem is problem
    assert env.observation.names[-1 - 2 * len(env.layers)] == "activation_error"
    assert (type(problem.constraint), problem.size_limit) == (Clip, 0.4)
    assert problem.constraint.search_space is problem.search_space
    assert env.potential.weight == 0.1


def test_other_peoples_models_are_tried_out(parts):
    model = TinyCTC()
    make_env(model=model, proxy=["utterance"])
    assert parts.pop("tried") == (model, ["utterance"])
    make_env(model=make_model(), proxy=["utterance"])
    assert "tried" not in parts


def test_a_model_whose_code_minds_factored_modules_is_refused():
    class ByType(TinyCTC):
        def logits(self, waveform):
            found = super().logits(waveform)
            return found if type(self.hidden) is torch.nn.Linear else found.flip(1)

    spoken = half_recognised(TinyCTC())
    make_env(model=TinyCTC(), proxy=spoken, cache=None)
    with pytest.raises(ValueError, match="module 'hidden': held as factors that lose nothing, the model transcribes"):
        make_env(model=ByType(), proxy=spoken, cache=None)


def test_factorisations(parts):
    model, speech = TinyCTC(), tones(2)
    spoken = [Utterance(str(index), "speaker", waveform, "text") for index, waveform in enumerate(speech)]
    spec = {"name": "activation_aware", "calibration": spoken, "damping": 0.1}
    finished = ActivationAwareSVD(model, speech, 0.1)
    for factorisation in spec, finished, lambda model: ActivationAwareSVD(model, speech, 0.1):
        make_env(model=model, factorisation=factorisation)
        assert parts["factorisation"].key == finished.key
    make_env(model=model, factorisation=finished)
    assert parts["factorisation"] is finished


SPOKEN = [Utterance(str(index), "", waveform, "call martin") for index, waveform in enumerate(noise(9000, 14000))]
SMALL_V1 = {"model": MODEL, "calibration": SPOKEN, "proxy": SPOKEN, "cache": None}


@pytest.mark.parametrize("name", VARIANTS_V1)
def test_version_1_ends_at_its_size(name):
    env = gym.make(name, size=0.8, **SMALL_V1)
    env.action_space.seed(0)
    env.reset()
    terminated = False
    while not terminated:
        *_, terminated, _, info = env.step(env.action_space.sample())
    assert 0.75 < info["size_ratio"] <= 0.8
    assert info["divergence"] > 0
    envs = gym.make_vec(name, num_envs=2, size=0.8, **SMALL_V1)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    envs.close()


def test_version_1_takes_other_parts():
    env = gym.make("ShrinkML-v1", size=0.9, **SMALL_V1, action="discrete", reward="accuracy", granularity="layer")
    problem = env.unwrapped.problem
    assert type(env.unwrapped.action) is Discrete
    assert problem.size_limit == 0.9
    assert any(len(layer.matrices) > 1 for layer in problem.layers)


def test_version_1_gives_its_speech_to_the_parts_that_take_speech():
    merged = arguments_v1(0.5, "mine", factorisation="activation_aware", search_space={"name": "predicted", "count": 9})
    assert merged["factorisation"] == {"name": "activation_aware", "calibration": "mine"}
    assert merged["search_space"] == {"name": "predicted", "count": 9, "calibration": "mine"}
    merged = arguments_v1(0.5, "mine", factorisation="svd", search_space={"name": "allocated", "calibration": "other"})
    assert merged["factorisation"] == {"name": "svd"}
    assert merged["search_space"] == {"name": "allocated", "calibration": "other"}
    assert arguments_v1(0.5, "mine", factorisation=SVD)["factorisation"] is SVD


def test_version_1_names_mistakes():
    with pytest.raises(ValueError, match="ShrinkML-v1 has no argument 'sise'; its arguments are size, "):
        gym.make("ShrinkML-v1", sise=0.4)
    with pytest.raises(ValueError, match=r"is constrained to a size: give size=0\.4 instead of a constraint"):
        gym.make("ShrinkML-v1", constraint="clip")
    for size in (0, 1, 1.5, math.nan, "0.4", None, True):
        with pytest.raises(ValueError, match=r"size must be a share of the original's parameters in \(0, 1\), got"):
            gym.make("ShrinkML-v1", size=size, **SMALL_V1)
    with pytest.raises(ValueError, match="ShrinkML-v1 has no argument 'sise'"):
        gym.make_vec("ShrinkML-v1", num_envs=2, sise=0.4)


def test_no_version_is_outdated(parts):
    """Published numbers are of version 0: Gymnasium must not advise against it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gym.make("ShrinkML-v0").spec.id == "ShrinkML-v0"


def test_gym_make(parts):
    env = gym.make("shrinkml_env:ShrinkML-v0", action="discrete", reward=lambda evaluation, baseline: 1.0)
    env.reset(seed=0)
    for _ in range(5):
        *_, info = env.step(3)
    assert info["reward_terms"] == {"reward": 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"reward": "liner"},
            "no reward is named 'liner'; known names: absolute, accuracy, amc, .*vector",
        ),
        ({"reward": {"size_weight": 1}}, "lacks 'name'; known names: .*linear"),
        ({"reward": {"name": "linear", "weight": 1}}, "'linear' has no option 'weight'; its options are size_weight"),
        (
            {"action": "binary"},
            "no action is named 'binary'; known names: continuous, delta, .*one_shot",
        ),
        ({"observation": "x"}, "no observation is named 'x'; known names: dict, features"),
        ({"search_space": {"name": "full", "number": 3}}, "'full' has no option 'number'; its options are count"),
        (
            {"constraint": "budget"},
            "no constraint is named 'budget'; known names: check, clip, decrement, mask, none, shift",
        ),
        (
            {"constraint": {"name": "clip", "size": 0.5}},
            "'clip' has no option 'size'; its options are budget, resource",
        ),
        ({"constraint": {"name": "mask", "budget": 0.5}}, "have no masks: use the constraint 'clip', or discrete"),
        ({"shaping": "potential"}, "no shaping is named 'potential'; known names: activation_error, none"),
        ({"shaping": "activation_error", "reward": "vector"}, "a vector reward cannot be shaped"),
        ({"ledger": {"file": "x"}}, "ledger has no option 'file'; its options are path, budget"),
        ({"action": Linear}, "action: must be .* a class of ActionKind .*, got <class .*Linear"),
        ({"action": lambda problem: 3}, "action: must be .* a class of ActionKind .*, got 3"),
        ({"action": partial(Linear, 0.2)}, "action: must be .* a class of ActionKind .*, got functools.partial"),
        ({"reward": Linear}, "reward: must be .* a finished Callable, got the class Linear: call it"),
        ({"observation": 3}, "observation: must be .* a class of Observation .*, got 3"),
        ({"search_space": [1, 2]}, r"search_space: must be .* got \[1, 2\]"),
        ({"constraint": Linear(0.2)}, "constraint: must be .* a class of Constraint .*, got Linear"),
        ({"constraint": "clip"}, "constraint 'clip' needs the option 'budget'; its options are budget, resource"),
        ({"action": {"name": "discrete", "count": 3}}, "action 'discrete' has no option 'count'; its options are none"),
        ({"factorisation": "svdd"}, "no factorisation is named 'svdd'; known names: activation_aware, svd"),
        ({"factorisation": {"name": "svd", "damping": 1}}, "'svd' has no option 'damping'; its options are form"),
        ({"factorisation": SVD}, "factorisation: must be .* a finished Callable, got the class SVD: call it"),
        ({"factorisation": 3}, "factorisation: must be a name, a mapping .* got 3"),
        ({"factorisation": {"name": "activation_aware", "calibration": "trian"}}, "no utterance set is named 'trian'"),
        ({"factorisation": {"name": "activation_aware", "calibration": []}}, "at least one utterance"),
        ({"foo": 1}, "ShrinkML-v0 has no argument 'foo'; its arguments are model, proxy, action, .*render_mode"),
        ({"device": "cuda"}, "this torch finds no GPU"),
        ({"constraint": {"name": "clip", "budget": "0.4"}}, "must be a share of the original in .* got '0.4'"),
        ({"search_space": {"name": "log", "count": 2.5}}, "must be a whole number of at least 1, got 2.5"),
        ({"search_space": {"name": "explicit", "candidates": {"output": 3}}}, "must be like {'encoder.2'"),
        ({"search_space": {"name": "explicit", "candidates": [[16]]}}, "must be like {'encoder.2'"),
        ({"observation": {"name": "features", "path": "x.json"}}, "give sensitivity=True"),
        ({"model": 3}, "model: must be a name, a path, or a CompressibleModel, got a int"),
        ({"model": torch.nn.Linear(2, 2)}, r"got a Linear, .* help\(shrinkml_env.CompressibleModel\)"),
        ({"shaping": Discrete}, "shaping: must be .* a class of Potential"),
    ],
)
def test_mistakes_are_named(parts, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_env(**arguments)


def test_finished_parts_of_another_problem_are_refused(parts):
    finished = Discrete(make_env().problem)
    with pytest.raises(ValueError, match=r"action: must be .* a class of ActionKind .*, got <.*Discrete object"):
        resolve_for("action", ACTIONS, finished, ActionKind, make_env().problem)


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"action": "x"},
        {"observation": {"name": "features", "x": 1}},
        {"constraint": "shift"},
        {"shaping": "x"},
        {"search_space": {"name": "full", "x": 1}},
    ],
)
def test_what_is_wrong_is_told_before_anything_is_computed(wrong):
    def factorise(model):
        raise AssertionError("factors are made")

    with pytest.raises(ValueError, match=next(iter(wrong))):
        gym.make("ShrinkML-v0", factorisation=factorise, **wrong)


@pytest.mark.parametrize("name", ["ShrinkML-v0", "ShrinkML-v1"])
def test_the_number_of_environments_is_checked_first(name, tmp_path):
    """Before the model is loaded, and before the ledger's file is locked."""
    path = tmp_path / "evaluations.jsonl"
    with pytest.raises(ValueError, match="num_envs must be a whole number of at least 1, got 0"):
        gym.make_vec(name, num_envs=0, model="nowhere", ledger={"path": path})
    assert not path.exists()
