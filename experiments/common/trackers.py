"""Experiment trackers: Weights & Biases and MLflow, which get every evaluation while a search runs."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shrinkml_env import Evaluation, SearchProblem, SearchResult
from shrinkml_env.sb3 import Scores

__all__ = ["TRACKERS", "require_tracker", "tracked"]

PROJECT = "shrinkml"
"""The project of Weights & Biases, and the experiment of MLflow, that runs belong to."""


class Tracker(ABC):
    """A run of an experiment tracker. Where the data goes is set by the tracker's own environment variables.

    Args:
        package: The tracker's Python package.
        title: Name of the run.
        directory: The folder of the search, for files of the tracker's own.
        settings: What the search is made of, as texts.
    """

    @abstractmethod
    def __init__(self, package: Any, title: str, directory: Path, settings: Mapping[str, str]) -> None: ...

    @abstractmethod
    def record(self, values: Mapping[str, float], count: int) -> None:
        """Record the values of an evaluation; `count` is the number of unique evaluations with it."""

    @abstractmethod
    def conclude(self, values: Mapping[str, float]) -> None:
        """Record the result of the search."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """End the run."""


class WandbTracker(Tracker):
    """A run of Weights & Biases."""

    def __init__(self, package: Any, title: str, directory: Path, settings: Mapping[str, str]) -> None:
        self._run = package.init(project=PROJECT, name=title, dir=str(directory), config=dict(settings))
        self._run.define_metric("evaluation/*", step_metric="evaluation/count")

    def record(self, values: Mapping[str, float], count: int) -> None:
        """See `Tracker.record`."""
        self._run.log({**values, "evaluation/count": count})

    def conclude(self, values: Mapping[str, float]) -> None:
        """See `Tracker.conclude`."""
        self._run.summary.update(dict(values))

    def close(self, failed: bool) -> None:
        """See `Tracker.close`."""
        self._run.finish(exit_code=int(failed))


class MlflowTracker(Tracker):
    """A run of MLflow."""

    def __init__(self, package: Any, title: str, directory: Path, settings: Mapping[str, str]) -> None:
        self._client = package.MlflowClient()
        # Unlike the client's methods, this one is for several processes that begin at once.
        number = package.set_experiment(PROJECT).experiment_id
        self._run = self._client.create_run(number, run_name=title).info.run_id
        for name, value in settings.items():
            self._client.log_param(self._run, name, value)

    def record(self, values: Mapping[str, float], count: int) -> None:
        """See `Tracker.record`."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=count)

    def conclude(self, values: Mapping[str, float]) -> None:
        """See `Tracker.conclude`."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value)

    def close(self, failed: bool) -> None:
        """See `Tracker.close`."""
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


TRACKERS: Mapping[str, Callable[[Any, str, Path, Mapping[str, str]], Tracker]] = {
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
}
"""Name, which is that of the package and of the extra -> tracker."""


def require_tracker(name: str) -> Any:
    """Import a tracker's package, and return it.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"logger={name} needs the package {name}: pip install -c constraints.txt -e '.[{name}]'"
        ) from error


@contextmanager
def tracked(
    name: str | None, title: str, directory: Path, settings: Mapping[str, str], problem: SearchProblem
) -> Iterator[Callable[[SearchResult], None]]:
    """Send every new evaluation of a search to a tracker, within the context.

    A search that is resumed repeats its evaluations, and so begins a new run, which has all of them.

    Args:
        name: A key of `TRACKERS`; None tracks nothing.
        title: Name of the run.
        directory: The folder of the search.
        settings: What the search is made of, as texts.
        problem: The search problem.

    Yields:
        A function that takes the result of the search.
    """
    if name is None:
        yield lambda result: None
        return
    tracker, scores = TRACKERS[name](require_tracker(name), title, directory, settings), Scores(problem)

    def observe(evaluation: Evaluation, count: int) -> None:
        tracker.record({f"evaluation/{score}": value for score, value in scores(evaluation).items()}, count)

    def conclude(result: SearchResult) -> None:
        wers = {f"result/{part}_wer": wer for part, wer in result.wer.items()}
        tracker.conclude({"result/size_ratio": result.size_ratio, **wers})

    problem.ledger.subscribe(observe)
    failed = True
    try:
        yield conclude
        failed = False
    finally:
        problem.ledger.unsubscribe(observe)
        tracker.close(failed)
