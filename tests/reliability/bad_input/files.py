"""Files that are damaged, or something else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import leaderboard, summary, validate
from tests.reliability.bad_input.case import Case
from tests.reliability.bad_input.measurements import (
    CACHES,
    LEDGERS,
    MEASUREMENTS,
    RESULTS,
    SENSITIVITIES,
    TABLES,
    cache,
    cached,
    ledger,
    results,
    sensitivity,
    table,
)
from tests.reliability.bad_input.models import CONFIGS, HUGGINGFACE, LAS_CONFIGS, TENSORS, huggingface, las, model
from tests.reliability.bad_input.runs import (
    AGENTS,
    CHECKPOINTS,
    IDENTITIES,
    RANKS_FILES,
    RECORDS,
    REFUSED,
    SUBMISSIONS,
    TRAINING_RECORDS,
    agent,
    checkpoint,
    record,
    refusals,
    resumed,
    training_record,
)
from tests.reliability.bad_input.speech import IDS, SPEECH, ids, speech

__all__ = ["CASES"]


def cases(subject: str, rows: list[tuple[str, str, Any]], act: Callable[..., object], *first: Any) -> list[Case]:
    return [Case(subject, given, message, functools.partial(act, *first, spoil)) for given, message, spoil in rows]


def readme(folder: Path) -> object:
    path = folder / "README.md"
    path.write_text("# Mine\n")
    return summary.table(path)


CASES = [
    *cases("saved models", [*CONFIGS, *TENSORS], model),
    *cases("saved models", LAS_CONFIGS, las),
    *cases("saved models", HUGGINGFACE, huggingface),
    *cases("ledgers", LEDGERS, ledger),
    *cases("evaluation caches", CACHES, cache),
    *(Case("evaluation caches", given, message, cached(value)) for given, value, message in MEASUREMENTS),
    *cases("tables", TABLES, table),
    *cases("sensitivities", SENSITIVITIES, sensitivity),
    *cases("folders of searches", IDENTITIES, resumed),
    *cases("results of studies", RESULTS, results),
    Case(
        "best.json of a run",
        "summary outputs=README.md",
        r"outputs must be a folder of runs, got the file",
        readme,
    ),
    *cases(
        "best.json of a run",
        RECORDS,
        record,
        lambda path: summary.table(path.parents[1]) and validate.validate(path.parent),
    ),
    *cases("validate ranks=FILE", RANKS_FILES, record, validate.validate_ranks),
    *cases("leaderboard submissions", SUBMISSIONS, record, leaderboard.refusals),
    *cases("leaderboard submissions", REFUSED, record, refusals),
    *cases("result.json of a fine-tuning", TRAINING_RECORDS, training_record),
    *cases("checkpoints of a training", CHECKPOINTS, checkpoint),
    *(
        Case(
            "saved agents", f"{name}: {given}", f"agent was not saved by {name}", functools.partial(agent, name, spoil)
        )
        for name in ("RandomSearch", "Controller")
        for given, spoil in AGENTS
    ),
    *cases("speech", SPEECH, speech),
    *(Case("speech", given, message, functools.partial(ids, content)) for given, content, message in IDS),
]
