from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shrinkml_env.compression import (
    SVD,
    ActivationAwareSVD,
    arranged_layers,
    change_form,
    compress,
    count_parameters,
    load_compressed,
    quantise,
    ranks_of,
    round_to_storage,
    save_compressed,
)
from shrinkml_env.compression.discovery import factors_of
from shrinkml_env.compression.pivoting import LARGEST
from tests.helpers.las import make_model, noise
from tests.helpers.models import Everything, TinyCTC, tones

RANKS = {"front": 9, "gru": 5, "output": 3}


def products(model: object) -> dict[str, Tensor]:
    return {name: factors.product.detach() for name, factors in factors_of(model).items()}  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["factors", "pivoting"])
@pytest.mark.parametrize("given_form", ["factors", "pivoting"])
def test_keeps_ranks_and_products(given_form, form):
    original = TinyCTC(seed=3)
    model = compress(original, RANKS, SVD(original, form=given_form))
    changed = change_form(model, form)
    assert type(changed) is TinyCTC
    assert ranks_of(changed) == ranks_of(model)
    assert {matrix.form for layer in arranged_layers(changed) for matrix in layer.matrices} == {form}
    assert changed.storage_dtype == model.storage_dtype
    for name, product in products(model).items():
        torch.testing.assert_close(products(changed)[name], product, rtol=1e-4, atol=1e-5)
    for waveform in tones():
        torch.testing.assert_close(changed.logits(waveform), model.logits(waveform), rtol=1e-4, atol=1e-4)


def test_saves_the_square_of_each_rank():
    model = compress(TinyCTC(), RANKS)
    squares = sum(rank**2 for rank in ranks_of(model).values())
    assert count_parameters(change_form(model, "pivoting")) == count_parameters(model) - squares


def test_two_factors_share_the_singular_values():
    original = TinyCTC()
    model = change_form(compress(original, RANKS, SVD(original, form="pivoting")), "factors")
    for name, (u, v, _) in factors_of(model).items():
        values = torch.linalg.svdvals(products(model)[name].double())[: len(v)]
        for gram in u.T @ u, v @ v.T:
            torch.testing.assert_close(gram.double(), values.diag(), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 20), st.integers(0, 999), st.sampled_from([0, 1, 2]))
def test_after_any_training_the_pivots_are_small(rank, seed, zeros):
    """Training may leave factors of a smaller rank than theirs: here, rows of zeros."""
    model = compress(TinyCTC(), {"front": rank})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for factor in factors_of(model)["front.weight"][:2]:
            factor.copy_(torch.randn(factor.shape, generator=generator))
        factors_of(model)["front.weight"].v[:zeros] = 0.0
    changed = change_form(model, "pivoting")
    assert factors_of(changed)["front.weight"].v.abs().max() <= LARGEST * (1 + 1e-5)
    torch.testing.assert_close(products(changed)["front.weight"], products(model)["front.weight"], rtol=1e-4, atol=1e-4)


def test_stacks_share_their_right_factor():
    model = make_model()
    factorisation = ActivationAwareSVD(model, noise(9000, 8000), form="pivoting", share_inputs=True)
    small = compress(model, {layer.name: 3 for layer in factorisation.layers}, factorisation)
    stacks = [matrix.name for layer in arranged_layers(small) for matrix in layer.matrices if matrix.parts]
    assert stacks
    trained = change_form(small, "factors")
    back = change_form(trained, "pivoting")
    for changed in trained, back:
        assert [m.name for layer in arranged_layers(changed) for m in layer.matrices if m.parts] == stacks
        for waveform in noise(9000):
            (one,), (other,) = changed.recognise([waveform]), small.recognise([waveform])
            assert one.text == other.text
    assert count_parameters(back) == count_parameters(small) < count_parameters(trained)


def test_ties():
    model = compress(Everything().eval(), {"embedding": 4, "encoder": 2, "stack": 3, "lstm_cell": 1, "gru_cell": 2})
    changed = change_form(model, "pivoting")
    assert changed.output.weight_u is changed.embedding.weight_u
    units = torch.arange(30).view(3, 10) % 20
    with torch.no_grad():
        torch.testing.assert_close(changed(units), model(units), rtol=1e-4, atol=1e-5)


def test_is_saved_and_loaded(tmp_path):
    model = change_form(compress(TinyCTC(), RANKS), "pivoting")
    round_to_storage(model)
    save_compressed(model, tmp_path)
    loaded = load_compressed(tmp_path)
    for waveform in tones():
        assert torch.equal(loaded.logits(waveform), model.logits(waveform))


def test_is_a_model_of_its_own():
    model = compress(TinyCTC(), RANKS)
    changed = change_form(model, "factors")
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.zero_()
    assert all(parameter.any() for name, parameter in model.named_parameters() if name.endswith(("_u", "_v")))


def test_of_an_uncompressed_model_it_is_a_copy():
    model = TinyCTC()
    copy = change_form(model, "pivoting")
    assert ranks_of(copy) == {}
    assert torch.equal(copy.logits(tones(1)[0]), model.logits(tones(1)[0]))


def test_two_factors_above_break_even_are_not_saved(tmp_path):
    original = TinyCTC()
    matrix = next(matrix for layer in original.layers for matrix in layer.matrices)
    rank = matrix.max_rank - 1
    assert not matrix.is_factored(rank)
    model = change_form(compress(original, {matrix.name: rank}, SVD(original, form="pivoting")), "factors")
    assert count_parameters(model) > count_parameters(original)
    round_to_storage(model)
    with pytest.raises(ValueError, match=rf"'front\.weight' takes more numbers as two factors of rank {rank} than"):
        save_compressed(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_bad_arguments():
    model = compress(TinyCTC(), RANKS)
    with pytest.raises(ValueError, match="must be a CompressibleModel"):
        change_form(3, "pivoting")  # type: ignore[type-var]
    with pytest.raises(ValueError, match="form must be 'factors' or 'pivoting', got 'pifa'"):
        change_form(model, "pifa")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="quantised: change the one that it was made from"):
        change_form(quantise(model), "pivoting")
