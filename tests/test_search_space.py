from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env.search_space import SearchSpace
from tests.fake_evaluator import LAYERS, linear


def test_full_space_by_hand():
    # 100 x 64: break-even floor(6399 / 164) = 39; quarters of it, rounded half up: 9.75, 19.5, 29.25, 39.
    space = SearchSpace.full([linear("output", 100, 64)], count=4)
    assert space.candidates == ((10, 20, 29, 39, 64),)
    assert space.size == 5


def test_full_space_leaves_out_layers_that_no_rank_makes_smaller():
    space = SearchSpace.full(LAYERS)
    assert [layer.name for layer in space.layers] == ["frontend", "encoder.0", "encoder.1", "bridge", "output"]
    # 12 x 9: break-even floor(107 / 21) = 5, so all of 1..5 and dense.
    assert space.candidates[3] == (1, 2, 3, 4, 5, 9)
    assert len(space.candidates[4]) == 25


@given(rows=st.integers(2, 2000), columns=st.integers(2, 2000), count=st.integers(1, 40))
def test_full_space_obeys_its_description(rows, columns, count):
    layer = linear("layer", rows, columns)
    if layer.break_even < 1:
        return
    (ranks,) = SearchSpace.full([layer], count).candidates
    *factored, dense = ranks
    assert dense == min(rows, columns)
    assert factored[-1] == layer.break_even
    assert factored[0] == max(1, int(layer.break_even / count + 0.5))
    assert len(factored) == min(count, layer.break_even)
    gaps = [after - before for before, after in pairwise(factored)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(rank=st.floats(-10, 200))
def test_nearest(rank):
    space = SearchSpace.full(LAYERS)
    for index, ranks in enumerate(space.candidates):
        assert abs(space.nearest(index, rank) - rank) == min(abs(candidate - rank) for candidate in ranks)


def test_nearest_takes_the_smaller_of_two():
    assert SearchSpace((linear("output", 100, 64),), ((10, 20, 64),)).nearest(0, 15) == 10


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
        SearchSpace.full([linear("gate", 1, 40)])
    with pytest.raises(ValueError, match="'gate' cannot be made smaller"):
        SearchSpace((linear("gate", 1, 40),), ((1,),))
    with pytest.raises(ValueError, match="count must be at least 1"):
        SearchSpace.full(LAYERS, count=0)
