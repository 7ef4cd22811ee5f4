"""A compressed model for Hugging Face's transformers, which runs this file where ``trust_remote_code=True``.

ShrinkML puts it beside the weights that it exports, with the model's class at its end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

VARIANT = "shrinkml"
"""In the name of the weights' file: where this code is not run, transformers finds no weights, and says so."""


class LowRank(nn.Module):
    """Stands in for a module: its matrix ``weight``, (m, n), is ``weight_u`` (m, r) times ``weight_v`` (r, n)."""

    weight_u: Tensor
    weight_v: Tensor
    stride: Any
    padding: Any
    dilation: Any

    def __init__(self, module: Any, rank: int) -> None:
        super().__init__()
        self.shape = module.weight.shape
        for name in "in_features", "out_features", "embedding_dim", "num_embeddings", "stride", "padding", "dilation":
            setattr(self, name, getattr(module, name, None))
        like: Any = {"dtype": module.weight.dtype, "device": module.weight.device}
        self.weight_u = nn.Parameter(torch.zeros(len(module.weight), rank, **like))
        self.weight_v = nn.Parameter(torch.zeros(rank, module.weight[0].numel(), **like))
        self.bias = getattr(module, "bias", None)

    @property
    def weight(self) -> Tensor:
        """The product, as others may want to look at it."""
        return (self.weight_u @ self.weight_v).view(self.shape)


class LowRankLinear(LowRank):
    """Of `nn.Linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., n) -> (..., m)."""
        return functional.linear(functional.linear(input, self.weight_v), self.weight_u, self.bias)


class LowRankEmbedding(LowRank):
    """Of `nn.Embedding`."""

    def forward(self, input: Tensor) -> Tensor:
        """(...) tokens -> (..., n)."""
        return functional.embedding(input, self.weight_u) @ self.weight_v


class LowRankConv1d(LowRank):
    """Of `nn.Conv1d`."""

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, time) -> (batch, channels, time)."""
        reduce = self.weight_v.view(-1, *self.shape[1:])
        hidden = functional.conv1d(input, reduce, None, self.stride, self.padding, self.dilation)
        return functional.conv1d(hidden, self.weight_u.unsqueeze(-1), self.bias)


FORMS: dict[type[nn.Module], type[LowRank]] = {
    nn.Linear: LowRankLinear,
    nn.Embedding: LowRankEmbedding,
    nn.Conv1d: LowRankConv1d,
}


class Compressed(nn.Module):
    """To be derived from before one of transformers' models; ``config.shrinkml_ranks``: module -> rank."""

    _keys_to_ignore_on_load_missing = ("masked_spec_embed",)  # Of use in training only; not kept.

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        model: Any = self
        for module in list(model.modules()):
            for name in list(getattr(module, "parametrizations", ())):  # Weight normalisation is multiplied out.
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        for path, rank in config.shrinkml_ranks.items():
            module = model.get_submodule(path)
            model.set_submodule(path, FORMS[type(module)](module, rank))
        model._tied_weights_keys = {
            f"{tied}{part}": f"{source}{part}"
            for tied, source in (model._tied_weights_keys or {}).items()
            for part in (("_u", "_v") if tied.removesuffix(".weight") in config.shrinkml_ranks else ("",))
        }
        model.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As transformers' own."""
        parent: Any = super()
        return parent.from_pretrained(*args, **{"variant": VARIANT, **kwargs})

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As transformers' own."""
        parent: Any = super()
        parent.save_pretrained(*args, **{"variant": VARIANT, **kwargs})
