"""Policies and searchers: they see only the Gymnasium API or a `SearchProblem`."""

from agents.random_search import RandomSearch
from agents.uniform import UniformRank

__all__ = ["RandomSearch", "UniformRank"]
