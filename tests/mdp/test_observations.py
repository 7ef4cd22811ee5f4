import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkml_env.envs.assembly import make_problem
from shrinkml_env.mdp.observations import FeatureDict, Features
from shrinkml_env.space.sensitivity import LayerCurve, Sensitivity
from tests.helpers.fake_evaluator import OTHER_PARAMS, FakeEvaluator, linear, lstm

EVALUATOR = FakeEvaluator()
PROBLEM = make_problem(EVALUATOR)
FEATURES = Features(PROBLEM)

shapes = st.integers(2, 400)
layer_sets = st.lists(
    st.one_of(
        st.tuples(st.just("lstm"), shapes, shapes),
        st.tuples(st.sampled_from(["linear", "conv", "gru", "attention"]), shapes, shapes),
    ),
    min_size=1,
    max_size=5,
)


def named(ranks):
    return dict(zip(FEATURES.names, FEATURES(ranks).tolist(), strict=True))


def test_static_features_by_hand():
    features = named(PROBLEM.candidates[0][:1])  # "encoder.0" comes next: 256 x 32 and 256 x 64
    assert [features[f"kind={kind}"] for kind in ("lstm", "gru", "linear", "conv")] == [1, 0, 0, 0]
    assert features["log_rows"] == pytest.approx(8 / 24)
    assert features["log_columns"] == pytest.approx(6 / 24)
    assert features["log_matrices"] == pytest.approx(1 / 8)
    assert features["log_max_rank"] == pytest.approx(6 / 24)
    assert features["recurrent_share"] == pytest.approx(64 / 96)
    # 256 x 64 breaks even at floor(16383 / 320) = 51.
    assert features["break_even"] == pytest.approx(51 / 64)
    total = OTHER_PARAMS + 32 * 27 + 256 * (32 + 64) + 256 * (48 + 64) + 40 + 12 * 9 + 6400
    assert features["param_share"] == pytest.approx(256 * 96 / total)
    # The smallest candidate is round(51 / 24) = 2: 2 * 288 + 2 * 320 numbers are left of 256 * 96.
    assert features["mac_share"] == pytest.approx(100 * (256 * 96 - 1216) / EVALUATOR.macs({}))
    # Half of 51 is 26 (rounded): below 28, where the 256 x 32 matrix breaks even, so both are cut there.
    tail = [math.exp(-2 * 26 / 8), math.exp(-2 * 32 / 8), math.exp(-2 * 64 / 8)]
    assert features["energy@1/2"] == pytest.approx(((1 - tail[0]) / (1 - tail[1]) + (1 - tail[0]) / (1 - tail[2])) / 2)
    # At 51 itself the smaller matrix stays dense.
    assert features["energy@1"] == pytest.approx((1 + (1 - math.exp(-2 * 51 / 8)) / (1 - tail[2])) / 2)


def test_start_and_end():
    start = named(())
    assert (start["progress"], start["size_ratio"], start["slack"], start["previous_rank"]) == (0, 1, 1, 1)
    assert named((9,))["previous_rank"] == pytest.approx(9 / 27)
    end = FEATURES(tuple(ranks[0] for ranks in PROBLEM.candidates))
    assert end in FEATURES.space
    features = dict(zip(FEATURES.names, end.tolist(), strict=True))
    assert features["progress"] == 1
    assert features["size_ratio"] == features["smallest_size_ratio"]
    assert not any(features[name] for name in FEATURES.names[: FEATURES.names.index("progress")])


def test_names_are_unique():
    assert len(set(FEATURES.names)) == len(FEATURES.names) == FEATURES.space.shape[0]


@given(data=st.data())
def test_the_dict_holds_the_same(data):
    by_group = FeatureDict(PROBLEM)
    done = data.draw(st.integers(0, len(PROBLEM.layers)))
    ranks = tuple(data.draw(st.sampled_from(candidates)) for candidates in PROBLEM.candidates[:done])
    observation = by_group(ranks)
    assert observation in by_group.space
    assert list(observation) == list(by_group.groups) == ["layer", "episode", "decided", "kept"]
    assert np.array_equal(np.concatenate(list(observation.values())), FEATURES(ranks))
    assert {group: len(names) for group, names in by_group.groups.items()} == {
        group: space.shape[0] for group, space in by_group.space.items()
    }


def test_slack_is_the_constraints():
    problem = make_problem(EVALUATOR, constraint={"name": "clip", "budget": 0.5})
    features = Features(problem)
    observation = dict(zip(features.names, features(()).tolist(), strict=True))
    assert observation["slack"] == pytest.approx(0.5 - observation["smallest_size_ratio"], abs=1e-4)


NAME = "activation_error"


