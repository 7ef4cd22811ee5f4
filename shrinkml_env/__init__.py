"""ShrinkML: compressing end-to-end speech recognisers as a reinforcement-learning problem.

Importing this package registers ``ShrinkML-v0`` with Gymnasium.
"""

from shrinkml_env.asr import Recogniser, load_model
from shrinkml_env.compression import (
    CompressibleModel,
    Hypothesis,
    Layer,
    Workload,
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
from shrinkml_env.env import ShrinkEnv
from shrinkml_env.evaluation import (
    BudgetExhausted,
    Evaluation,
    EvaluationCache,
    Evaluator,
    Ledger,
    default_cache_path,
)
from shrinkml_env.problem import SearchProblem
from shrinkml_env.registration import register_envs
from shrinkml_env.search_space import SearchSpace
from shrinkml_env.tabular import TabularEnv, VectorTabularEnv
from shrinkml_env.vector import VectorShrinkEnv

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
    "SearchSpace",
    "ShrinkEnv",
    "TabularEnv",
    "Utterance",
    "VectorShrinkEnv",
    "VectorTabularEnv",
    "Workload",
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
    "save_compressed",
]

register_envs()
