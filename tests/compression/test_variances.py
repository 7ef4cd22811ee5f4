from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from shrinkml_env.compression import output_variances
from shrinkml_env.compression.layers import arrange_layers
from tests.helpers.around import Around, Tied, assert_same, random


def variances(outputs: Tensor) -> Tensor:
    """The squared singular values of (positions, m) without their mean, over the positions."""
    centred = outputs.detach().double() - outputs.detach().double().mean(0)
    return torch.linalg.svdvals(centred).square() / len(outputs)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_variances_of_outputs(shape):
    """By the definition, whatever the bias."""
    module, inputs = nn.Linear(*shape), random(40, shape[0]) + 3
    ((name, found),) = output_variances(Around(module), [inputs], Around(module).layers).items()
    assert name == "module.weight"
    assert_same(found, variances(module(inputs))[:5])
    assert (found[:-1] >= found[1:]).all()


def test_variances_of_what_is_looked_up():
    """Rows that are looked up 2 + 1, 1 + 1 and 1 times: as often as the frequencies say."""
    module = nn.Embedding(3, 2)
    (found,) = output_variances(Around(module), [torch.tensor([0, 1, 0])], Around(module).layers).values()
    assert_same(found, variances(module.weight[[0, 0, 0, 1, 1, 2]]))


def test_variances_of_what_is_looked_up_and_multiplied():
    model, hidden = Tied(), random(30, 6)
    (found,) = output_variances(Around(model), [(torch.arange(20), hidden)], Around(model).layers).values()
    # A look-up adds white inputs: the vectors to which all rows are outputs alike.
    white = torch.linalg.cholesky(variance_of(hidden) + torch.eye(6).double() / 30)
    assert_same(found, torch.linalg.svdvals(model.embedding.weight.detach().double() @ white).square())


def variance_of(vectors: Tensor) -> Tensor:
    centred = vectors.double() - vectors.double().mean(0)
    return centred.T @ centred / len(vectors)


def test_variances_of_what_is_not_used():
    model = Around(nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 2)]))
    model.module.forward = model.module[0].forward
    found = output_variances(model, [random(9, 3)], model.layers)["module.1.weight"]
    assert_same(found, torch.linalg.svdvals(model.module[1].weight.detach().double()).square())


def test_variances_of_a_stack():
    """Matrices with the same inputs have the variances of their outputs side by side."""
    module, inputs = nn.LSTM(4, 3, bidirectional=True), random(30, 4)
    layers = arrange_layers(Around(module).layers, "factors", [("module.weight_ih_l0", "module.weight_ih_l0_reverse")])
    found = output_variances(Around(module), [inputs], layers)
    (name,) = [matrix.name for layer in layers for matrix in layer.matrices if matrix.parts]
    both = torch.cat([module.weight_ih_l0, module.weight_ih_l0_reverse])
    assert_same(found[name], variances(inputs @ both.T)[:4])
