"""A model around a module, whose inputs are what calibration looks at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shrinkml_env.compression import find_layers


class Around(nn.Module):
    """A model that only runs a module: each "waveform" is its input, or a tuple of them."""

    storage_dtype = torch.float32

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.eval()

    @property
    def layers(self):
        return find_layers(self)

    def recognise(self, waveforms):
        with torch.inference_mode():
            for inputs in waveforms:
                self.module(*inputs) if type(inputs) is tuple else self.module(inputs)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.output = nn.Linear(6, 20, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor, hidden: Tensor) -> None:
        self.embedding(tokens)
        self.output(hidden)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
