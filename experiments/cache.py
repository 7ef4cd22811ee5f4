"""Show, prune or export the evaluation cache: ``python -m experiments.cache command=show|prune|export``.

``show`` lists its measurements; ``prune days=30 subject=TEXT`` deletes measurements that are older and whose subject
contains the text; ``export file=FILE`` writes all as CSV. ``path=FILE`` selects another cache than the default one.
"""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.kinds import NAME, TEXT, choice, number, optional
from shrinkml_env import EvaluationCache
from shrinkml_env.text_table import format_table


def show(cache: EvaluationCache) -> None:
    """Print a table of the cache with one line for each model, utterance set and factorisation."""
    rows = [(found.subject, str(found.measurements), _day(found.first), _day(found.last)) for found in cache.summary()]
    print(format_table(pd.DataFrame(rows, columns=["measured", "configurations", "first", "last"])))
    print(f"{len(cache)} measurements, {cache.path.stat().st_size / 1e6:.1f} MB: {cache.path}")


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


@command(
    "cache",
    command=choice("show", "prune", "export"),
    path=optional(NAME),
    days=optional(number(least=0)),
    subject=TEXT,
    file=NAME,
)
def main(config: DictConfig) -> None:
    """Show, prune or export the cache."""
    if config.command == "prune" and config.days is None and not config.subject:
        raise ValueError("say what to delete: days=N for all that is older, subject=TEXT, or both")
    cache = EvaluationCache(config.path)
    if config.command == "show":
        show(cache)
    elif config.command == "prune":
        before = float("inf") if config.days is None else time.time() - 86_400 * config.days
        print(f"{cache.prune(before, config.subject)} measurements deleted")
    else:
        with open(Path(config.file), "w", newline="") as file:
            print(f"{cache.export(file)} measurements: {config.file}")


if __name__ == "__main__":
    main()
