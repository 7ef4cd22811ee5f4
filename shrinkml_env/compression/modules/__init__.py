"""Low-rank modules, which hold some of their matrices as factors, and the registry of module types they replace.

To support another module type, write its `LowRank` class and enter it in `LOW_RANK_MODULES`.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from shrinkml_env.compression.layers import Matrix
from shrinkml_env.compression.modules.attention import LowRankMultiheadAttention
from shrinkml_env.compression.modules.base import RESERVED, Execution, LowRank, named_matrices, take_over
from shrinkml_env.compression.modules.feedforward import LowRankConv1d, LowRankEmbedding, LowRankLinear
from shrinkml_env.compression.modules.recurrent import (
    LowRankGRU,
    LowRankGRUCell,
    LowRankLSTM,
    LowRankLSTMCell,
    lstm_cell,
)

__all__ = [
    "LOW_RANK_MODULES",
    "Execution",
    "LowRank",
    "LowRankConv1d",
    "LowRankEmbedding",
    "LowRankGRU",
    "LowRankGRUCell",
    "LowRankLSTM",
    "LowRankLSTMCell",
    "LowRankLinear",
    "LowRankMultiheadAttention",
    "lstm_cell",
    "module_kind",
    "module_matrices",
    "take_over",
    "why_dense",
]

LOW_RANK_MODULES: dict[type[nn.Module], type[LowRank]] = {
    nn.Linear: LowRankLinear,
    NonDynamicallyQuantizableLinear: LowRankLinear,  # The output projection of `nn.MultiheadAttention`.
    nn.Embedding: LowRankEmbedding,
    nn.MultiheadAttention: LowRankMultiheadAttention,
    nn.Conv1d: LowRankConv1d,
    nn.LSTM: LowRankLSTM,
    nn.LSTMCell: LowRankLSTMCell,
    nn.GRU: LowRankGRU,
    nn.GRUCell: LowRankGRUCell,
}
"""Module type -> its low-rank class. Subclasses are not replaced, since they may compute something else."""


def module_kind(module: nn.Module) -> str | None:
    """Return the `Layer.kind` of a module or low-rank module; None if its type cannot be compressed."""
    low_rank = type(module) if isinstance(module, LowRank) else LOW_RANK_MODULES.get(type(module))
    return None if low_rank is None else low_rank.kind


def module_matrices(module: nn.Module) -> tuple[Matrix, ...]:
    """Return the matrices of a module that can be factored, or that a low-rank module replaces, named by parameter."""
    if isinstance(module, LowRank):
        return module.matrices
    low_rank = LOW_RANK_MODULES.get(type(module))
    if low_rank is None or why_dense(module) is not None:
        return ()
    return named_matrices(module, low_rank.matrix_kinds(module))


def why_dense(module: nn.Module) -> str | None:
    """Return the reason why a module of a compressible type must stay dense; None if it can be compressed."""
    parametrized = parametrize.is_parametrized(module)
    # Torch derives a class for each parametrized module.
    low_rank = LOW_RANK_MODULES.get(type(module).__bases__[0] if parametrized else type(module))
    kinds = {} if low_rank is None else low_rank.matrix_kinds(module)
    if not kinds:
        return None
    if parametrized:
        computed = list(cast(nn.ModuleDict, module.parametrizations))
    else:
        computed = [name for name in kinds if module._parameters.get(name) is None]
        computed += [name for name, value in vars(module).items() if "bias" in name and isinstance(value, Tensor)]
    if computed:
        return f"its {' and '.join(computed)} is computed from other parameters (a normalisation, a mask ...)"
    names = [*vars(module), *module._parameters, *module._buffers, *module._modules]
    replaced = [name for name in vars(module) if callable(getattr(type(module), name, None))]
    if replaced:
        return f"it has a method {replaced[0]!r} of its own"
    taken = RESERVED.union(f"{name}_{suffix}" for name in kinds for suffix in ("u", "v", "order")).intersection(names)
    return f"it has an attribute {min(taken)!r}, a name that its low-rank form needs" if taken else None
