from __future__ import annotations

import contextlib
import json
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shrinkml_env.compression import (
    SVD,
    ActivationAwareSVD,
    Factorisation,
    compress,
    load_compressed,
    save_compressed,
)
from shrinkml_env.compression.gradients import row_weights
from shrinkml_env.evaluation import EvaluationCache
from tests.helpers.around import Around
from tests.helpers.las import MODEL as LAS_MODEL
from tests.helpers.las import noise
from tests.helpers.models import TinyCTC, tones

LAS_SPEECH = noise(9000, 14000)

SIZES = st.integers(3, 16)


class OneMatrix(Around):
    """y = W x, or a look-up in W; what it "recognises" are batches of x, or of rows."""

    def __init__(self, weight: Tensor, kind: type[nn.Module] = nn.Linear) -> None:
        super().__init__(nn.Linear(*reversed(weight.shape), bias=False) if kind is nn.Linear else kind(*weight.shape))
        self.module.weight.data = weight


def matrix(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def uneven(positions: int, size: int, seed: int) -> Tensor:
    """Correlated inputs, of which a few directions carry most."""
    return matrix(positions, size, seed) * 2.0 ** -torch.arange(size) @ matrix(size, size, seed + 1)


def damped(inputs: Tensor, damping: float) -> Tensor:
    """As the formula says, up to its scale."""
    second = inputs.double().T @ inputs.double() / len(inputs)
    return second + damping * second.trace() / len(second) * torch.eye(len(second), dtype=torch.float64)


def error(weight: Tensor, factorisation: Factorisation, rank: int, moment: Tensor) -> float:
    """Expected squared error of the outputs."""
    u, v, _ = factorisation.factors("module.weight", rank)
    lost = weight.double() - u.double() @ v.double()
    return float((lost @ moment @ lost.T).trace())


def aware(weight: Tensor, inputs: Tensor, damping: float = 0.01) -> ActivationAwareSVD:
    return ActivationAwareSVD(OneMatrix(weight), [inputs], damping)


@given(SIZES, SIZES, st.integers(1, 40), st.integers(0, 99), st.sampled_from([1e-6, 0.01, 1.0]), st.data())
@settings(deadline=None)
def test_never_worse_than_the_plain_svd_at_any_rank(rows, columns, positions, seed, damping, data):
    """Even where there are fewer inputs than columns, so that their moment is singular."""
    weight, inputs = matrix(rows, columns, seed), uneven(positions, columns, seed + 1)
    moment = damped(inputs, damping)
    rank = data.draw(st.integers(1, min(rows, columns)))
    plain, whitened = SVD(OneMatrix(weight)), aware(weight, inputs, damping)
    total = float((weight.double() @ moment @ weight.double().T).trace())
    assert error(weight, whitened, rank, moment) <= error(weight, plain, rank, moment) + 1e-6 * total


@given(SIZES, SIZES, st.integers(0, 99), st.data())
@settings(deadline=None)
def test_the_error_is_the_sum_of_the_dropped_squares(rows, columns, seed, data):
    weight, inputs = matrix(rows, columns, seed), uneven(50, columns, seed + 1)
    rank = data.draw(st.integers(1, min(rows, columns)))
    whitened = aware(weight, inputs)
    energy = whitened.singular_values["module.weight"].square()
    moment = damped(inputs, 0.01)
    lost, total = error(weight, whitened, rank, moment), float((weight.double() @ moment @ weight.double().T).trace())
    assert lost / total == pytest.approx(float(energy[rank:].sum() / energy.sum()), abs=1e-6)


@given(SIZES, SIZES, st.integers(1, 40), st.integers(0, 99))
@settings(deadline=None)
def test_full_rank_gives_the_matrix_back(rows, columns, positions, seed):
    weight = matrix(rows, columns, seed)
    u, v, _ = aware(weight, uneven(positions, columns, seed + 1)).factors("module.weight", min(rows, columns))
    torch.testing.assert_close(u @ v, weight, rtol=1e-4, atol=1e-4)


@given(SIZES, SIZES, st.integers(0, 99), st.floats(0.1, 10))
@settings(deadline=None)
def test_white_inputs_give_the_plain_svd(rows, columns, seed, scale):
    weight = matrix(rows, columns, seed)
    plain, whitened = SVD(OneMatrix(weight)), aware(weight, scale * torch.eye(columns))
    rank = min(rows, columns)
    found, expected = whitened.factors("module.weight", rank), plain.factors("module.weight", rank)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whitened.singular_values, plain.singular_values, rtol=1e-6, atol=1e-6)


