from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env import load_model
from shrinkml_env.envs.assembly import make_problem
from shrinkml_env.space.formation import Explicit, Full, Log, Sensitive
from shrinkml_env.space.search_space import SearchSpace
from shrinkml_env.space.sensitivity import LayerCurve, Sensitivity
from tests.helpers.fake_evaluator import LAYERS, FakeEvaluator, linear


def test_full_space_by_hand():
    # 100 x 64: break-even floor(6399 / 164) = 39; quarters of it, rounded half up: 9.75, 19.5, 29.25, 39.
    space = Full(4)([linear("output", 100, 64)])
    assert space.candidates == ((10, 20, 29, 39, 64),)
    assert space.size == 5


def test_full_space_leaves_out_layers_that_no_rank_makes_smaller():
    space = Full()(LAYERS)
    assert [layer.name for layer in space.layers] == ["frontend", "encoder.0", "encoder.1", "bridge", "output"]
    # 12 x 9: break-even floor(107 / 21) = 5, so all of 1..5 and dense.
    assert space.candidates[3] == (1, 2, 3, 4, 5, 9)
    assert len(space.candidates[4]) == 25


@given(rows=st.integers(2, 2000), columns=st.integers(2, 2000), count=st.integers(1, 40))
def test_full_space_obeys_its_description(rows, columns, count):
    layer = linear("layer", rows, columns)
    if layer.break_even < 1:
        return
    (ranks,) = Full(count)([layer]).candidates
    *factored, dense = ranks
    assert dense == min(rows, columns)
    assert factored[-1] == layer.break_even
    assert factored[0] == max(1, int(layer.break_even / count + 0.5))
    assert len(factored) == min(count, layer.break_even)
    gaps = [after - before for before, after in pairwise(factored)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(rank=st.floats(-10, 200))
def test_nearest(rank):
    space = Full()(LAYERS)
    for index, ranks in enumerate(space.candidates):
        assert abs(space.nearest(index, rank) - rank) == min(abs(candidate - rank) for candidate in ranks)


def test_nearest_takes_the_smaller_of_two():
    assert SearchSpace((linear("output", 100, 64),), ((10, 20, 64),)).nearest(0, 15) == 10


SMALL = SearchSpace((linear("bridge", 12, 9), linear("output", 100, 64)), ((2, 5, 9), (10, 39, 64)))


def test_ends_and_counts():
    assert SMALL.dense == {"bridge": 9, "output": 64}
    assert SMALL.smallest == {"bridge": 2, "output": 10}
    assert SMALL.counts == (3, 3)
    assert SMALL.size == 9


def test_names_of_the_first_layers():
    assert SMALL.named(()) == {}
    assert SMALL.named((5,)) == {"bridge": 5}
    assert SMALL.named((5, 64)) == {"bridge": 5, "output": 64}
    with pytest.raises(ValueError, match="longer"):
        SMALL.named((5, 64, 1))


def test_ranks_of_places():
    assert SMALL.ranks((1, 2)) == {"bridge": 5, "output": 64}
    assert SMALL.ranks((0,)) == {"bridge": 2}
    with pytest.raises(IndexError):
        SMALL.ranks((0, 3))


def test_places_of_any_spelling():
    # 12 x 9 breaks even at 5 and 100 x 64 at 39: whatever is above is dense.
    assert SMALL.places({"output": 40, "bridge": 2}) == (0, 2)
    assert SMALL.places({}) == (2, 2)
    assert SMALL.places({"output": 10, "elsewhere": 1}) == (2, 0)
    with pytest.raises(ValueError, match=r"layer 'output': rank 11 is not a candidate; they are \(10, 39, 64\)"):
        SMALL.places({"output": 11})
    with pytest.raises(ValueError, match="'output': rank must be"):
        SMALL.places({"output": 65})


def test_configurations_in_order():
    pairs = [(ranks["bridge"], ranks["output"]) for ranks in SMALL.configurations()]
    assert pairs == [(2, 10), (2, 39), (2, 64), (5, 10), (5, 39), (5, 64), (9, 10), (9, 39), (9, 64)]


def test_a_function_of_every_candidate():
    # Factored at rank r, m x n costs r (m + n).
    counted = SMALL.tabulate(lambda layer, rank: layer.parameters(rank))
    assert counted == ({2: 42, 5: 105, 9: 108}, {10: 1640, 39: 6396, 64: 6400})
    assert [list(counts) for counts in counted] == [[2, 5, 9], [10, 39, 64]]


@given(data=st.data())
def test_places_are_the_inverse_of_ranks(data):
    space = Full()(LAYERS)
    places = tuple(data.draw(st.integers(0, count - 1)) for count in space.counts)
    assert space.places(space.ranks(places)) == places


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ((64,), "at least one rank"),
        ((10, 39), "at least one rank"),
        ((10, 5, 64), "ascending"),
        ((5, 5, 64), "ascending"),
        ((0, 64), r"1\.\.64"),
        ((40, 64), "ascending"),  # 40 is above break-even: another spelling of dense
    ],
)
def test_bad_candidates_name_the_layer(candidates, message):
    with pytest.raises(ValueError, match=f"'output'.*{message}"):
        SearchSpace((linear("output", 100, 64),), (candidates,))


