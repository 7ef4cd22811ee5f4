"""The goal of `experiments.compress`, a size or a loss of accuracy, and the search that suits it."""

from __future__ import annotations

from collections.abc import Set

from omegaconf import DictConfig, open_dict

from experiments.common.check import check_search_config
from experiments.common.compose import compose_config, option_of, to_container
from experiments.common.parts import activation_aware, part
from experiments.common.speech import calibrate_on
from shrinkml_env import CompressibleModel, SearchProblem, SearchResult
from shrinkml_env.compression import PredictiveModel, arrange_layers, compressed_parameters
from shrinkml_env.compression.counting import parameters_at
from shrinkml_env.compression.layers import group_layers
from shrinkml_env.envs.assembly import search_space_maker
from shrinkml_env.space.level_spaces import LevelSpace

__all__ = [
    "HALVINGS",
    "STEP_FINALISTS",
    "compose_search",
    "goal",
    "goal_overrides",
    "require_in_space",
    "require_reachable",
    "smallest_size",
    "verdict",
]

STEP_FINALISTS = 5
"""Configurations of each of the searches for a size that are compared on dev, at most."""

HALVINGS = 4
"""Number of times that the range of sizes is halved to find the smallest size with an allowed loss."""

PASSED_ON = ("budget", "seed", "device", "workers", "memory_mb", "imports")
"""Options of `experiments.compress` that are passed on to its search."""

OWN = {
    **{name: f"{name}=" for name in ("model", "outputs", *PASSED_ON)},
    **dict.fromkeys(("proxy", "dev", "test"), "data= and utterances="),
    "constraint.budget": "target_size= and max_wer_increase=",
}
"""Option of the search -> the options of `experiments.compress` that decide it."""


def goal(config: DictConfig) -> str:
    """Return the goal as it is given, ``target_size=0.5`` or ``max_wer_increase=0.5``.

    Raises:
        ValueError: None or both are given, or the budget is too small for the goal.
    """
    goals = {name: config[name] for name in ("target_size", "max_wer_increase") if config[name] is not None}
    if len(goals) != 1:
        how_many = f"{' and '.join(f'{name}={value:g}' for name, value in goals.items()) or 'neither'} is given"
        raise ValueError(
            "give either target_size=0.5 (of the parameters) or max_wer_increase=0.5 (points of WER): "
            f"{how_many.replace(' is', ' are') if goals else how_many}"
        )
    ((name, value),) = goals.items()
    if name == "max_wer_increase" and config.budget < 2 * HALVINGS:
        raise ValueError(f"budget must be at least {2 * HALVINGS} where the size is looked for, got {config.budget}")
    return f"{name}={value:g}"


def goal_overrides(config: DictConfig, model: CompressibleModel) -> list[str]:
    """Return the overrides of conf/search.yaml that suit goal and model; docs/compress-your-model.md says why."""
    predicts = isinstance(model, PredictiveModel)
    overrides = [
        "factorisation=pivoting",
        "granularity=matrix",
        "agent=model_based",
        f"reward={'divergence' if predicts else 'accuracy'}",
        "constraint=check",
        # Where only the WER is given, the size is looked for.
        f"constraint.budget={config.target_size or 0.5}",
        "finalists=10",
    ]
    if predicts and "search_space" not in named_by(config):
        overrides.append("search_space=allocated")
    return overrides


def named_by(config: DictConfig) -> set[str]:
    """Return the options of the search that the overrides of `experiments.compress` name."""
    return {option_of(override) for override in config.overrides}


def require_reachable(target: float | None, search: DictConfig, model: CompressibleModel) -> float:
    """Check, before the search space exists, that a size can be reached, and return a lower bound of all sizes.

    Raises:
        ValueError: The size is below that bound.
    """
    shared = search.factorisation.get("share_inputs", False)
    # Which matrices share a right factor is known with the factors; at most those of a layer with as many columns do.
    groups = _equally_wide(model) if shared else ()
    arranged = arrange_layers(model.layers, search.factorisation.get("form", "factors"), groups)
    layers = group_layers(arranged, to_container(search.granularity), to_container(search.dense))
    maker = search_space_maker(part("search_space", search.search_space))
    least = "rank 1"
    if isinstance(maker, LevelSpace) or shared:
        # The candidates are not known before the factors are; no layer can have less than rank 1.
        ranks = {layer.name: 1 for layer in layers if layer.break_even}
    else:
        space = maker(layers)
        layers, ranks, least = space.layers, space.smallest, "its smallest candidate"
    original = compressed_parameters(model, {})
    smallest = parameters_at(original, layers, ranks) / original
    if target is not None and target < smallest:
        raise ValueError(
            f"target_size={target:g} is out of reach: with every layer at {least} {smallest:.3f} of the parameters are "
            "left"
        )
    return smallest