@given(SIZES, SIZES, st.integers(0, 99), st.integers(-30, 30))
@settings(deadline=None)
def test_scaling_the_inputs_changes_nothing(rows, columns, seed, exponent):
    """By a power of two, which rounds nothing."""
    weight, inputs = matrix(rows, columns, seed), uneven(20, columns, seed + 1)
    first, second = aware(weight, inputs), aware(weight, 2.0**exponent * inputs)
    assert torch.equal(first.factors("module.weight", 3).product, second.factors("module.weight", 3).product)


def test_inputs_that_are_always_zero_give_the_plain_svd():
    weight = matrix(7, 5, 0)
    plain, whitened = SVD(OneMatrix(weight)), aware(weight, torch.zeros(3, 5))
    assert torch.equal(whitened.factors("module.weight", 3).product, plain.factors("module.weight", 3).product)


def test_a_large_damping_gives_the_plain_svd():
    weight, inputs = matrix(7, 5, 0), uneven(20, 5, 1)
    plain, whitened = SVD(OneMatrix(weight)), aware(weight, inputs, 1e9)
    found, expected = whitened.factors("module.weight", 3), plain.factors("module.weight", 3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_the_inputs_do_not_have_is_given_up_first():
    """Two inputs of four are never seen: rank 2 keeps what the others do, whatever the matrix."""
    weight = torch.cat([0.1 * matrix(6, 2, 0), 10 * matrix(6, 2, 1)], dim=1)
    inputs = torch.cat([matrix(30, 2, 2), torch.zeros(30, 2)], dim=1)
    u, v, _ = aware(weight, inputs, 1e-9).factors("module.weight", 2)
    assert ((u @ v)[:, :2] - weight[:, :2]).norm() < 0.01 * weight[:, :2].norm()
    u, v, _ = SVD(OneMatrix(weight)).factors("module.weight", 2)
    assert ((u @ v)[:, :2] - weight[:, :2]).norm() > 0.5 * weight[:, :2].norm()


@given(st.integers(4, 16), SIZES, st.integers(0, 99), st.data())
@settings(deadline=None)
def test_embeddings_keep_what_is_said_most(tokens, columns, seed, data):
    weight = matrix(tokens, columns, seed)
    said = torch.randint(0, (tokens + 1) // 2, (60,), generator=torch.Generator().manual_seed(seed))
    rank = data.draw(st.integers(1, min(tokens, columns)))
    plain, whitened = (
        SVD(OneMatrix(weight, nn.Embedding)),
        ActivationAwareSVD(OneMatrix(weight, nn.Embedding), [said]),
    )
    often = (torch.bincount(said, minlength=tokens) + 1).double() / (60 + tokens)
    often += 0.01 / tokens

    def lost(factorisation: Factorisation) -> float:
        u, v, _ = factorisation.factors("module.weight", rank)
        return float((often * (weight.double() - u.double() @ v.double()).square().sum(1)).sum())

    assert lost(whitened) <= lost(plain) + 1e-6
    energy = whitened.singular_values["module.weight"].square()
    total = float((often * weight.double().square().sum(1)).sum())
    assert lost(whitened) / total == pytest.approx(float(energy[rank:].sum() / energy.sum()), abs=1e-5)


@given(st.floats(-12, 9), st.floats(-4, 4))
@settings(deadline=None)
def test_the_factors_share_the_load(weight_exponent, input_exponent):
    """So that float16 holds both, whatever the scales: a column of U is as long as its row of V."""
    weight = 2**weight_exponent * matrix(12, 8, 0)
    model = OneMatrix(weight.half().float())
    model.storage_dtype = torch.float16
    inputs = uneven(30, 8, 1) * 10.0 ** (input_exponent * torch.linspace(-1, 1, 8))
    u, v, _ = ActivationAwareSVD(model, [inputs]).factors("module.weight", 8)
    assert torch.equal(u, u.half().float())
    assert torch.equal(v, v.half().float())
    torch.testing.assert_close(u.norm(dim=0), v.norm(dim=1), rtol=2e-2, atol=1e-6)
    torch.testing.assert_close(u @ v, weight, rtol=0, atol=2e-2 * float(weight.abs().max()))


def test_less_error_behind_every_matrix_of_a_model():
    """On speech that the factorisation has not seen."""
    model, calibration = TinyCTC(), tones(8, seed=1)
    ranks = {layer.name: max(1, layer.break_even // 2) for layer in model.layers}
    whitened = ActivationAwareSVD(model, calibration)
    for layer in model.layers:
        lost = [
            sum(
                (compress(model, {layer.name: ranks[layer.name]}, f).logits(waveform) - model.logits(waveform)).norm()
                for waveform in tones(4, seed=2)
            )
            for f in (SVD(model), whitened)
        ]
        assert lost[1] < lost[0], layer.name


def test_saved_and_loaded(tmp_path):
    model = TinyCTC()
    small = compress(model, {"hidden": 5, "gru": 6}, ActivationAwareSVD(model, tones(3)))
    save_compressed(small, tmp_path)
    assert load_compressed(tmp_path).transcribe(tones(2, 5)) == small.transcribe(tones(2, 5))


def test_key_holds_the_method_its_options_and_the_speech():
    model, speech = TinyCTC(), tones(2)
    found: Factorisation = ActivationAwareSVD(model, speech)
    assert isinstance(found, Factorisation)
    assert found.name == "activation_aware"
    assert found.key.startswith("activation_aware-float16-0.01-")
    assert (
        ActivationAwareSVD(model, [waveform.clone() for waveform in speech], 0.01, ["hidden.weight"]).key == found.key
    )
    others = [
        ActivationAwareSVD(model, speech, 0.02, []),
        ActivationAwareSVD(model, speech[:1], 0.01, []),
        ActivationAwareSVD(model, [speech[0], speech[1] + 1e-6], 0.01, []),
        SVD(model),
    ]
    assert len({found.key, *(other.key for other in others)}) == 5
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again.factors("gru.weight_ih_l0", 3).product, found.factors("gru.weight_ih_l0", 3).product)


def test_a_matrix_that_no_speech_uses_is_factored_plainly():
    model = OneMatrix(matrix(7, 5, 0))
    model.other = nn.Linear(6, 9).eval()
    with pytest.warns(UserWarning, match=r"does not use other\.weight: plain SVD"):
        found = ActivationAwareSVD(model, [uneven(9, 5, 0)])
    assert torch.equal(found.factors("other.weight", 4).product, SVD(model).factors("other.weight", 4).product)


def test_errors_say_what_is_wrong():
    model, speech = TinyCTC(), tones(1)
    with pytest.raises(ValueError, match="there is no waveform"):
        ActivationAwareSVD(model, [])
    for damping in 0.0, -1.0, 1e-12, math.inf, math.nan, "x", None, True:
        with pytest.raises(ValueError, match="damping must be at least 1e-09, got"):
            ActivationAwareSVD(model, speech, damping)
    with pytest.raises(ValueError, match=r"'nothing\.weight'"):
        ActivationAwareSVD(model, speech, matrices=["nothing.weight"])
    with pytest.raises(ValueError, match=r"'module\.weight': what the calibration speech .* NaN"):
        aware(matrix(4, 4, 0), torch.full((2, 4), torch.nan))


class Shelf(dict):
    """A store in memory that counts what it is given."""

    def put(self, key, value, subject=""):
        self[key] = json.loads(json.dumps(value))

    def exclusive(self, keys):
        return contextlib.nullcontext()


def test_a_store_keeps_what_is_slow_and_changes_no_number(monkeypatch):
    options = {"form": "pivoting", "share_inputs": True, "weigh_rows": True}
    plain = ActivationAwareSVD(LAS_MODEL, LAS_SPEECH, **options)
    shelf = Shelf()
    first = ActivationAwareSVD(LAS_MODEL, LAS_SPEECH, **options, store=shelf)
    assert len(shelf) == 2
    for name in ("second_moments", "row_weights"):
        monkeypatch.setattr(f"shrinkml_env.compression.activation_aware.{name}", lambda *_: pytest.fail("made again"))
    second = ActivationAwareSVD(LAS_MODEL, LAS_SPEECH, **options, store=shelf)
    assert plain.key == first.key == second.key
    for layer in plain.layers:
        for matrix in layer.matrices:
            made = [svd.factors(matrix.name, 3) for svd in (plain, first, second)]
            assert all(torch.equal(made[0].u, other.u) and torch.equal(made[0].v, other.v) for other in made[1:])
    for other in ({"damping": 0.1}, {"share_inputs": False}):
        with pytest.raises(pytest.fail.Exception, match="made again"):
            ActivationAwareSVD(LAS_MODEL, LAS_SPEECH, **{**options, **other}, store=shelf)
    with pytest.raises(pytest.fail.Exception, match="made again"):
        ActivationAwareSVD(LAS_MODEL, LAS_SPEECH[:1], **options, store=shelf)


def test_more_speech_is_for_the_moments_alone(monkeypatch):
    heard = []
    monkeypatch.setattr(
        "shrinkml_env.compression.activation_aware.row_weights",
        lambda model, waveforms, *_: heard.append(len(waveforms)) or row_weights(model, waveforms, *_),
    )
    short = ActivationAwareSVD(LAS_MODEL, LAS_SPEECH[:1], weigh_rows=True)
    more = ActivationAwareSVD(LAS_MODEL, LAS_SPEECH[:1], weigh_rows=True, more=LAS_SPEECH[1:])
    assert heard == [1, 1]
    assert short.key != more.key
    name = "decoder.readout.weight"
    assert not torch.equal(short.factors(name, 2).u, more.factors(name, 2).u)
    alike = ActivationAwareSVD(LAS_MODEL, LAS_SPEECH[:1], more=LAS_SPEECH[1:])
    both = ActivationAwareSVD(LAS_MODEL, LAS_SPEECH)
    assert torch.equal(alike.factors(name, 2).u, both.factors(name, 2).u)
    assert alike.key == both.key
    # The same speech, but other row weights.
    assert more.key != ActivationAwareSVD(LAS_MODEL, LAS_SPEECH, weigh_rows=True).key


def test_row_weights_in_a_store_are_those_of_the_chosen_matrices(tmp_path):
    store = EvaluationCache(tmp_path / "cache.sqlite")
    name = "decoder.output.weight"
    ActivationAwareSVD(LAS_MODEL, LAS_SPEECH[:1], matrices=["decoder.readout.weight"], weigh_rows=True, store=store)
    kept, alone = (
        ActivationAwareSVD(LAS_MODEL, LAS_SPEECH[:1], matrices=[name], weigh_rows=True, store=where)
        for where in (store, None)
    )
    assert torch.equal(kept.row_weights[name], alone.row_weights[name])
    assert torch.equal(kept.factors(name, 2).u, alone.factors(name, 2).u)
