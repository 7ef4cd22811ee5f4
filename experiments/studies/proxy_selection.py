"""The selection of a study's proxy set, as `experiments.select_proxy` does it: its cell, its result and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from experiments.common.command_errors import given_by
from experiments.common.compose import compose_config
from experiments.common.results import Cell
from experiments.common.searches import BY_OWN_OPTIONS, check_undecided
from experiments.common.speech import calibrate_on
from experiments.select_proxy import select
from shrinkml_env import CompressibleModel
from shrinkml_env.compression.canonical import digest
from shrinkml_env.compression.store import model_content
from shrinkml_env.evaluation.intervals import Estimate

__all__ = ["Proxy", "Selection", "check_selection", "proxy_table", "selected", "selection_cell"]

SELECTED = "ranking"
"""The method that selects the proxy set, see `shrinkml_env.data.selection`."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A proxy set to select.

    Attributes:
        config: A config of `experiments.select_proxy` that asks for one size.
    """

    config: DictConfig


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy set that was selected.

    Attributes:
        ids: Its utterances.
        kendall: (group of models, method, (tau, low, high)) each: Kendall's tau, in [-1, 1], between the divergences on
            a set of this size, selected by the method, and on dev: the mean, and the bounds of its 95 % interval.
    """

    ids: Sequence[str]
    kendall: Sequence[tuple[str, str, tuple[float, ...]]]


def check_selection(overrides: Sequence[str]) -> None:
    """Check the overrides of `experiments.select_proxy` that select the proxy set.

    Raises:
        ValueError: One is wrong or of what the study decides, or they ask for several sizes.
    """
    check_undecided("selection", overrides, dict.fromkeys(("model", "pool", "dev"), BY_OWN_OPTIONS))
    with given_by("selection", "select_proxy", overrides):
        size, *others = compose_config("select_proxy", overrides).sizes
        if others:
            raise ValueError(f"sizes must be one, that of the proxy set, got {[size, *others]}")


def selection_cell(
    config: DictConfig,
    model: CompressibleModel,
    purposes: Mapping[str, Sequence[str]],
    speech: Mapping[str, Any],
) -> Cell[Selection]:
    """Return the cell that selects the proxy set.

    Args:
        config: The study's.
        model: The model.
        purposes: ``"calibration"``, ``"pool"`` and ``"dev"`` -> ids of utterances of the dev sets.
        speech: Purpose -> the same utterances, as `load_utterances` takes them.
    """

    def described(name: str, speech: Mapping[str, Any]) -> DictConfig:
        found = compose_config("select_proxy", config.selection)
        found.model, found.pool, found.dev = name, speech["pool"], speech["dev"]
        calibrate_on(found, speech["calibration"])
        return found

    content = described(digest(model_content(model)), {purpose: purpose for purpose in purposes})
    task = Selection(described(config.model, speech))
    return Cell(task, {"select": content, "speech": dict(purposes)}, {"selected": "proxy"})


def selected(task: Selection) -> dict[str, Any]:
    """Return the `Proxy` that a config of `experiments.select_proxy` selects, as JSON."""
    found = select(task.config)
    (ids,) = [ids for (method, _), ids in found.ids.items() if method == SELECTED]
    kendall = [(group, method, tuple(row.kendall)) for (group, method, _), row in found.fidelity.items()]
    return asdict(Proxy(ids, kendall))


def proxy_table(proxy: Proxy) -> pd.DataFrame:
    """Return a row for each group of models and method of selection: how well such a proxy set ranks them."""
    rows = [
        (group, method, str(len(proxy.ids)), str(Estimate(*map(float, values))))
        for group, method, values in proxy.kendall
    ]
    return pd.DataFrame(rows, columns=["models", "proxy set selected by", "utterances", "Kendall's tau with dev"])
