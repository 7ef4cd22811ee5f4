"""The space that is searched: candidates of every layer, what each layer costs alone, and tables of everything."""

from shrinkml_env.space.search_space import SearchSpace, uniform_ranks
from shrinkml_env.space.sensitivity import LayerCurve, Sensitivity
from shrinkml_env.space.table import Table, TableEvaluator

__all__ = ["LayerCurve", "SearchSpace", "Sensitivity", "Table", "TableEvaluator", "uniform_ranks"]