def test_nothing_to_decide():
    with pytest.raises(ValueError, match="no layer that any rank makes smaller"):
        Full()([linear("gate", 1, 40)])
    with pytest.raises(ValueError, match="'gate' cannot be made smaller"):
        SearchSpace((linear("gate", 1, 40),), ((1,),))


@pytest.mark.parametrize(("name", "kind"), [("full", Full), ("log", Log), ("sensitivity", Sensitive)])
@pytest.mark.parametrize("count", [0, True, 2.0, np.float64(2), "2", None])
def test_a_count_is_a_whole_number(name, kind, count):
    with pytest.raises(ValueError, match=f"search space '{name}': count must be a whole number of at least 1, got"):
        kind(count=count)


@pytest.mark.parametrize("kind", [Full, Log])
def test_a_count_of_numpy_is_as_good(kind):
    # 2 * 100 * 39 is far more than an int8 can hold.
    assert kind(np.int8(100))(LAYERS) == kind(100)(LAYERS)


def test_log_space_by_hand():
    # 100 x 64: 39 ^ (i / 4) = 1, 2.499, 6.245, 15.606, 39
    assert Log(5)([linear("output", 100, 64)]).candidates == ((1, 2, 6, 16, 39, 64),)
    # 12 x 9: 5 ^ (i / 15), rounded: every rank, once.
    assert Log()([linear("bridge", 12, 9)]).candidates == ((1, 2, 3, 4, 5, 9),)
    assert Log(1)([linear("output", 100, 64)]).candidates == ((39, 64),)


@given(rows=st.integers(2, 2000), columns=st.integers(2, 2000), count=st.integers(2, 40))
def test_log_space_goes_from_1_to_break_even(rows, columns, count):
    layer = linear("layer", rows, columns)
    if layer.break_even < 1:
        return
    (ranks,) = Log(count)([layer]).candidates
    assert (ranks[0], ranks[-2], ranks[-1]) == (1, layer.break_even, layer.max_rank)
    assert len(ranks) <= count + 1


def test_explicit_space():
    space = Explicit({"output": [39, 10, 10], "bridge": [2]})(LAYERS)
    assert [layer.name for layer in space.layers] == ["bridge", "output"]
    assert space.candidates == ((2, 9), (10, 39, 64))
    with pytest.raises(ValueError, match="no layer is named 'outptu'"):
        Explicit({"outptu": [3]})(LAYERS)
    with pytest.raises(ValueError, match="'output': a candidate must be"):
        Explicit({"output": [0]})(LAYERS)


OUTPUT, GATE = linear("output", 100, 64), linear("gate", 60, 60)
MEASURED = Sensitivity(
    0.03,
    {
        "output": LayerCurve(OUTPUT.shapes, {4: 0.9, 8: 0.5, 12: 0.10, 16: 0.04, 20: 0.03, 30: 0.031, 39: 0.03}),
        "gate": LayerCurve(GATE.shapes, {10: 0.9, 29: 0.4}),
    },
)


@pytest.fixture
def measured(tmp_path):
    MEASURED.save(tmp_path / "sensitivity.json")
    return tmp_path / "sensitivity.json"


def test_sensitive_space_by_hand(measured):
    # 4 and 8 are fatal. Nothing is lost from 20 on (0.1 % at 30 is harmless), so that ranks above 1.5 * 20 are useless.
    # Halfway between 12 and 30, counting ranks and WER alike: at 15 the way is (3/18 + 45/70) / 2 = 0.405, at 16
    # (4/18 + 60/70) / 2 = 0.540, and 0.5 is nearest to 16. The layer "gate" has no rank that is not fatal.
    space = Sensitive(measured, count=3, fatal=0.2, harmless=0.003, margin=1.5)([OUTPUT, GATE])
    assert [layer.name for layer in space.layers] == ["output"]
    assert space.candidates == ((12, 16, 30, 64),)


