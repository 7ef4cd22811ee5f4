"""Evaluation of configurations, with a persistent cache and a ledger of the evaluations that a search has requested."""

from shrinkml_env.evaluation.activations import ActivationError
from shrinkml_env.evaluation.cache import EvaluationCache, default_cache_path
from shrinkml_env.evaluation.divergence import mean_divergence
from shrinkml_env.evaluation.evaluator import Evaluator, recognise_all
from shrinkml_env.evaluation.ledger import BudgetExhausted, Ledger
from shrinkml_env.evaluation.ledger_file import read_ledger
from shrinkml_env.evaluation.progress import ProgressBar
from shrinkml_env.evaluation.protocol import SupportsEvaluate
from shrinkml_env.evaluation.result import Counts, Evaluation, WordErrors
from shrinkml_env.evaluation.wer import count_errors, word_edits

__all__ = [
    "ActivationError",
    "BudgetExhausted",
    "Counts",
    "Evaluation",
    "EvaluationCache",
    "Evaluator",
    "Ledger",
    "ProgressBar",
    "SupportsEvaluate",
    "WordErrors",
    "count_errors",
    "default_cache_path",
    "mean_divergence",
    "read_ledger",
    "recognise_all",
    "word_edits",
]
