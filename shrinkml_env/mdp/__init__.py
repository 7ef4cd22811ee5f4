"""The parts of the decision process, one concept a module, and the search problem that they make up."""

from shrinkml_env.mdp.actions import ActionKind, MaskedActions, Wish
from shrinkml_env.mdp.constraints import Constraint
from shrinkml_env.mdp.observations import Observation
from shrinkml_env.mdp.problem import SearchProblem, Trial
from shrinkml_env.mdp.rewards import Reward, RewardFunction
from shrinkml_env.mdp.shaping import Potential

__all__ = [
    "ActionKind",
    "Constraint",
    "MaskedActions",
    "Observation",
    "Potential",
    "Reward",
    "RewardFunction",
    "SearchProblem",
    "Trial",
    "Wish",
]
