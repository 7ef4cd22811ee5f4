"""The environments: the Markov decision process, its tabular and vector forms, and their registration."""

from shrinkml_env.envs.assembly import assemble_env, make_problem
from shrinkml_env.envs.registration import make_env, make_tabular_env, make_vector_env, make_vector_tabular_env
from shrinkml_env.envs.shrink import MaskableShrinkEnv, ShrinkEnv
from shrinkml_env.envs.tabular import MaskableTabularEnv, MaskableVectorTabularEnv, TabularEnv, VectorTabularEnv
from shrinkml_env.envs.vector import MaskableVectorShrinkEnv, VectorShrinkEnv

__all__ = [
    "MaskableShrinkEnv",
    "MaskableTabularEnv",
    "MaskableVectorShrinkEnv",
    "MaskableVectorTabularEnv",
    "ShrinkEnv",
    "TabularEnv",
    "VectorShrinkEnv",
    "VectorTabularEnv",
    "assemble_env",
    "make_env",
    "make_problem",
    "make_tabular_env",
    "make_vector_env",
    "make_vector_tabular_env",
]