def _equally_wide(model: CompressibleModel) -> list[list[str]]:
    """Return the names of the matrices of each layer that have as many columns, two or more."""
    groups: dict[tuple[str, int], list[str]] = {}
    for layer in model.layers:
        for matrix in layer.matrices:
            groups.setdefault((layer.name, matrix.columns), []).append(matrix.name)
    return [group for group in groups.values() if len(group) > 1]


def smallest_size(problem: SearchProblem) -> float:
    """Return the size ratio of a problem's smallest configuration."""
    return problem.size(problem.search_space.smallest)


def require_in_space(target: float | None, problem: SearchProblem) -> None:
    """Check that the search space has a configuration of a size.

    Raises:
        ValueError: It has none.
    """
    smallest = smallest_size(problem)
    if target is not None and target < smallest:
        raise ValueError(
            f"target_size={target:g} is out of reach: the search space's smallest configuration has {smallest:.3f} of "
            "the parameters: give at least that, or overrides=['search_space=full'], which begins with smaller ranks"
        )


def compose_search(config: DictConfig, model: CompressibleModel) -> DictConfig:
    """Return the config of the search, on the embedded sets, as ``experiments.search`` takes it.

    Raises:
        ValueError: An override changes what this command decides, or the search's config is wrong.
    """
    for override in config.overrides:
        name = option_of(override)
        if name in OWN:
            raise ValueError(f"{override}: {name} is decided by this command's options {OWN[name]}")
        if name == "constraint" and override.partition("=")[2] == "none":
            raise ValueError(f"{override}: the goal is a limit; choose a constraint that has one")
    search = compose_config("search", [*goal_overrides(config, model), *config.overrides])
    usual = compose_config("search")
    for name in ("proxy", "dev", "test"):
        if search[name] != usual[name]:
            raise ValueError(f"overrides set {name}={search[name]}, which is decided by this command's {OWN[name]}")
    if search.constraint.get("resource", "size") != "size":
        raise ValueError(
            f"constraint.resource={search.constraint.resource}: the goal is a share of the parameters; "
            "experiments.search limits either"
        )
    search.model = config.model
    chosen = {"factorisation", "factorisation.weigh_rows"} & named_by(config)
    if not chosen and not isinstance(model, PredictiveModel):
        search.factorisation.weigh_rows = False  # Rows are weighed by gradients of the transcripts' probability.
    with open_dict(search):
        if "rules" in search.agent and "agent.rules" not in named_by(config):
            # What they give is among what is chosen from: with many layers, few plans are as good.
            closed_form = [{"_target_": "agents.ClosedForm", "rounds": 2}] if isinstance(model, PredictiveModel) else []
            search.agent.rules = [*closed_form, {"_target_": "agents.UniformRank"}]
    share_predictions(search, named_by(config))
    for key in PASSED_ON:
        search[key] = config[key]
    check_search_config(search)
    return search


def share_predictions(search: DictConfig, named: Set[str]) -> None:
    """Let search space and rules use one prediction, from the speech of the factors, unless overrides say otherwise.

    Args:
        search: A config of `experiments.search`; it is changed.
        named: The options that overrides name.
    """
    factors = activation_aware(search.factorisation)
    kept = {group: search[group].calibration for group in ("search_space", "agent") if f"{group}.calibration" in named}
    calibrate_on(search, "calibration-large" if factors is None else factors.calibration)
    for group, speech in kept.items():
        search[group].calibration = speech
    if "draws" in search.search_space and "search_space.draws" not in named:
        search.search_space.draws = 1  # as the closed form has it, which is among the rules


def verdict(config: DictConfig, result: SearchResult) -> str:
    """Say whether what was asked for is reached, and how sure that is."""
    if config.target_size is not None:
        reached = result.size_ratio <= config.target_size
        return f"Asked for at most {config.target_size:g} of the size: {'reached' if reached else 'NOT REACHED'}."
    low, high = 100 * result.wer_increase.low, 100 * result.wer_increase.high
    allowed = config.max_wer_increase
    if result.wer_increase.value * 100 > allowed:
        found = "NOT REACHED on test"
    else:
        found = "reached on test" if high <= allowed else "reached on test, but not for certain"
    return (
        f"Asked for a WER increase of at most {allowed:g} points: {found}, where the 95 % interval is "
        f"[{low:+.2f}, {high:+.2f}]."
    )
