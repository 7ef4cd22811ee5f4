"""The parts of the Markov decision process, one concept a module, and the search problem that they form."""

from shrinkml_env.mdp.actions import ActionKind, MaskedActions, RankRequest
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
    "RankRequest",
    "Reward",
    "RewardFunction",
    "SearchProblem",
    "Trial",
]
