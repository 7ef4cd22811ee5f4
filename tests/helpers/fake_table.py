"""A small table: every measurement of the fake evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from shrinkml_env.space.formation import Explicit
from shrinkml_env.space.table import SETS, Table
from tests.helpers.fake_evaluator import OTHER_MACS, FakeEvaluator, linear, lstm

LAYERS = (linear("first", 32, 27, "conv"), lstm("second", 64, 32), linear("third", 100, 64))
CANDIDATES = {"first": [2, 7, 14], "second": [5, 20], "third": [3, 10, 39]}
LIVE = FakeEvaluator(LAYERS)


def make_table(candidates: Mapping[str, Sequence[int]] = CANDIDATES) -> Table:
    """Return a table of all that `LIVE` measures; on dev and test it lacks most."""
    space = Explicit(candidates)(LAYERS)
    table = Table(
        model="fake",
        blocks={layer.name: [layer.name] for layer in LAYERS},
        layers=LAYERS,
        candidates=space.candidates,
        singular_values={name: values.numpy() for name, values in LIVE.singular_values.items()},
        original_params=LIVE.params({}),
        # The fake model counts 100 multiply-adds for each of its parameters.
        positions={subset: {matrix.name: 100 for layer in LAYERS for matrix in layer.matrices} for subset in SETS},
        other_macs=dict.fromkeys(SETS, OTHER_MACS),
        utterances={subset: subset for subset in SETS},
        words=dict.fromkeys(SETS, 640),
        edits={},
        capped={},
    )
    measured = [LIVE.evaluate(ranks) for ranks in table.configurations()]
    edits = np.array([sum(evaluation.edits) for evaluation in measured])
    few = np.where(np.arange(len(edits)) % 5 == 0, edits, -1)
    few[-1] = edits[-1]
    capped = np.zeros_like(edits)
    return replace(table, edits={"proxy": edits, "dev": few, "test": few}, capped=dict.fromkeys(SETS, capped))


TABLE = make_table()
