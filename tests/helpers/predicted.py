"""A prediction for models that have no gradients."""

from __future__ import annotations

import numpy as np

from shrinkml_env import SearchProblem
from shrinkml_env.space.prediction import Prediction


def predict_evenly(_agent: object, problem: SearchProblem) -> Prediction:
    """In place of `ClosedForm.prediction`: the damage falls evenly with the rank, in every matrix alike."""
    matrices = [matrix for layer in problem.layers for matrix in layer.matrices]
    return Prediction({matrix.name: np.linspace(1.0, 0.0, matrix.max_rank + 1) for matrix in matrices})
