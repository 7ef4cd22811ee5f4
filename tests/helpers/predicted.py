"""What agents take from a model, for problems that have none."""

from __future__ import annotations

import numpy as np
import pytest

from agents import ClosedForm, LiteASR
from shrinkml_env import SearchProblem
from shrinkml_env.space.prediction import Prediction


def do_without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `ClosedForm` predict that damage falls evenly with the rank, and `LiteASR` look at the singular values."""
    monkeypatch.setattr(ClosedForm, "prediction", _predict_evenly)
    monkeypatch.setattr(LiteASR, "_deviations", lambda _, problem: problem.evaluator.singular_values)


def _predict_evenly(_agent: object, problem: SearchProblem) -> Prediction:
    matrices = [matrix for layer in problem.layers for matrix in layer.matrices]
    return Prediction({matrix.name: np.linspace(1.0, 0.0, matrix.max_rank + 1) for matrix in matrices})
