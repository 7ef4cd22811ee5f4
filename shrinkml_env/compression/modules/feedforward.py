"""Linear maps, embeddings and convolutions with factored matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
        """As `nn.Linear`: (..., n) -> (..., m)."""
        if self.form == "merged":
            return F.linear(input, self.weight, self.bias)
        return F.linear(F.linear(input, self._factor("weight", "v")), self._factor("weight", "u"), self.bias)


class LowRankEmbedding(LowRank, nn.Embedding):
    """`nn.Embedding` as a look-up in U, (tokens, r), and a product with V, (r, dimension).

    Its kind is that of a linear map of one-hot vectors; where it is tied to an output layer both share the factors.
    """

    kind = "linear"

    @staticmethod
    def matrix_kinds(module: nn.Embedding) -> dict[str, str]:
        """See `LowRank.matrix_kinds`; one that rescales its rows at look-up (`max_norm`) stays dense."""
        return {"weight": "embedding"} if module.max_norm is None else {}

    @staticmethod
    def matrix_inputs(module: nn.Embedding, call: Mapping[str, Any], output: Tensor) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`."""
        return {"weight": call["input"].reshape(-1)}

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Embedding`: (...) integers -> (..., dimension)."""
        if self.form == "merged":
            return F.embedding(input, self.weight, self.padding_idx)
        return F.embedding(input, self._factor("weight", "u"), self.padding_idx) @ self._factor("weight", "v")


class LowRankConv1d(LowRank, nn.Conv1d):
    """`nn.Conv1d` as a convolution to r channels and a pointwise one; the matrix is (out, in * kernel)."""

    kind = "conv"

    @staticmethod
    def matrix_kinds(module: nn.Conv1d) -> dict[str, str]:
        """See `LowRank.matrix_kinds`; grouped convolutions and padding other than with zeros stay dense."""
        return {"weight": "conv"} if module.groups == 1 and module.padding_mode == "zeros" else {}

    @staticmethod
    def matrix_inputs(module: nn.Conv1d, call: Mapping[str, Any], output: Tensor) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`: the windows that the kernel sees, zeros of the padding included."""
        inputs = F.pad(call["input"], module._reversed_padding_repeated_twice)
        windows = inputs.unfold(-1, module.dilation[0] * (module.kernel_size[0] - 1) + 1, module.stride[0])
        # (..., in, time, window) -> (..., time, in, kernel)
        seen = windows[..., :: module.dilation[0]].transpose(-3, -2)
        return {"weight": seen.reshape(-1, module.in_channels * module.kernel_size[0])}

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Conv1d`: (batch, in, time) or (in, time)."""
        if self.form == "merged":
            return F.conv1d(input, self.weight, self.bias, self.stride, self.padding, self.dilation)
        reduce = self._factor("weight", "v").view(-1, *self._shapes["weight"][1:])
        expand = self._factor("weight", "u").unsqueeze(-1)
        hidden = F.conv1d(input, reduce, None, self.stride, self.padding, self.dilation)
        return F.conv1d(hidden, expand, self.bias)
