from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env.compression import Layer, Matrix, canonical_ranks, matrix_ranks, merge_layers, split_layers

WIDE = Matrix("a.weight_ih", rows=8, columns=4, kind="lstm_ih")  # 32 numbers: rank 2 costs 24, rank 3 costs 36.
SQUARE = Matrix("a.weight_hh", rows=8, columns=8, kind="lstm_hh")  # 64 numbers: rank 3 costs 48, rank 4 costs 64.
LAYERS = (Layer("a", "lstm", (WIDE, SQUARE)), Layer("b", "linear", (Matrix("b.weight", 10, 10, "linear"),)))


@given(st.integers(1, 60), st.integers(1, 60))
def test_break_even_is_the_last_rank_that_saves(rows, columns):
    matrix = Matrix("m", rows, columns, "linear")
    ranks = [rank for rank in range(1, 61) if rank * (rows + columns) < rows * columns]
    assert matrix.break_even == max(ranks, default=0)
    for rank in range(1, matrix.max_rank + 1):
        assert matrix.parameters(rank) == min(rank * (rows + columns), rows * columns)
        assert matrix.is_factored(rank) == (rank in ranks)


def test_a_layer_takes_the_largest_of_its_matrices():
    layer = LAYERS[0]
    assert (layer.break_even, layer.max_rank, layer.shapes) == (3, 8, ((8, 4), (8, 8)))
    assert [layer.canonical(rank) for rank in range(1, 9)] == [1, 2, 3, 8, 8, 8, 8, 8]
    assert [layer.parameters(rank) for rank in (2, 3, 8)] == [24 + 32, 32 + 48, 96]


@pytest.mark.parametrize("rank", [0, -1, 9, 2.5, True, "3", None, float("nan"), float("inf")])
def test_bad_ranks_name_the_layer(rank):
    with pytest.raises(ValueError, match=r"'a'.* 1\.\.8"):
        canonical_ranks(LAYERS, {"a": rank})


def test_canonical_ranks_are_complete_and_ordered():
    assert list(canonical_ranks(LAYERS, {"b": 4}).items()) == [("a", 8), ("b", 4)]
    with pytest.raises(ValueError, match=r"'c'.* a, b"):
        canonical_ranks(LAYERS, {"c": 4})


def test_matrix_ranks_take_layers_and_matrices():
    assert matrix_ranks(LAYERS, {"b": 4, "a": 3}) == {"a.weight_hh": 3, "b.weight": 4}
    assert matrix_ranks(LAYERS, {"a.weight_ih": 2, "a.weight_hh": 8}) == {"a.weight_ih": 2}
    with pytest.raises(ValueError, match=r"'a\.weight_ih'.* twice"):
        matrix_ranks(LAYERS, {"a": 1, "a.weight_ih": 1})
    with pytest.raises(ValueError, match="'c'"):
        matrix_ranks(LAYERS, {"c": 1})


def test_split_layers_makes_each_matrix_a_layer():
    assert [layer.name for layer in split_layers(LAYERS)] == ["a.weight_ih", "a.weight_hh", "b.weight"]


def test_blocks_come_in_forward_order():
    third = Layer("c", "linear", (Matrix("c.weight", 6, 6, "linear"),))
    blocks = merge_layers((*LAYERS, third), {"end": ["c"], "all the rest": ["b", "a"]})
    assert [layer.name for layer in blocks] == ["all the rest", "end"]
    assert [matrix.name for matrix in blocks[0].matrices] == ["a.weight_ih", "a.weight_hh", "b.weight"]
    assert blocks[0].kind == "lstm"


@pytest.mark.parametrize("ranks", [None, "lstm", [3], 5])
def test_ranks_are_a_mapping(ranks):
    for function in canonical_ranks, matrix_ranks:
        with pytest.raises(ValueError, match="ranks must be a mapping of layers' names to whole numbers, got "):
            function((), ranks)
