import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env import EvaluationCache, Evaluator
from shrinkml_env.compression import SVD, ActivationAwareSVD
from shrinkml_env.data import Utterance
from shrinkml_env.space.allocation import Choices, allocate
from shrinkml_env.space.level_spaces import Allocated, Predicted, space_of_levels
from shrinkml_env.space.prediction import predict_damage, predict_for
from shrinkml_env.space.search_space import SearchSpace
from tests.helpers.fake_evaluator import FakeEvaluator, linear
from tests.helpers.las import MODEL, noise

SPEECH = noise(9000, 14000)
UTTERANCES = [Utterance(str(index), "", waveform, "call martin") for index, waveform in enumerate(SPEECH)]


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator(MODEL, UTTERANCES, "matrix", factorisation=ActivationAwareSVD(MODEL, SPEECH, form="pivoting"))


@pytest.fixture(scope="module")
def prediction(evaluator):
    return predict_damage(MODEL, evaluator.factorisation, SPEECH, draws=2)


def test_predicted_has_the_smallest_ranks_at_even_levels(evaluator, prediction):
    space = Predicted(low=1e-6, high=1e-2, count=5, calibration=UTTERANCES, draws=2).of(evaluator)
    assert space.top_level == 5
    for level, limit in enumerate([1e-2, 1e-3, 1e-4, 1e-5, 1e-6]):
        ranks = space.at_level(level)
        for layer in space.layers:
            damage = [prediction.of(layer, rank) for rank in range(1, layer.break_even + 1)]
            within = [rank for rank, one in enumerate(damage, 1) if one <= limit]
            assert ranks[layer.name] == (within[0] if within else layer.max_rank), (layer.name, limit)
    assert space.at_level(5) == space.dense
    left_out = {layer.name for layer in evaluator.layers} - set(space.dense)
    for layer in evaluator.layers:
        assert (layer.name in left_out) is (prediction.of(layer, layer.break_even) > 1e-2)


def test_allocated_has_the_closed_form_ranks_at_each_level(evaluator, prediction):
    """Of all configurations, none of at most the size has less predicted damage: checked with `allocate`."""
    space = Allocated(low=1e-4, high=1.0, count=6, calibration=UTTERANCES, draws=2).of(evaluator)
    layers = space.layers
    everything = [[*range(1, layer.break_even + 1), layer.max_rank] for layer in layers]
    choices = [
        Choices(
            np.array([layer.parameters(rank) for rank in ranks], float),
            np.array([prediction.of(layer, rank) for rank in ranks]),
        )
        for layer, ranks in zip(layers, everything, strict=True)
    ]

    def damage(ranks):
        return sum(prediction.of(layer, ranks[layer.name]) for layer in layers)

    sizes = []
    for level in range(space.top_level + 1):
        ranks = space.at_level(level)
        cost = sum(layer.parameters(ranks[layer.name]) for layer in layers)
        sizes.append(cost)
        best = allocate(choices, cost)
        named = {layer.name: known[place] for layer, known, place in zip(layers, everything, best, strict=True)}
        assert damage(ranks) <= damage(named) * (1 + 1e-9)
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 3


def test_a_prediction_is_kept_in_the_cache(evaluator, tmp_path, monkeypatch):
    cached = Evaluator(
        MODEL, UTTERANCES, cache=EvaluationCache(tmp_path / "cache.sqlite"), factorisation=evaluator.factorisation
    )
    made = predict_for(cached, UTTERANCES, draws=2)
    monkeypatch.setattr("shrinkml_env.space.prediction._predict", lambda *_: pytest.fail("made again"))
    known = predict_for(cached, UTTERANCES, draws=2)
    assert known.damage.keys() == made.damage.keys()
    assert all((known.damage[name] == made.damage[name]).all() for name in made.damage)
    for other in ({"draws": 1}, {"draws": 2, "seed": 1}, {"calibration": UTTERANCES[:1], "draws": 2}):
        with pytest.raises(pytest.fail.Exception, match="made again"):
            predict_for(cached, **{"calibration": UTTERANCES, **other})


