"""Construction of parts, search problems and environments from names, mappings or finished objects."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from shrinkml_env.compression import CompressibleModel, Factorisation, Layer
from shrinkml_env.compression.factorisations import FACTORISATIONS
from shrinkml_env.envs.shrink import MaskableShrinkEnv, ShrinkEnv
from shrinkml_env.evaluation import EvaluationCache, Ledger
from shrinkml_env.evaluation.protocol import SupportsEvaluate
from shrinkml_env.mdp.actions import ACTIONS, ActionKind, MaskedActions
from shrinkml_env.mdp.constraints import CONSTRAINTS, Constraint
from shrinkml_env.mdp.observations import OBSERVATIONS, Observation
from shrinkml_env.mdp.problem import SearchProblem
from shrinkml_env.mdp.rewards import REWARDS, RewardFunction
from shrinkml_env.mdp.shaping import POTENTIALS, Potential
from shrinkml_env.space.formation import SEARCH_SPACES
from shrinkml_env.space.level_spaces import LevelSpace
from shrinkml_env.space.search_space import SearchSpace

__all__ = [
    "assemble_env",
    "factorisation_maker",
    "make_factorisation",
    "make_problem",
    "make_reward",
    "make_search_space",
    "named",
    "require_known_parts",
    "resolve",
    "resolve_for",
    "search_space_maker",
]

T = TypeVar("T")

PARTS: Mapping[str, tuple[Mapping[str, Callable[..., Any]], int]] = {
    "action": (ACTIONS, 1),
    "observation": (OBSERVATIONS, 1),
    "shaping": (POTENTIALS, 1),
    "constraint": (CONSTRAINTS, 2),
    "search_space": (SEARCH_SPACES, 0),
}
"""Kind of part -> its registry, and how many arguments of a part are no options."""


def resolve(kind: str, registry: Mapping[str, Callable[..., T]], spec: Any, expected: Any) -> T:
    """Make a part from its specification.

    Args:
        kind: The kind of part, for error messages: ``"reward"``.
        registry: Name -> class or factory.
        spec: A name; a mapping with ``"name"`` and options; or a finished object, which is returned unchanged.
        expected: The type of a finished object.

    Raises:
        ValueError: The name is unknown, an option is unknown or missing, or the object has another type.
    """
    if isinstance(spec, str | Mapping):
        return named(kind, registry, spec, given=0)()
    if isinstance(spec, type) or not isinstance(spec, expected):
        got = f"the class {spec.__name__}: call it" if isinstance(spec, type) else f"{spec!r}"
        raise ValueError(
            f"{kind}: must be a name, a mapping with 'name' and options, or a finished {expected.__name__}, got {got}"
        )
    finished: T = spec
    return finished


def resolve_for(kind: str, registry: Mapping[str, Callable[..., T]], spec: Any, expected: Any, *subjects: Any) -> T:
    """Make a part that is bound to other objects, such as the actions of a search problem.

    Args:
        kind: The kind of part, for error messages: ``"action"``.
        registry: Name -> class; the subjects are its first arguments.
        spec: A name; a mapping with ``"name"`` and options; or a callable of the subjects that returns the part: a
            class, a function, or a `functools.partial` of one.
        expected: The base class of such parts.
        subjects: The objects that the part is bound to.

    Raises:
        ValueError: The name is unknown, an option is unknown or missing, or the part has another type.
    """
    if isinstance(spec, str | Mapping):
        return named(kind, registry, spec, given=len(subjects))(*subjects)
    maker = spec.func if isinstance(spec, functools.partial) else spec
    fits = issubclass(maker, expected) if isinstance(maker, type) else inspect.isroutine(maker)
    made = spec(*subjects) if fits else spec
    if not fits or not isinstance(made, expected):
        raise ValueError(
            f"{kind}: must be a name, a mapping with 'name' and options, or a class of {expected.__name__} (with "
            f"options: functools.partial of it), got {made!r}"
        )
    part: T = made
    return part


def named(
    kind: str, registry: Mapping[str, Callable[..., T]], spec: str | Mapping[Any, Any], given: int
) -> Callable[..., T]:
    """Return the registered class or factory of a name, with its options bound.

    Args:
        kind: The kind of part, for error messages: ``"reward"``.
        registry: Name -> class or factory.
        spec: A name, or a mapping with ``"name"`` and options.
        given: Number of leading positional arguments that are not options; the caller passes them later.

    Raises:
        ValueError: The name is unknown, or an option is unknown or missing.
    """
    options: dict[str, Any] = {"name": spec} if isinstance(spec, str) else {str(key): spec[key] for key in spec}
    name = options.pop("name", None)
    if name not in registry:
        known = ", ".join(sorted(registry))
        if name is None:
            raise ValueError(f"{kind}: {spec!r} lacks 'name'; known names: {known}")
        raise ValueError(f"{kind}: no {kind} is named {name!r}; known names: {known}")
    valid = dict([*inspect.signature(registry[name]).parameters.items()][given:])
    unknown = sorted(set(options) - set(valid))
    missing = [key for key, parameter in valid.items() if parameter.default is parameter.empty and key not in options]
    if unknown or missing:
        mistake = f"has no option {unknown[0]!r}" if unknown else f"needs the option {missing[0]!r}"
        raise ValueError(f"{kind} {name!r} {mistake}; its options are {', '.join(valid) or 'none'}")
    return functools.partial(registry[name], **options)


def factorisation_maker(spec: Any = "svd") -> Callable[..., Factorisation]:
    """Return what makes the factorisation of a model; `spec` as the argument `factorisation` of `make_env`."""
    return resolve("factorisation", FACTORISATIONS, spec, Callable)


def make_factorisation(
    model: CompressibleModel, spec: Any = "svd", cache: EvaluationCache | None = None
) -> Factorisation:
    """Make the factorisation of a model; `spec` as the argument `factorisation` of `make_env`.

    Args:
        model: The original.
        spec: What `make_env` takes.
        cache: Where the library's own methods keep what is slow to compute.
    """
    if isinstance(spec, Factorisation):
        return spec
    maker = factorisation_maker(spec)
    return maker(model, cache) if isinstance(spec, str | Mapping) else maker(model)


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
        registry, given = PARTS[kind]
        if isinstance(spec, str | Mapping):
            named(kind, registry, spec, given)


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
    actions = resolve_for("action", ACTIONS, action, ActionKind, problem)
    env = MaskableShrinkEnv if isinstance(actions, MaskedActions) else ShrinkEnv
    return env(
        problem,
        actions,
        resolve_for("observation", OBSERVATIONS, observation, Observation, problem),
        resolve_for("shaping", POTENTIALS, shaping, Potential, problem),
        render_mode,
    )
