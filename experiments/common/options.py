"""The kinds of all commands' options; options of the same name have the same kind in all commands.

A command that needs another kind for a name declares it: ``command("iterate", sizes=...)``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.common.compose import CONF, choices_in, to_container
from experiments.common.kinds import (
    DEVICE,
    FLAG,
    GRANULARITY,
    NAME,
    SEED,
    SHARE,
    UTTERANCES,
    Kind,
    MappingKind,
    choice,
    list_of,
    mapping_of,
    mapping_with,
    number,
    optional,
    whole,
)
from experiments.common.parts import GROUPS, check_part
from experiments.common.trackers import TRACKERS

__all__ = [
    "AGENT",
    "COMPARED",
    "OPTIONS",
    "OVERRIDES",
    "REWARD",
    "check_options",
    "check_removals",
    "nearest",
    "with_new_keys",
]

AGENT = choice(*choices_in(CONF / "agent"))
REWARD = choice(*choices_in(CONF / "reward"))
FRACTION = number(least=0, most=1)
OVERRIDES = list_of(NAME, least=0)

COMPARED = {"agent": AGENT, "reward": REWARD, "budget": whole(1), "overrides": OVERRIDES, "seeds": whole(1)}
"""Options of a search that a study compares."""

OPTIONS: dict[str, Kind] = {
    "agents": list_of(AGENT),
    "budget": whole(1),
    "by_hand": list_of(NAME, least=0),
    "comparison.agents": mapping_of(mapping_with({**COMPARED, "sizes": list_of(SHARE)}, needed=("overrides", "seeds"))),
    "comparison.by_hand": list_of(NAME, least=0),
    "comparison.frozen": mapping_of(NAME),
    "comparison.name": NAME,
    "comparison.pairs": list_of(list_of(NAME, least=2), least=0),
    "comparison.rules": mapping_of(mapping_with({"agent": AGENT, "overrides": OVERRIDES})),
    "comparison.sizes": list_of(SHARE),
    "data.download": FLAG,
    "data.root": NAME,
    "data.subset": Kind(
        "the name of a subset or a list of several",
        "subsets",
        lambda value: NAME.fits(value) or list_of(NAME).fits(value),
    ),
    **{f"data.{name}": UTTERANCES for name in ("train", "pool", "proxy", "measured", "dev", "test")},
    "dense": list_of(NAME, least=0),
    "dev": UTTERANCES,
    "device": DEVICE,
    "distillation.states": number(least=0),
    "distillation.teacher": NAME,
    "distillation.temperature": number(above=0),
    "distillation.weight": FRACTION,
    "dropout": number(least=0, below=1),
    "finalists": whole(1),
    "granularity": GRANULARITY,
    "imports": list_of(NAME, least=0),
    "logger": optional(choice(*TRACKERS)),
    "memory_mb": whole(0),
    "model": NAME,
    "num_envs": whole(1),
    "objective.ctc_weight": FRACTION,
    "objective.label_smoothing": number(least=0, below=1),
    "original": NAME,
    "outputs": NAME,
    "overrides": OVERRIDES,
    "pool": UTTERANCES,
    "proxy": UTTERANCES,
    "reuse": FLAG,
    "rules": list_of(AGENT, least=0),
    "seed": SEED,
    "seeds": whole(1),
    "size": SHARE,
    "sizes": list_of(SHARE),
    "stepwise.rule": AGENT,
    "stepwise.sizes": list_of(list_of(SHARE), least=0),
    "test": UTTERANCES,
    "threads": whole(1),
    "trust": FLAG,
    "training.accumulate": whole(1),
    "training.batch_seconds": number(above=0),
    "training.checkpoint_steps": whole(1),
    "training.clip": number(above=0),
    "training.epochs": number(above=0),
    "training.first_epoch": number(least=0),
    "training.learning_rate": number(above=0),
    "training.random_history": FRACTION,
    "training.random_splits": FRACTION,
    "training.seed": SEED,
    "training.warm_up": FRACTION,
    "training.weight_decay": number(least=0),
    "training.workers": whole(0),
    "augmentation.noise": FRACTION,
    "augmentation.reverberation": FRACTION,
    "architecture.name": NAME,
    "architecture.vocabulary_size": whole(1),
    "decoding.beam_size": whole(1),
    "uniform_curve": FLAG,
    "utterances.dev": whole(1),
    "utterances.proxy-pool": whole(1),
    "utterances.test": whole(1),
    "workers": whole(1),
}
"""Dotted name -> kind, for all commands that do not declare another one."""


def check_options(config: DictConfig, own: Mapping[str, Kind] | None = None) -> None:
    """Check every option of a config before the command runs.

    Args:
        config: A command's composed config; options without a value are skipped.
        own: Option -> kind, for options that `OPTIONS` lacks or that have another kind here.

    Raises:
        ValueError: An option has a value of another kind, the options of a part do not fit it, or an option is unknown.
            The message names the first wrong option.
    """
    _check(config, "", {**OPTIONS, **(own or {})})


def _check(config: DictConfig, prefix: str, kinds: Mapping[str, Kind]) -> None:
    for key in config:
        name = f"{prefix}{key!s}"
        if OmegaConf.is_missing(config, key):
            continue
        value = config[key]
        if name in kinds:
            kinds[name].require(name, to_container(value))
        elif is_part(name, value):
            check_part(name, value)
            for option, kind in kinds.items():
                inner = option.removeprefix(f"{name}.")
                if inner != option and inner in value:
                    kind.require(option, to_container(value[inner]))
        elif isinstance(value, DictConfig) and _has_options(name, kinds):
            _check(value, f"{name}.", kinds)
        else:
            others = [f"{prefix}{other!s}" for other in config if other != key]
            known = [option for option in kinds if any(option.startswith(f"{other}.") for other in others)]
            raise ValueError(f"{name}: there is no such option{nearest(name, [*others, *known])}")


def is_part(name: str, value: Any) -> bool:
    """Return whether an option is a part: a class or a registered name, whose parameters are its options."""
    return name in GROUPS or (isinstance(value, DictConfig) and "_target_" in value)


def _has_options(name: str, kinds: Mapping[str, Kind]) -> bool:
    return any(option.startswith(f"{name}.") for option in kinds) or name in NESTED


NESTED = ("architecture", "distillation")
"""Mappings that contain parts, or may be empty."""


def check_removals(config: DictConfig, overrides: Sequence[str], own: Mapping[str, Kind]) -> None:
    """Check that the options that the command line removes (``~NAME``) are not required.

    Args:
        config: The composed config, without these options.
        overrides: The options on the command line.
        own: Option -> kind, see `check_options`.

    Raises:
        ValueError: The command needs a removed option.
    """
    kinds = {**OPTIONS, **own}
    for override in overrides:
        name = override.removeprefix("~").partition("=")[0]
        if not override.startswith("~") or OmegaConf.select(config, name) is not None:
            continue
        above = [name.rpartition(".")[0]]
        while above[-1]:
            above.append(above[-1].rpartition(".")[0])
        # Keys of parts, and of options that are mappings, may be removed.
        if not any(outer and (outer in kinds or is_part(outer, OmegaConf.select(config, outer))) for outer in above):
            raise ValueError(f"~{name}: the command needs {name}: leave out the ~ and give {name}=...")


def with_new_keys(arguments: Sequence[str], own: Mapping[str, Kind]) -> list[str]:
    """Return the arguments of a command so that its options that are mappings take keys which their defaults lack.

    Hydra demands ``++`` before options with such keys.

    Args:
        arguments: The arguments on the command line.
        own: Option -> kind, see `check_options`.
    """
    kinds = {**OPTIONS, **own}
    mappings = tuple(name for name, kind in kinds.items() if isinstance(kind, MappingKind))
    return [
        f"++{argument}" if argument.startswith(tuple(f"{name}{end}" for name in mappings for end in "=.")) else argument
        for argument in arguments
    ]


def nearest(name: str, known: Sequence[str]) -> str:
    """Return a suggestion of similar names for the end of an error message; empty if there are none."""
    near = difflib.get_close_matches(name, dict.fromkeys(known), n=3, cutoff=0.6)
    return f": did you mean {' or '.join(near)}?" if near else ""
