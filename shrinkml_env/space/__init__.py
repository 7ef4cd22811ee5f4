"""Search spaces: candidates of every layer, what they lose, and tables of measured configurations.

What they lose is measured for single layers (`Sensitivity`), or predicted from gradients (`Prediction`), which gives
ranks in closed form.
"""

from shrinkml_env.space.allocation import Choices, allocate, largest_within
from shrinkml_env.space.closed_form import choices_of, least_damage
from shrinkml_env.space.prediction import Prediction, predict_for
from shrinkml_env.space.search_space import SearchSpace, uniform_ranks
from shrinkml_env.space.sensitivity import LayerCurve, Sensitivity
from shrinkml_env.space.table import Table, TableEvaluator

__all__ = [
    "Choices",
    "LayerCurve",
    "Prediction",
    "SearchSpace",
    "Sensitivity",
    "Table",
    "TableEvaluator",
    "allocate",
    "choices_of",
    "largest_within",
    "least_damage",
    "predict_for",
    "uniform_ranks",
]