def test_another_factorisation_has_another_prediction(evaluator, tmp_path):
    cache = EvaluationCache(tmp_path / "cache.sqlite")
    plain, aware = (
        predict_for(Evaluator(MODEL, UTTERANCES, cache=cache, factorisation=factorisation), UTTERANCES, draws=1)
        for factorisation in (SVD(MODEL, form="pivoting"), evaluator.factorisation)
    )
    assert any((plain.damage[name] != aware.damage[name]).any() for name in plain.damage)


@pytest.mark.parametrize("kind", [Predicted, Allocated])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0}, "low must be above 0, got 0"),
        ({"low": 2, "high": 1}, "high must be above 2, got 1"),
        ({"low": 2, "high": 2}, "high must be above 2, got 2"),
        ({"low": 2, "high": float("inf")}, "high must be above 2, got inf"),
        ({"low": "1e-3"}, "low must be above 0, got '1e-3'"),
        ({"count": 1}, "count must be a whole number of at least 2, got 1"),
        ({"draws": 0}, "draws must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_options(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


def test_a_table_has_no_gradients():
    with pytest.raises(ValueError, match="needs a model, whose gradients it takes"):
        Predicted().of(FakeEvaluator())


def test_speech_that_is_too_short_is_named(evaluator, monkeypatch):
    monkeypatch.setattr(type(MODEL), "shortest", 4000, raising=False)
    short = [Utterance("brief", "", noise(3000)[0], "call")]
    with pytest.raises(ValueError, match="utterance 'brief': 3000 samples are too few"):
        Predicted(calibration=short).of(evaluator)


LAYER = linear("output", 100, 64)


def test_levels_by_hand():
    other = linear("other", 50, 50)
    always_dense = linear("third", 50, 50)
    space = space_of_levels([LAYER, other, always_dense], [(3, 3, 9, 64), (5, 50, 50, 50), (50, 50, 50, 50)])
    assert space.candidates == ((3, 9, 64), (5, 50))
    assert space.levels == ((0, 0, 1, 2, 2), (0, 1, 1, 1, 1))
    assert [space.at_level(level) for level in (0, 2, 4)] == [
        {"output": 3, "other": 5},
        {"output": 9, "other": 50},
        {"output": 64, "other": 50},
    ]
    assert space.ranks_at_levels == ((3, 3, 9, 64, 64), (5, 50, 50, 50, 50))
    # The middle of the levels at which a candidate stands.
    assert [space.level_of(0, place) for place in range(3)] == [0, 2, 3]
    assert [space.level_of(1, place) for place in range(2)] == [0, 2]
    with pytest.raises(ValueError, match=r"level must be in 0\.\.4, got 5"):
        space.at_level(5)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12))
def test_a_level_leads_to_its_candidate(places):
    levels = (*sorted(places), 3)
    space = SearchSpace((LAYER,), ((1, 2, 3, 64),), levels=(levels,))
    for place in set(levels):
        assert levels[space.level_of(0, place)] == place
    for place in range(4):
        # A candidate at no level has the first level above it.
        assert place in levels or levels[space.level_of(0, place)] > place


@pytest.mark.parametrize("levels", [((0, 1),), ((1, 0, 3),), ((0, 4),), ((3,),), ((0, 3), (0, 3)), ((-1, 3),), ()])
def test_bad_levels(levels):
    with pytest.raises(ValueError, match=r"levels must be at least two|the places at its levels must ascend"):
        SearchSpace((LAYER,), ((1, 2, 3, 64),), levels=levels)


def test_a_space_without_levels():
    space = SearchSpace((LAYER,), ((1, 64),))
    for use in (lambda: space.top_level, lambda: space.at_level(0), lambda: space.level_of(0, 0)):
        with pytest.raises(ValueError, match="the search space has no levels"):
            use()
