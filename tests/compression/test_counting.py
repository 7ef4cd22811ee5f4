"""Counts of parameters and multiply-adds that follow from ranks alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env.compression import compressed_parameters, count_parameters, parameters_at
from tests.helpers.las import MODEL

ORIGINAL = count_parameters(MODEL)


@given(st.data())
def test_parameters_at_ranks_are_those_of_the_compressed_model(data):
    layers = data.draw(st.lists(st.sampled_from(MODEL.layers), unique=True))
    ranks = {layer.name: data.draw(st.integers(1, layer.max_rank)) for layer in layers}
    assert parameters_at(ORIGINAL, MODEL.layers, ranks) == compressed_parameters(MODEL, ranks)


def test_a_layer_saves_what_its_factors_do_not_need():
    layer = next(layer for layer in MODEL.layers if layer.kind == "linear")
    (matrix,) = layer.matrices
    saved = matrix.rows * matrix.columns - 2 * (matrix.rows + matrix.columns)
    assert saved > 0
    assert parameters_at(ORIGINAL, MODEL.layers, {layer.name: 2}) == ORIGINAL - saved
    assert parameters_at(ORIGINAL, MODEL.layers, {}) == ORIGINAL


@pytest.mark.parametrize(("ranks", "message"), [({"nothing": 1}, "nothing"), ({MODEL.layers[0].name: 0}, "rank")])
def test_mistakes_are_named(ranks, message):
    with pytest.raises(ValueError, match=message):
        parameters_at(ORIGINAL, MODEL.layers, ranks)
