"""Modules that hold some of their matrices as two factors, and the table of the module types that can be compressed.

To support another module type, write its `LowRank` class and enter it in `LOW_RANK_MODULES`.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from shrinkml_env.compression.layers import Matrix
from shrinkml_env.compression.modules.attention import LowRankMultiheadAttention
from shrinkml_env.compression.modules.base import Form, LowRank, named_matrices
from shrinkml_env.compression.modules.feedforward import LowRankConv1d, LowRankEmbedding, LowRankLinear
from shrinkml_env.compression.modules.recurrent import LowRankGRU, LowRankGRUCell, LowRankLSTM, LowRankLSTMCell

__all__ = [
    "LOW_RANK_MODULES",
    "Form",
    "LowRank",
    "LowRankConv1d",
    "LowRankEmbedding",
    "LowRankGRU",
    "LowRankGRUCell",
    "LowRankLSTM",
    "LowRankLSTMCell",
    "LowRankLinear",
    "LowRankMultiheadAttention",
    "module_kind",
    "module_matrices",
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
"""Module type -> what replaces it. Exactly these types: a subclass may compute something else."""


def module_kind(module: nn.Module) -> str | None:
    """The `Layer.kind` of a module, or of what it replaces; None if its type cannot be compressed."""
    low_rank = type(module) if isinstance(module, LowRank) else LOW_RANK_MODULES.get(type(module))
    return None if low_rank is None else low_rank.kind


def module_matrices(module: nn.Module) -> tuple[Matrix, ...]:
    """The matrices of one module, or of the one it replaces, named by parameter; empty if there are none to factor."""
    if isinstance(module, LowRank):
        return module.matrices
    low_rank = LOW_RANK_MODULES.get(type(module))
    return () if low_rank is None else named_matrices(module, low_rank.matrix_kinds(module))
