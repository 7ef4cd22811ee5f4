from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shrinkml_env.asr import Decoding
from shrinkml_env.asr.joint import JointLAS
from shrinkml_env.compression import (
    SVD,
    ActivationAwareSVD,
    arranged_layers,
    change_form,
    compress,
    compressed_parameters,
    count_parameters,
    decompress,
    inference_tensors,
    load_compressed,
    quantise,
    ranks_of,
    round_to_storage,
    save_compressed,
)
from shrinkml_env.compression.discovery import factors_of
from shrinkml_env.compression.pivoting import LARGEST
from tests.helpers.las import SIZES, make_model, noise
from tests.helpers.models import Everything, TinyCTC, tones

RANKS = {"front": 9, "gru": 5, "output": 3}


def products(model: object) -> dict[str, Tensor]:
    return {name: factors.product.detach() for name, factors in factors_of(model).items()}  # type: ignore[arg-type]


def require_same_products(changed, model):
    assert products(changed).keys() == products(model).keys()
    for name, product in products(model).items():
        torch.testing.assert_close(products(changed)[name], product, rtol=1e-4, atol=1e-5)


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
    require_same_products(changed, model)
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


def test_joint_factorisations():
    original = JointLAS(SIZES, make_model().tokenizer, Decoding()).eval()
    model = compress(original, {layer.name: 3 for layer in original.layers})
    require_same_products(change_form(model, "pivoting"), model)


def test_stacks_share_their_right_factor():
    model = make_model()
    factorisation = ActivationAwareSVD(model, noise(9000, 8000), form="pivoting", share_inputs=True)
    small = compress(model, {layer.name: 3 for layer in factorisation.layers}, factorisation)
    stacks = [matrix for layer in arranged_layers(small) for matrix in layer.matrices if matrix.parts]
    assert stacks
    trained = change_form(small, "factors")
    back = change_form(trained, "pivoting")
    for changed in trained, back:
        require_same_products(changed, small)
        for stack in stacks:
            assert len({id(factors_of(changed)[part.name].v) for part in stack.parts}) == 1
    assert count_parameters(back) == count_parameters(small) < count_parameters(trained)


@pytest.mark.parametrize("form", ["factors", "pivoting"])
def test_tied_matrices_stay_tied(form):
    model = compress(Everything().eval(), {"embedding": 4, "encoder": 2, "stack": 3, "lstm_cell": 1, "gru_cell": 2})
    changed = change_form(model, form)
    assert changed.output.weight_u is changed.embedding.weight_u
    assert changed.output.weight_v is changed.embedding.weight_v
    units = torch.arange(30).view(3, 10) % 20
    with torch.no_grad():
        torch.testing.assert_close(changed(units), model(units), rtol=1e-4, atol=1e-5)


def test_everything_but_the_factors_is_copied():
    model = compress(TinyCTC(), RANKS).train()
    model.hidden.eval()
    model.gru.weight_ih_l0_u.requires_grad_(False)
    model.hidden.bias.requires_grad_(False)
    heard = []
    model.output.register_forward_hook(lambda *call: heard.append(1))
    state = torch.random.get_rng_state()
    changed = change_form(model.double(), "pivoting")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in changed.modules()] == [module.training for module in model.modules()]
    frozen = {name for name, parameter in changed.named_parameters() if not parameter.requires_grad}
    assert frozen == {"gru.weight_ih_l0_u", "hidden.bias"}
    assert {parameter.dtype for parameter in changed.parameters()} == {torch.float64}
    assert torch.equal(changed.auxiliary.weight, model.auxiliary.weight)  # What only training uses is taken along.
    changed.output(torch.zeros(1, changed.output.in_features, dtype=torch.float64))
    assert heard


def test_is_saved_and_loaded(tmp_path):
    model = change_form(compress(TinyCTC(), RANKS), "pivoting")
    round_to_storage(model)
    save_compressed(model, tmp_path)
    loaded = load_compressed(tmp_path)
    weights = loaded.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in inference_tensors(model).items())
    for waveform in tones():
        # Where a tensor lies in memory may change the last bit.
        torch.testing.assert_close(loaded.logits(waveform), model.logits(waveform), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ranks", [{}, RANKS])
def test_shares_no_memory(ranks):
    model = compress(TinyCTC(), ranks)
    changed = change_form(model, "pivoting")
    assert ranks_of(changed) == ranks_of(model)
    memory = [{tensor.data_ptr() for tensor in one.state_dict().values()} for one in (model, changed)]
    assert not memory[0] & memory[1]
    torch.testing.assert_close(changed.logits(tones(1)[0]), model.logits(tones(1)[0]), rtol=1e-4, atol=1e-4)


def test_ranks_above_break_even_can_be_trained_but_not_saved_as_two_factors(tmp_path):
    original = TinyCTC()
    matrix = next(matrix for layer in original.layers for matrix in layer.matrices)
    rank = matrix.max_rank - 1
    assert not matrix.is_factored(rank)
    pivoting = compress(original, {matrix.name: rank}, SVD(original, form="pivoting"))
    model = change_form(pivoting, "factors")
    assert count_parameters(pivoting) < count_parameters(original) < count_parameters(model)
    assert compressed_parameters(model, {}) == compressed_parameters(pivoting, {}) == count_parameters(original)
    require_same_products(model, pivoting)
    round_to_storage(model)
    with pytest.raises(ValueError, match=rf"'front\.weight' takes no fewer numbers as two factors of rank {rank} than"):
        save_compressed(model, tmp_path)
    assert not list(tmp_path.iterdir())
    back = change_form(model, "pivoting")
    require_same_products(back, model)
    round_to_storage(back)
    save_compressed(back, tmp_path)
    assert ranks_of(load_compressed(tmp_path)) == {"front.weight": rank}


def test_compiled_models_are_refused():
    whole, part = torch.compile(compress(TinyCTC(), RANKS), backend="eager"), compress(TinyCTC(), RANKS)
    part.hidden = torch.compile(part.hidden, backend="eager")
    for model, message in (whole, "the model is what torch.compile"), (part, "module 'hidden' is what torch.compile"):
        for use in (lambda model: change_form(model, "pivoting"), decompress):
            with pytest.raises(ValueError, match=message):
                use(model)


@pytest.mark.parametrize("form", ["factors", "pivoting"])
def test_factors_that_are_no_numbers_are_named(form):
    model = compress(TinyCTC(), RANKS)
    with torch.no_grad():
        model.front.weight_u[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'front.weight' holds NaN or infinity"):
        change_form(model, form)


def test_bad_arguments():
    model = compress(TinyCTC(), RANKS)
    with pytest.raises(ValueError, match="must be a CompressibleModel"):
        change_form(3, "pivoting")  # type: ignore[type-var]
    with pytest.raises(ValueError, match="form must be 'factors' or 'pivoting', got 'pifa'"):
        change_form(model, "pifa")  # type: ignore[arg-type]
    pytest.importorskip("torchao")
    with pytest.raises(ValueError, match="quantised: change the one that it was made from"):
        change_form(quantise(model), "pivoting")
