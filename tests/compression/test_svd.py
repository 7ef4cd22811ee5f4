from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shrinkml_env.compression import SVD, Factorisation, find_layers
from tests.helpers.models import TinyCTC


class OneMatrix(nn.Module):
    """y = W x."""

    storage_dtype = torch.float32

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.linear.weight.data = weight

    @property
    def layers(self):
        return find_layers(self)


def matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@given(st.integers(3, 24), st.integers(3, 24), st.integers(0, 99), st.data())
@settings(deadline=None)
def test_squared_error_is_the_sum_of_the_dropped_squares(rows, columns, seed, data):
    weight = matrix(rows, columns, seed)
    svd = SVD(OneMatrix(weight))
    rank = data.draw(st.integers(1, min(rows, columns)))
    u, v, _ = svd.factors("linear.weight", rank)
    values = svd.singular_values["linear.weight"]
    assert (u.shape, v.shape) == ((rows, rank), (rank, columns))
    torch.testing.assert_close(values, torch.linalg.svdvals(weight.double()))
    error = (weight - u @ v).double().square().sum()
    torch.testing.assert_close(error, values[rank:].square().sum(), rtol=1e-4, atol=1e-8)


def test_factors_of_a_smaller_rank_are_the_first_of_a_larger_one():
    svd = SVD(OneMatrix(matrix(9, 7, 0)))
    small, large = svd.factors("linear.weight", 2), svd.factors("linear.weight", 5)
    assert torch.equal(small.u, large.u[:, :2])
    assert torch.equal(small.v, large.v[:2])
    assert small.u.is_contiguous()


def test_both_factors_carry_the_root_of_the_singular_value():
    svd = SVD(OneMatrix(matrix(9, 7, 0)))
    u, v, _ = svd.factors("linear.weight", 7)
    values = svd.singular_values["linear.weight"].float()
    torch.testing.assert_close(u.square().sum(0), values)
    torch.testing.assert_close(v.square().sum(1), values)


def test_the_sign_is_fixed():
    weight = matrix(9, 7, 0)
    u, *_ = SVD(OneMatrix(weight)).factors("linear.weight", 7)
    assert (u.gather(0, u.abs().argmax(0, keepdim=True)) > 0).all()


def test_factors_are_representable_in_the_storage_format():
    model = TinyCTC()
    svd = SVD(model)
    for layer in model.layers:
        for part in layer.matrices:
            for factor in svd.factors(part.name, 3)[:2]:
                assert factor.dtype == torch.float32
                assert torch.equal(factor, factor.half().float())


def test_convolution_is_out_by_in_times_kernel():
    model = TinyCTC()
    svd = SVD(model, ["front.weight"])
    u, v, _ = svd.factors("front.weight", 32)
    assert (u.shape, v.shape) == ((32, 32), (32, 200))
    torch.testing.assert_close((u @ v).view(32, 40, 5), model.front.weight.detach(), atol=1e-3, rtol=0)


def test_factors_are_copies():
    svd = SVD(OneMatrix(matrix(9, 7, 0)))
    for factor in svd.factors("linear.weight", 7)[:2]:
        factor.zero_()
    assert all(factor.any() for factor in svd.factors("linear.weight", 7)[:2])


def test_key_names_the_method_and_the_number_format():
    svd: Factorisation = SVD(TinyCTC(), [])
    assert (svd.name, svd.key) == ("svd", "svd-float16")


def test_errors_name_the_matrix():
    with pytest.raises(ValueError, match=r"'nothing\.weight'"):
        SVD(TinyCTC(), ["nothing.weight"])
    svd = SVD(OneMatrix(matrix(9, 7, 0)))
    with pytest.raises(ValueError, match=r"'nothing\.weight'"):
        svd.factors("nothing.weight", 1)
    for rank in 0, 8:
        with pytest.raises(ValueError, match=r"linear\.weight.* 1\.\.7"):
            svd.factors("linear.weight", rank)
    with pytest.raises(ValueError, match=r"linear\.weight.* NaN"):
        SVD(OneMatrix(torch.full((4, 4), torch.nan)))
