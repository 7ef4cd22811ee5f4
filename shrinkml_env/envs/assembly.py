"""Construction of search problems and environments from names, mappings or finished objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from shrinkml_env.compression import Layer
from shrinkml_env.compression.factorisations import FACTORISATIONS
from shrinkml_env.envs.shrink import MaskableShrinkEnv, ShrinkEnv
from shrinkml_env.evaluation import Ledger
from shrinkml_env.evaluation.protocol import SupportsEvaluate
from shrinkml_env.mdp.actions import ACTIONS, ActionKind, MaskedActions
from shrinkml_env.mdp.constraints import CONSTRAINTS, Constraint
from shrinkml_env.mdp.observations import OBSERVATIONS, Observation
from shrinkml_env.mdp.problem import SearchProblem
from shrinkml_env.mdp.rewards import REWARDS, RewardFunction
from shrinkml_env.mdp.shaping import POTENTIALS, Potential
from shrinkml_env.registry import bind_options, resolve, resolve_for
from shrinkml_env.space.formation import SEARCH_SPACES
from shrinkml_env.space.level_spaces import LevelSpace
from shrinkml_env.space.search_space import SearchSpace

__all__ = [
    "PARTS",
    "PartKind",
    "assemble_env",
    "make_problem",
    "make_reward",
    "make_search_space",
    "require_known_parts",
    "search_space_maker",
]


class PartKind(NamedTuple):
    """A kind of part that is chosen by name.

    Attributes:
        registry: Name -> class or factory.
        base: The base class of parts that are bound to other objects, such as the problem, which are the arguments of
            its constructor; None for a kind whose parts are made of their options alone.
    """

    registry: Mapping[str, Callable[..., Any]]
    base: type | None = None

    @property
    def positional(self) -> int:
        """The number of leading arguments of a part that are not options."""
        return 0 if self.base is None else len(inspect.signature(self.base).parameters)


PARTS: Mapping[str, PartKind] = {
    "action": PartKind(ACTIONS, ActionKind),
    "observation": PartKind(OBSERVATIONS, Observation),
    "reward": PartKind(REWARDS),
    "constraint": PartKind(CONSTRAINTS, Constraint),
    "shaping": PartKind(POTENTIALS, Potential),
    "factorisation": PartKind(FACTORISATIONS),
    "search_space": PartKind(SEARCH_SPACES),
}
"""Argument of `make_env` -> the kind of part that it takes."""


def make_reward(spec: Any = "linear") -> RewardFunction:
    """Make a reward; `spec` as the argument `reward` of `make_env`."""
    return resolve("reward", REWARDS, spec, Callable)


def search_space_maker(spec: Any = "full") -> Callable[[Sequence[Layer]], SearchSpace] | LevelSpace:
    """Return the maker of a search space; `spec` as the argument `search_space` of `make_env`."""
    if isinstance(spec, SearchSpace):
        return lambda layers: spec
    return spec if isinstance(spec, LevelSpace) else resolve("search_space", SEARCH_SPACES, spec, Callable)


def make_search_space(evaluator: SupportsEvaluate, spec: Any = "full") -> SearchSpace:
    """Make the search space of an evaluator's layers; `spec` as the argument `search_space` of `make_env`."""
    maker = search_space_maker(spec)
    return maker.of(evaluator) if isinstance(maker, LevelSpace) else maker(evaluator.layers)


def require_known_parts(**specs: Any) -> None:
    """Check names and options of parts before anything is computed for them.

    Args:
        specs: Kind of part -> its specification: ``"action"``, ``"observation"``, ``"shaping"``, ``"constraint"`` or
            ``"search_space"``. What is neither a name nor a mapping is checked where it is used.

    Raises:
        ValueError: A name is unknown, or an option is unknown or missing.
    """
    for kind, spec in specs.items():
        if isinstance(spec, str | Mapping):
            bind_options(kind, PARTS[kind].registry, spec, PARTS[kind].positional)


def make_problem(
    evaluator: SupportsEvaluate,
    reward: Any = "linear",
    constraint: Any = "none",
    search_space: Any = "full",
    ledger: Any = None,
) -> SearchProblem:
    """Make a search problem with an evaluator; the other arguments are those of `make_env`."""
    if isinstance(ledger, Mapping):
        options = tuple(inspect.signature(Ledger).parameters)
        for key in sorted(set(ledger) - set(options)):
            raise ValueError(f"ledger has no option {key!r}; its options are {', '.join(options)}")
        ledger = Ledger(**ledger)
    elif not isinstance(ledger, Ledger | None):
        raise ValueError(f'ledger must be a mapping such as {{"budget": 200}}, a Ledger, or None, got {ledger!r}')
    space = make_search_space(evaluator, search_space)
    return SearchProblem(
        evaluator,
        space,
        make_reward(reward),
        resolve_for("constraint", CONSTRAINTS, constraint, Constraint, evaluator, space),
        ledger,
    )


def assemble_env(
    evaluator: SupportsEvaluate,
    action: Any = "continuous",
    observation: Any = "features",
    shaping: Any = "none",
    render_mode: str | None = None,
    **parts: Any,
) -> ShrinkEnv:
    """Make an environment with an evaluator; the other arguments are those of `make_env`.

    `parts` are passed to `make_problem`. The environment is a `MaskableShrinkEnv` if its actions have masks.
    """
    problem = make_problem(evaluator, **parts)
    try:
        actions = resolve_for("action", ACTIONS, action, ActionKind, problem)
        env = MaskableShrinkEnv if isinstance(actions, MaskedActions) else ShrinkEnv
        return env(
            problem,
            actions,
            resolve_for("observation", OBSERVATIONS, observation, Observation, problem),
            resolve_for("shaping", POTENTIALS, shaping, Potential, problem),
            render_mode,
        )
    except BaseException:
        problem.close()  # the ledger's file would stay locked as long as somebody looks at the error
        raise
