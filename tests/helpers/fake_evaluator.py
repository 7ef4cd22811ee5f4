"""An evaluator without speech: real layers and counts, and a WER that is a plain function of the ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from shrinkml_env.compression.layers import Layer, Matrix, canonical_ranks
from shrinkml_env.data import Utterance
from shrinkml_env.envs.assembly import assemble_env
from shrinkml_env.envs.shrink import ShrinkEnv
from shrinkml_env.evaluation.result import Evaluation

OTHER_PARAMS = 500
OTHER_MACS = 10_000
WORDS = (10,) * 64


def lstm(name: str, hidden: int, inputs: int) -> Layer:
    return Layer(
        name,
        "lstm",
        (
            Matrix(f"{name}.weight_ih_l0", 4 * hidden, inputs, "lstm_ih"),
            Matrix(f"{name}.weight_hh_l0", 4 * hidden, hidden, "lstm_hh"),
        ),
    )


def linear(name: str, rows: int, columns: int, kind: str = "linear") -> Layer:
    return Layer(name, kind, (Matrix(f"{name}.weight", rows, columns, kind),))


LAYERS = (
    linear("frontend", 32, 27, "conv"),
    lstm("encoder.0", 64, 32),
    lstm("encoder.1", 64, 48),
    linear("gate", 1, 40),  # no rank makes it smaller
    linear("bridge", 12, 9),  # break-even below 24: fewer candidates
    linear("output", 100, 64),
)


class FakeEvaluator:
    """Every layer below half its break-even rank adds edits, so that even the WER may exceed 1.

    `divergence` measures one as well, which grows with the WER.
    `lookups` (layer name -> rows looked up) makes an embedding of a layer: factored, each row costs rn multiply-adds.
    """

    factorisation_name = "svd"
    num_utterances = len(WORDS)

    def __init__(
        self,
        layers: tuple[Layer, ...] = LAYERS,
        base_edits: int = 20,
        lookups: Mapping[str, int] = MappingProxyType({}),
        divergence: bool = False,
    ) -> None:
        self.layers = layers
        self.lookups = dict(lookups)
        self.divergence = divergence
        self.base_edits = base_edits
        self.measured: list[dict[str, int]] = []
        self.singular_values: Mapping[str, Tensor] = {
            matrix.name: torch.exp(-torch.arange(matrix.max_rank) / 8.0)
            for layer in layers
            for matrix in layer.matrices
        }
        self.baseline = self._evaluation(canonical_ranks(layers, {}))

    @property
    def key(self) -> str:
        return repr((self.layers, self.base_edits))

    def evaluate(self, ranks: Mapping[str, int]) -> Evaluation:
        complete = canonical_ranks(self.layers, ranks)
        self.measured.append(complete)
        return self._evaluation(complete)

    def evaluate_many(self, configurations: Sequence[Mapping[str, int]]) -> list[Evaluation]:
        return [self.evaluate(ranks) for ranks in configurations]

    def on(self, utterances: Sequence[Utterance]) -> FakeEvaluator:
        """The same function of the ranks, whatever the utterances."""
        return type(self)(self.layers, self.base_edits, self.lookups, self.divergence)

    def params(self, ranks: Mapping[str, int]) -> int:
        complete = canonical_ranks(self.layers, ranks)
        return OTHER_PARAMS + sum(layer.parameters(complete[layer.name]) for layer in self.layers)

    def size_ratio(self, ranks: Mapping[str, int]) -> float:
        return self.params(ranks) / self.params({})

    def macs(self, ranks: Mapping[str, int]) -> int:
        complete = canonical_ranks(self.layers, ranks)
        looked_up = sum(
            self.lookups.get(layer.name, 0) * matrix.columns * complete[layer.name]
            for layer in self.layers
            for matrix in layer.matrices
            if matrix.is_factored(complete[layer.name])
        )
        return OTHER_MACS + 100 * (self.params(ranks) - OTHER_PARAMS) + looked_up

    def activation_error(self, ranks: Mapping[str, int]) -> float:
        """Grows with every layer that is cut, most for the last."""
        complete = canonical_ranks(self.layers, ranks)
        cut = [1 - complete[layer.name] / layer.max_rank for layer in self.layers if layer.name in ranks]
        return sum(cut) / 4 + (cut[-1] if cut else 0.0)

    def close(self) -> None:
        """Nothing was started."""

    def _evaluation(self, ranks: Mapping[str, int]) -> Evaluation:
        edits = [self.base_edits // 64 + (index < self.base_edits % 64) for index in range(64)]
        for number, layer in enumerate(self.layers):
            missing = layer.break_even // 2 - ranks[layer.name]
            for index in range(max(0, missing) * (number + 1)):
                edits[(7 * index) % 64] += 1
        return Evaluation(
            ranks=dict(ranks),
            edits=tuple(edits),
            words=WORDS,
            params=self.params(ranks),
            size_ratio=self.size_ratio(ranks),
            macs=self.macs(ranks),
            capped=0,
            divergence=(sum(edits) - self.base_edits) / sum(WORDS) if self.divergence else None,
        )


class Deaf(FakeEvaluator):
    """Every word is wrong, whatever the ranks: only the divergence tells them apart."""

    def _evaluation(self, ranks: dict[str, int]) -> Evaluation:
        return replace(super()._evaluation(ranks), edits=WORDS)


def make_fake_env(action: object = "continuous", evaluator: FakeEvaluator | None = None, **parts: object) -> ShrinkEnv:
    """An environment on the fake evaluator; `parts` are arguments of `assemble_env`."""
    return assemble_env(evaluator or FakeEvaluator(), action=action, **parts)