@pytest.mark.parametrize("kind", [Features, FeatureDict])
def test_activation_error_is_measured_only_when_asked_for(kind):
    asked = kind(PROBLEM, activation_error=True)
    assert asked.groups["episode"] == (*FEATURES.groups["episode"], NAME)
    for ranks, error in [((), 0.0), ((12,), 5 / 4 * (1 - 12 / 27)), ((1, 64), 26 / 27 / 4), ((1, 2, 2, 1, 2), 1.0)]:
        observation = asked(ranks)
        assert observation in asked.space
        measured = observation["episode"][-1] if kind is FeatureDict else observation[asked.names.index(NAME)]
        assert measured == pytest.approx(error)


def test_sensitivity_is_shown_when_asked_for(tmp_path):
    output = PROBLEM.layers[-1]  # breaks even at 39
    curves = {layer.name: LayerCurve(layer.shapes, {1: 0.9, layer.break_even: 0.03}) for layer in PROBLEM.layers}
    curves["output"] = LayerCurve(output.shapes, {1: 3.0, 5: 0.53, 10: 0.13, 39: 0.02})
    Sensitivity(0.03, curves).save(tmp_path / "sensitivity.json")
    features = Features(PROBLEM, sensitivity=True, path=tmp_path / "sensitivity.json")
    observation = features(tuple(ranks[-1] for ranks in PROBLEM.candidates[:-1]))
    assert observation in features.space
    shown = dict(zip(features.names, observation.tolist(), strict=True))
    assert output.break_even == 39
    # A quarter of 39 is 9.75, between 0.5 at 5 and 0.1 at 10; a sixteenth, 2.4, is above 1; at 39 nothing is lost.
    assert shown["loss@1/4"] == pytest.approx(0.5 - 0.4 * 4.75 / 5)
    assert (shown["loss@1/16"], shown["loss@1"]) == (1.0, 0.0)
    Sensitivity(0.03, curves, "activation_aware").save(tmp_path / "other.json")
    with pytest.raises(ValueError, match=r"measured with factorisation 'activation_aware', .* by 'svd'"):
        Features(PROBLEM, sensitivity=True, path=tmp_path / "other.json")
    Sensitivity(0.03, {}).save(tmp_path / "other.json")
    with pytest.raises(ValueError, match="its sensitivity was not measured"):
        Features(PROBLEM, sensitivity=True, path=tmp_path / "other.json")
    first = PROBLEM.layers[0].name
    Sensitivity(0.03, curves | {first: LayerCurve(((7, 7),), {1: 0.9})}).save(tmp_path / "other.json")
    with pytest.raises(ValueError, match=f"layer '{first}': its sensitivity was measured of a layer of other shapes"):
        Features(PROBLEM, sensitivity=True, path=tmp_path / "other.json")


@given(data=st.data())
def test_sizes_are_the_evaluators(data):
    done = data.draw(st.integers(0, len(PROBLEM.layers)))
    ranks = tuple(data.draw(st.sampled_from(candidates)) for candidates in PROBLEM.candidates[:done])
    features = named(ranks)
    so_far = {layer.name: rank for layer, rank in zip(PROBLEM.layers, ranks, strict=False)}
    smallest = {layer.name: ranks[0] for layer, ranks in zip(PROBLEM.layers, PROBLEM.candidates, strict=True)}
    assert features["size_ratio"] == pytest.approx(EVALUATOR.size_ratio(so_far))
    assert features["smallest_size_ratio"] == pytest.approx(EVALUATOR.size_ratio(smallest | so_far))


@given(data=st.data())
def test_markov_different_decisions_look_different(data):
    draw = st.integers(0, len(PROBLEM.layers)).flatmap(
        lambda done: st.tuples(*(st.sampled_from(candidates) for candidates in PROBLEM.candidates[:done]))
    )
    one, other = data.draw(draw), data.draw(draw)
    assert np.array_equal(FEATURES(one), FEATURES(other)) == (one == other)


@pytest.mark.parametrize("kind", [Features, FeatureDict])
@settings(deadline=None, max_examples=50)
@given(sets=layer_sets, count=st.integers(1, 30), zero=st.booleans(), data=st.data())
def test_always_within_bounds(kind, sets, count, zero, data):
    layers = tuple(
        lstm(f"layer{index}", rows, columns) if kind == "lstm" else linear(f"layer{index}", rows, columns, kind)
        for index, (kind, rows, columns) in enumerate(sets)
    )
    if all(layer.break_even < 1 for layer in layers):
        return
    evaluator = FakeEvaluator(layers)
    if zero:
        evaluator.singular_values = {name: torch.zeros_like(s) for name, s in evaluator.singular_values.items()}
    space = {"name": "full", "count": count}
    constraint = data.draw(st.sampled_from(["none", {"name": "check", "budget": 0.3}]))
    problem = make_problem(evaluator, search_space=space, constraint=constraint)
    features = kind(problem, activation_error=data.draw(st.booleans()))
    ranks = tuple(data.draw(st.sampled_from(candidates)) for candidates in problem.candidates)
    for done in range(len(ranks) + 1):
        observation = features(ranks[:done])
        assert observation in features.space
    assert evaluator.measured == []
