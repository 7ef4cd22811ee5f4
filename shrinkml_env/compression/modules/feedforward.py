"""Linear maps, embeddings and convolutions with factored matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from shrinkml_env.compression.modules.base import LowRank, vectors

__all__ = ["LowRankConv1d", "LowRankEmbedding", "LowRankLinear"]


class LowRankLinear(LowRank, nn.Linear):
    """`nn.Linear` as y = U (V x) + b."""

    kind = "linear"

    @staticmethod
    def matrix_kinds(module: nn.Linear) -> dict[str, str]:
        """See `LowRank.matrix_kinds`."""
        return {"weight": "linear"}

    @staticmethod
    def matrix_inputs(module: nn.Linear, call: Mapping[str, Any], output: Tensor) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`."""
        return {"weight": vectors(call["input"])}

    def forward(self, input: Tensor) -> Tensor:
        """Compute (..., n) -> (..., m), as `nn.Linear` does."""
        if self.execution == "merged":
            return F.linear(input, self.weight, self.bias)
        return F.linear(self._reduce("weight", input), self._factor("weight", "u"), self.bias)


class LowRankEmbedding(LowRank, nn.Embedding):
    """`nn.Embedding` as a look-up in U, (tokens, r), and a product with V, (r, dimension).

    It counts as a linear map of one-hot vectors. An embedding that is tied to an output layer shares its factors.
    """

    kind = "linear"

    @staticmethod
    def matrix_kinds(module: nn.Embedding) -> dict[str, str]:
        """See `LowRank.matrix_kinds`; an embedding with `max_norm`, which rescales rows at look-up, stays dense."""
        return {"weight": "embedding"} if module.max_norm is None else {}

    @staticmethod
    def matrix_inputs(module: nn.Embedding, call: Mapping[str, Any], output: Tensor) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`."""
        return {"weight": call["input"].reshape(-1)}

    def forward(self, input: Tensor) -> Tensor:
        """Look rows up: (...) integers -> (..., dimension), as `nn.Embedding` does."""
        if self.execution == "merged":
            return F.embedding(input, self.weight, self.padding_idx)
        found = F.embedding(input, self._factor("weight", "u"), self.padding_idx)
        _, v, order = self.factors("weight")
        if order is None:
            return found @ v
        # In pivoting form a row of U is a part of the matrix's row.
        return torch.cat([found, found @ v], dim=-1).index_select(-1, order.argsort())


class LowRankConv1d(LowRank, nn.Conv1d):
    """`nn.Conv1d` as a convolution to r channels followed by a pointwise one; the matrix is (out, in * kernel)."""

    kind = "conv"

    @staticmethod
    def matrix_kinds(module: nn.Conv1d) -> dict[str, str]:
        """See `LowRank.matrix_kinds`; grouped convolutions and padding other than with zeros stay dense."""
        return {"weight": "conv"} if module.groups == 1 and module.padding_mode == "zeros" else {}

    @staticmethod
    def matrix_inputs(module: nn.Conv1d, call: Mapping[str, Any], output: Tensor) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`: the windows that the kernel sees, zeros of the padding included."""
        return {"weight": vectors(_windows(module, call["input"]))}

    def forward(self, input: Tensor) -> Tensor:
        """Compute the convolution of inputs (batch, in, time) or (in, time), as `nn.Conv1d` does."""
        if self.execution == "merged":
            return F.conv1d(input, self.weight, self.bias, self.stride, self.padding, self.dilation)
        _, v, order = self.factors("weight")
        if order is not None:  # in pivoting form V is not the kernel of a convolution
            hidden = self._reduce("weight", _windows(self, input))
            return F.linear(hidden, self._factor("weight", "u"), self.bias).transpose(-1, -2)
        reduce = v.view(-1, *self._shapes["weight"][1:])
        expand = self._factor("weight", "u").unsqueeze(-1)
        hidden = F.conv1d(input, reduce, None, self.stride, self.padding, self.dilation)
        return F.conv1d(hidden, expand, self.bias)


def _windows(module: nn.Conv1d, input: Tensor) -> Tensor:
    """Return the windows that a kernel sees, zeros of the padding included: (..., in, time) -> (..., time', n)."""
    inputs = F.pad(input, module._reversed_padding_repeated_twice)
    windows = inputs.unfold(-1, module.dilation[0] * (module.kernel_size[0] - 1) + 1, module.stride[0])
    # (..., in, time', window) -> (..., time', in, kernel)
    return windows[..., :: module.dilation[0]].transpose(-3, -2).flatten(-2)