def test_sensitive_candidates_crowd_where_the_wer_moves(measured):
    space = Sensitive(measured, count=9, margin=1.5)([OUTPUT])
    (ranks,) = space.candidates
    assert ranks[0] == 12
    assert sum(rank <= 16 for rank in ranks) >= 4
    assert sum(20 < rank <= 30 for rank in ranks) <= 3


@given(
    curve=st.dictionaries(st.integers(1, 39), st.floats(0, 2), min_size=1),
    count=st.integers(1, 30),
    margin=st.floats(1, 5),
)
def test_sensitive_space_obeys_its_description(tmp_path_factory, curve, count, margin):
    path = tmp_path_factory.mktemp("sensitivity") / "sensitivity.json"
    Sensitivity(0.03, {"output": LayerCurve(OUTPUT.shapes, curve)}).save(path)
    fatal = [rank for rank, wer in curve.items() if wer - 0.03 > 0.2]
    form = Sensitive(path, count=count, margin=margin)
    if fatal and max(fatal) == max(curve):
        with pytest.raises(ValueError, match="search space is empty"):
            form([OUTPUT])
        return
    (ranks,) = form([OUTPUT]).candidates
    assert 1 <= len(ranks) - 1 <= count
    assert min(ranks) > max(fatal, default=0)
    assert ranks[-2] <= max(curve)


def test_a_sensitivity_to_another_factorisation_is_refused(measured):
    class Aware(FakeEvaluator):
        factorisation_name = "activation_aware"

    layers = (OUTPUT,)
    assert make_problem(FakeEvaluator(layers), search_space=Sensitive(measured)).search_space.factorisation == "svd"
    assert make_problem(Aware(layers), search_space="full").search_space.factorisation is None
    message = r"measured with factorisation 'svd', .* by 'activation_aware': measure it with factorisation 'act"
    with pytest.raises(ValueError, match=message):
        make_problem(Aware(layers), search_space=Sensitive(measured))
    replace(MEASURED, factorisation="activation_aware").save(measured)
    make_problem(Aware(layers), search_space=Sensitive(measured))
    with pytest.raises(ValueError, match=r"measured with factorisation 'activation_aware', .* by 'svd'"):
        make_problem(FakeEvaluator(layers), search_space=Sensitive(measured))


def test_a_layer_that_was_not_measured(measured):
    with pytest.raises(
        ValueError, match=r"layer 'other': its sensitivity was not measured; measure .*Sensitivity\.measure"
    ):
        Sensitive(measured)([OUTPUT, linear("other", 50, 50)])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other"}', '{"format": "shrinkml-sensitivity-1"}'])
def test_files_that_are_something_else(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"file\.json is not a sensitivity file"):
        Sensitivity.load(path)


def test_measured_through_a_ledger_and_read_again(tmp_path):
    problem = make_problem(FakeEvaluator(), search_space={"name": "full", "count": 3})
    sensitivity = Sensitivity.measure(problem.search_space.choices, problem.evaluate)
    below_dense = sum(len(ranks) - 1 for ranks in problem.candidates)
    assert problem.ledger.count == below_dense + 1
    sensitivity.save(tmp_path / "sensitivity.json")
    assert Sensitivity.load(tmp_path / "sensitivity.json") == sensitivity
    ranks, losses = sensitivity.losses(problem.layers[-1])
    assert ranks.tolist() == [13, 26, 39]
    # The fake model loses 6 edits of 640 words for each rank of "output" below 19.
    assert losses.tolist() == pytest.approx([6 * 6 / 640, 0, 0])
    formed = make_problem(
        FakeEvaluator(), search_space={"name": "sensitivity", "path": tmp_path / "sensitivity.json", "count": 4}
    )
    assert formed.search_space.size < problem.search_space.size * 4
    with pytest.raises(ValueError, match="0 <= harmless < fatal"):
        make_problem(FakeEvaluator(), search_space={"name": "sensitivity", "fatal": 0.0})


def test_the_embedded_models_sensitivity_is_shipped():
    space = Sensitive()(load_model("las_small").layers)
    assert len(space.layers) >= 9
    assert all(len(ranks) <= 17 for ranks in space.candidates)
    assert space.size < Full()(load_model("las_small").layers).size / 100


def test_a_sensitivity_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"sensitivity: there is no file /nope; path must be"):
        make_problem(FakeEvaluator(), search_space={"name": "sensitivity", "path": "/nope"})
