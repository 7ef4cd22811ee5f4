"""Policies and searchers: they see the Gymnasium API or a `SearchProblem`, and call documented functions."""

from agents.amc import AMC
from agents.closed_form import ClosedForm
from agents.controller import Controller
from agents.curves import EnergyCurve, ProfileCurve, UniformRank
from agents.greedy import GreedySearch
from agents.knapsack import KnapsackSearch
from agents.lite_asr import LiteASR
from agents.middle import MiddleAction
from agents.model_based import ModelBasedSearch
from agents.optuna_search import OptunaSearch
from agents.random_search import RandomSearch
from agents.rules import RankRule

__all__ = [
    "AMC",
    "ClosedForm",
    "Controller",
    "EnergyCurve",
    "GreedySearch",
    "KnapsackSearch",
    "LiteASR",
    "MiddleAction",
    "ModelBasedSearch",
    "OptunaSearch",
    "ProfileCurve",
    "RandomSearch",
    "RankRule",
    "UniformRank",
]
