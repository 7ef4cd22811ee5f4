"""Multi-head attention with factored matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from shrinkml_env.compression.factors import Factors
from shrinkml_env.compression.modules.base import LowRank, vectors

__all__ = ["LowRankMultiheadAttention"]


class LowRankMultiheadAttention(LowRank, nn.MultiheadAttention):
    """`nn.MultiheadAttention` with factored input projections.

    If queries, keys and values have the same size, their projections are one matrix, (3 m, n), with one V. The output
    projection is a separate `Linear` module below this one.
    """

    kind = "linear"

    def __init__(self, module: nn.MultiheadAttention, factors: Mapping[str, Factors]) -> None:
        super().__init__(module, factors)
        # Disables the fused kernel of `nn.TransformerEncoderLayer`, which needs dense weights.
        self._qkv_same_embed_dim = False

    @staticmethod
    def matrix_kinds(module: nn.MultiheadAttention) -> dict[str, str]:
        """See `LowRank.matrix_kinds`; attention with `bias_k` or `add_zero_attn` stays dense."""
        if module.bias_k is not None or module.add_zero_attn:
            return {}
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        return {name: "linear" for name in names if getattr(module, name) is not None}

    @staticmethod
    def matrix_inputs(module: nn.MultiheadAttention, call: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`.

        The inputs of a joint matrix for queries, keys and values are those of its three parts, one after the other. The
        inputs of the output projection are included, since `nn.MultiheadAttention` applies it without calling it.
        """
        query, key, value = (vectors(call[name]) for name in ("query", "key", "value"))
        inputs = {"q_proj_weight": query, "k_proj_weight": key, "v_proj_weight": value}
        if module.in_proj_weight is not None:
            same = call["query"] is call["key"] is call["value"]
            inputs = {"in_proj_weight": query if same else torch.cat([query, key, value])}
        attention = LowRankMultiheadAttention(module, {})
        attention.out_proj = nn.Identity()  # type: ignore[assignment]
        attended, _ = attention.forward(**{**call, "need_weights": False})  # a call would run the hooks again
        return {**inputs, "out_proj.weight": vectors(attended)}

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute attention as `nn.MultiheadAttention` does; the hint `is_causal` is ignored, the mask is used."""
        if query.is_nested:  # from `nn.TransformerEncoder`, which packs padded batches and needs no weights
            alone = [self(part, part, part, need_weights=False)[0] for part in query.unbind()]
            return torch.nested.as_nested_tensor(alone), None
        if query.dim() == 2:
            query, key, value = _once(lambda part: part.unsqueeze(0), query, key, value)
            padding = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
            output, weights = self._attend(query, key, value, padding, attn_mask, need_weights, average_attn_weights)
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        if not self.batch_first:
            query, key, value = _once(lambda part: part.transpose(0, 1), query, key, value)
        output, weights = self._attend(
            query, key, value, key_padding_mask, attn_mask, need_weights, average_attn_weights
        )
        return output if self.batch_first else output.transpose(0, 1), weights

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        padding: Tensor | None,
        mask: Tensor | None,
        need_weights: bool,
        average: bool,
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v = (
            part.view(*part.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
            for part in self._project(query, key, value)
        )
        mask = _additive(mask, q.dtype)
        if mask is not None and mask.dim() == 3:
            mask = mask.view(-1, self.num_heads, *mask.shape[1:])
        if padding is not None:
            padding = _additive(padding, q.dtype)[:, None, None]  # type: ignore[index]
            mask = padding if mask is None else mask + padding
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(2, 3) / self.head_dim**0.5
            weights = F.dropout(torch.softmax(scores if mask is None else scores + mask, dim=3), dropout)
            attended = weights @ v
            weights = weights.mean(1) if average else weights
        else:
            attended = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), weights

    def _project(self, *inputs: Tensor) -> list[Tensor]:
        """Return the projected queries, keys and values, (batch, time, embed_dim) each."""
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        if self.execution == "merged":
            names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
            same = "in_proj_weight" in self.ranks
            weights = self.in_proj_weight.chunk(3) if same else [getattr(self, name) for name in names]
            return [F.linear(*part) for part in zip(inputs, weights, biases, strict=True)]
        if "in_proj_weight" in self.ranks:
            hidden = _once(lambda part: self._reduce("in_proj_weight", part), *inputs)
            parts = zip(hidden, self._factor("in_proj_weight", "u").chunk(3), biases, strict=True)
            return [F.linear(*part) for part in parts]
        together = self._parameters["in_proj_weight"]
        if together is not None:
            weights = together.chunk(3)
            return [F.linear(*part) for part in zip(inputs, weights, biases, strict=True)]
        projected = []
        for name, part, bias in zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), inputs, biases, strict=True):
            if name in self.ranks:
                part, weight = self._reduce(name, part), self._factor(name, "u")
            else:
                weight = getattr(self, name)
            projected.append(F.linear(part, weight, bias))
        return projected


def _once(function: Callable[[Tensor], Tensor], *inputs: Tensor) -> list[Tensor]:
    """Return the function's value for each input, computed once for inputs that are the same tensor."""
    found = {id(part): function(part) for part in {id(part): part for part in inputs}.values()}
    return [found[id(part)] for part in inputs]


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a mask in additive form: -inf where a boolean mask is True."""
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -torch.inf)
