"""Code of compressed models for Hugging Face's transformers, which runs this file if ``trust_remote_code=True``.

ShrinkML copies it beside the weights that it exports, and appends the model's class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

VARIANT = "shrinkml"
"""Part of the name of the weights' file; without this code transformers finds no weights and raises an error."""


class LowRank(nn.Module):
    """A replacement of a module whose matrix ``weight``, (m, n), is the product of ``weight_u``, (m, r), and V, (r, n).

    V is ``weight_v``. In pivoting form it is an identity matrix and ``weight_v``, (r, n - r), side by side, with the
    columns permuted by ``weight_order``, (n,). A module that shares another one's ``weight_v`` has none of its own.
    """

    weight_u: Tensor
    weight_order: Tensor | None
    stride: Any
    padding: Any
    dilation: Any

    def __init__(self, module: Any, rank: int, pivoting: bool, source: LowRank | None) -> None:
        super().__init__()
        self.shape = module.weight.shape
        for name in "in_features", "out_features", "embedding_dim", "num_embeddings", "stride", "padding", "dilation":
            setattr(self, name, getattr(module, name, None))
        like: Any = {"dtype": module.weight.dtype, "device": module.weight.device}
        self.weight_u = nn.Parameter(torch.zeros(len(module.weight), rank, **like))
        columns = module.weight[0].numel()
        # In a list, so that it is not registered as a submodule.
        self.source = [] if source is None else [source]
        if source is None:
            self.weight_v = nn.Parameter(torch.zeros(rank, columns - rank if pivoting else columns, **like))
        small = torch.int16 if columns <= torch.iinfo(torch.int16).max else torch.int32
        order = torch.arange(columns, dtype=small, device=module.weight.device) if pivoting else None
        self.register_buffer("weight_order", order)
        self.bias = getattr(module, "bias", None)

    @property
    def weight(self) -> Tensor:
        """The product of the factors, in the shape of the original weight."""
        return (self.weight_u @ self.right).view(self.shape)

    @property
    def right(self) -> Tensor:
        """The right factor V, (r, n)."""
        held = self.held
        if self.weight_order is None:
            return held
        identity = torch.eye(len(held), dtype=held.dtype, device=held.device)
        return torch.cat([identity, held], dim=1).index_select(1, self.weight_order.argsort())

    @property
    def held(self) -> Tensor:
        """The ``weight_v`` of this module, or of the one that it is shared with."""
        held: Tensor = self.source[0].weight_v if self.source else self.weight_v
        return held

    def reduce(self, inputs: Tensor) -> Tensor:
        """Return V x for each input x: (..., n) -> (..., r)."""
        if self.weight_order is None:
            return functional.linear(inputs, self.held)
        ordered = inputs.index_select(-1, self.weight_order.int())
        rank = len(self.held)
        return ordered[..., :rank] + functional.linear(ordered[..., rank:], self.held)


class LowRankLinear(LowRank):
    """A replacement of `nn.Linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Compute (..., n) -> (..., m)."""
        return functional.linear(self.reduce(input), self.weight_u, self.bias)


class LowRankEmbedding(LowRank):
    """A replacement of `nn.Embedding`."""

    def forward(self, input: Tensor) -> Tensor:
        """Look tokens up: (...) -> (..., n)."""
        return functional.embedding(input, self.weight_u) @ self.right


class LowRankConv1d(LowRank):
    """A replacement of `nn.Conv1d`."""

    def forward(self, input: Tensor) -> Tensor:
        """Compute (batch, channels in, time) -> (batch, channels out, time)."""
        reduce = self.right.view(-1, *self.shape[1:])
        hidden = functional.conv1d(input, reduce, None, self.stride, self.padding, self.dilation)
        return functional.conv1d(hidden, self.weight_u.unsqueeze(-1), self.bias)


FORMS: dict[type[nn.Module], type[LowRank]] = {
    nn.Linear: LowRankLinear,
    nn.Embedding: LowRankEmbedding,
    nn.Conv1d: LowRankConv1d,
}


class Compressed(nn.Module):
    """A mixin for a transformers model, to be placed before it among the base classes.

    ``config.shrinkml_ranks`` maps modules to ranks, ``config.shrinkml_pivoting`` says whether the factors are in
    pivoting form, and ``config.shrinkml_sources`` maps a module to the one that stores its right factor.
    """

    _keys_to_ignore_on_load_missing = ("masked_spec_embed",)  # used in training only, and not exported

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        model: Any = self
        for module in list(model.modules()):
            for name in list(getattr(module, "parametrizations", ())):  # weight normalisation is exported as a weight
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        sources = config.shrinkml_sources
        # Modules that store a shared factor come first.
        for path in sorted(config.shrinkml_ranks, key=lambda path: path in sources):
            module = model.get_submodule(path)
            source = model.get_submodule(sources[path]) if path in sources else None
            rank = config.shrinkml_ranks[path]
            model.set_submodule(path, FORMS[type(module)](module, rank, config.shrinkml_pivoting, source))
        model._tied_weights_keys = {
            f"{tied}{part}": f"{source}{part}"
            for tied, source in (model._tied_weights_keys or {}).items()
            for part in (("_u", "_v") if tied.removesuffix(".weight") in config.shrinkml_ranks else ("",))
        }
        model.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does, from the weights' file of `VARIANT`."""
        parent: Any = super()
        return parent.from_pretrained(*args, **{"variant": VARIANT, **kwargs})

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save as transformers does, to a weights' file of `VARIANT`."""
        parent: Any = super()
        parent.save_pretrained(*args, **{"variant": VARIANT, **kwargs})
