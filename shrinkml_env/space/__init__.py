"""Search spaces: candidates of every layer, sensitivities of single layers, and tables of measured configurations."""

from shrinkml_env.space.search_space import SearchSpace, uniform_ranks
from shrinkml_env.space.sensitivity import LayerCurve, Sensitivity
from shrinkml_env.space.table import Table, TableEvaluator

__all__ = ["LayerCurve", "SearchSpace", "Sensitivity", "Table", "TableEvaluator", "uniform_ranks"]
