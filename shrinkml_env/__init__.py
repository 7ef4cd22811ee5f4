"""ShrinkML: compressing end-to-end speech recognisers as a reinforcement-learning problem.

Importing this package registers ``ShrinkML-v0``, ``ShrinkML-v1`` and their variants with Gymnasium.
"""

from shrinkml_env.asr import Recogniser, load_model
from shrinkml_env.compression import (
    CompressibleModel,
    Hypothesis,
    Layer,
    Workload,
    change_form,
    compress,
    count_parameters,
    decompress,
    encoder_parameters,
    kept_energy,
    load_compressed,
    optimise_for_inference,
    quantise,
    register_architecture,
    save_compressed,
)
from shrinkml_env.data import Utterance, load_utterances
from shrinkml_env.envs.registration import register_envs
from shrinkml_env.envs.shrink import ShrinkEnv
from shrinkml_env.envs.tabular import TabularEnv, VectorTabularEnv
from shrinkml_env.envs.vector import VectorShrinkEnv
from shrinkml_env.evaluation import (
    BudgetExhausted,
    Evaluation,
    EvaluationCache,
    Evaluator,
    Ledger,
    default_cache_path,
)
from shrinkml_env.mdp.problem import SearchProblem
from shrinkml_env.search import run_search
from shrinkml_env.search_result import SearchResult
from shrinkml_env.shrinking import shrink
from shrinkml_env.space.search_space import SearchSpace

__all__ = [
    "BudgetExhausted",
    "CompressibleModel",
    "Evaluation",
    "EvaluationCache",
    "Evaluator",
    "Hypothesis",
    "Layer",
    "Ledger",
    "Recogniser",
    "SearchProblem",
    "SearchResult",
    "SearchSpace",
    "ShrinkEnv",
    "TabularEnv",
    "Utterance",
    "VectorShrinkEnv",
    "VectorTabularEnv",
    "Workload",
    "change_form",
    "compress",
    "count_parameters",
    "decompress",
    "default_cache_path",
    "encoder_parameters",
    "kept_energy",
    "load_compressed",
    "load_model",
    "load_utterances",
    "optimise_for_inference",
    "quantise",
    "register_architecture",
    "run_search",
    "save_compressed",
    "shrink",
]

__version__ = "0.2.0"

register_envs()
