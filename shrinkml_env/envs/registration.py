"""The environments' entry points, and their registration with Gymnasium."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from shrinkml_env.asr import LAS, load_model
from shrinkml_env.checks import number, whole_number
from shrinkml_env.compression import CompressibleModel, require_length, require_lossless
from shrinkml_env.compression.factorisations import BEST, make_factorisation
from shrinkml_env.compression.layers import Granularity
from shrinkml_env.data import Utterance, load_utterances
from shrinkml_env.data.sets import UtteranceSpec
from shrinkml_env.envs.assembly import PARTS, assemble_env, make_reward, require_known_parts
from shrinkml_env.envs.shrink import MaskableShrinkEnv, ShrinkEnv
from shrinkml_env.envs.tabular import MaskableTabularEnv, MaskableVectorTabularEnv, TabularEnv, VectorTabularEnv
from shrinkml_env.envs.vector import MaskableVectorShrinkEnv, VectorShrinkEnv
from shrinkml_env.evaluation import EvaluationCache, Evaluator
from shrinkml_env.mdp.rewards import signal_of
from shrinkml_env.space.table import Table

__all__ = [
    "VARIANTS",
    "VARIANTS_V1",
    "arguments_v1",
    "make_env",
    "make_env_v1",
    "make_tabular_env",
    "make_vector_env",
    "make_vector_env_v1",
    "make_vector_tabular_env",
    "register_envs",
    "valid_arguments",
]

TRIED_UTTERANCES = 3
"""Short utterances with which `require_lossless` tries a model that is not the library's own."""

VARIANTS: dict[str, dict[str, Any]] = {
    "ShrinkML-v0": {},
    "ShrinkMLDiscrete-v0": {"action": "discrete"},
    "ShrinkMLOneShot-v0": {"action": "one_shot"},
    "ShrinkMLMultiObjective-v0": {"reward": "vector"},
}
"""Registered id -> the arguments of `make_env` in which it differs from ``ShrinkML-v0``."""

VARIANTS_V1: dict[str, dict[str, Any]] = {
    "ShrinkML-v1": {},
    "ShrinkMLDiscrete-v1": {"action": "discrete"},
    "ShrinkMLOneShot-v1": {"action": "one_shot"},
}
"""Registered id -> the arguments of `make_env_v1` in which it differs from ``ShrinkML-v1``."""


def register_envs() -> None:
    """Register the environments; called by ``import shrinkml_env``."""
    for variants, version in ((VARIANTS, ""), (VARIANTS_V1, "_v1")):
        for name, options in variants.items():
            # Gymnasium's checker takes a vector reward for a mistake; MO-Gymnasium switches it off as well.
            gym.register(
                name,
                entry_point=f"shrinkml_env.envs.registration:make_env{version}",
                vector_entry_point=f"shrinkml_env.envs.registration:make_vector_env{version}",
                kwargs=dict(options),
                disable_env_checker=options.get("reward") == "vector",
            )
    for name in VARIANTS_V1:
        # Version 0 is not outdated: published numbers are of it. Gymnasium would warn everybody who makes it.
        gym.registry[name].version = None
    gym.register(
        "ShrinkMLTabular-v0",
        entry_point="shrinkml_env.envs.registration:make_tabular_env",
        vector_entry_point="shrinkml_env.envs.registration:make_vector_tabular_env",
        disable_env_checker=True,  # for speed
    )


def make_env(
    model: Any = "las_small",
    proxy: Any = "proxy",
    action: Any = "continuous",
    observation: Any = "features",
    reward: Any = "linear",
    constraint: Any = "none",
    shaping: Any = "none",
    factorisation: Any = "svd",
    granularity: Granularity = "layer",
    device: str = "cpu",
    search_space: Any = "full",
    cache: Any = "default",
    ledger: Any = None,
    workers: int = 1,
    memory_mb: int = 256,
    render_mode: str | None = None,
    dense: Sequence[str] = (),
    **unknown: Any,
) -> ShrinkEnv:
    """Make an environment: the entry point of ``gym.make("ShrinkML-v0", ...)``.

    Args:
        model: A name or path for `shrinkml_env.load_model`, or a `CompressibleModel`.
        proxy: A name, a mapping, or a sequence of utterances, as `shrinkml_env.data.load_utterances` takes them.
        action: A name in `shrinkml_env.mdp.actions.ACTIONS`, a mapping with ``"name"`` and options, or a subclass of
            `ActionKind` (with options: a `functools.partial` of it), which is called with the `SearchProblem`.
        observation: A name in `shrinkml_env.mdp.observations.OBSERVATIONS`, a mapping, or a subclass of `Observation`,
            as `action`.
        reward: A name in `shrinkml_env.mdp.rewards.REWARDS`, a mapping, or a callable of (evaluation, baseline).
        constraint: A name in `shrinkml_env.mdp.constraints.CONSTRAINTS`, a mapping, or a subclass of `Constraint`
            (with options: a `functools.partial` of it), which is called with the evaluator and the search space.
        shaping: A name in `shrinkml_env.mdp.shaping.POTENTIALS`, a mapping, or a subclass of `Potential`, as `action`.
        factorisation: A name in `shrinkml_env.compression.factorisations.FACTORISATIONS`, a mapping, a callable of the
            model, or a `Factorisation` that was made for it.
        granularity: ``"layer"``, ``"matrix"``, or blocks of layers (see `Evaluator`).
        device: Where the recogniser runs.
        search_space: A name in `shrinkml_env.space.formation.SEARCH_SPACES`, a mapping, a callable of the model's
            layers, or a `SearchSpace`.
        cache: Where measurements persist: ``"default"`` (see `default_cache_path`), a path, an `EvaluationCache`, or
            None for nowhere.
        ledger: A mapping of `Ledger`'s arguments ``path`` and ``budget``, a `Ledger`, or None.
        workers: Processes that measure the configurations of a vector environment side by side.
        memory_mb: Room for features and activations that configurations share, in each process.
        render_mode: None, ``"ansi"`` or ``"rgb_array"``.
        dense: Patterns of the names of layers that stay dense: ``["decoder.*"]`` compresses the encoder alone.
        unknown: Anything else is a mistake.

    Raises:
        ValueError: A name, an argument or an option is unknown, parts do not go together, or the model's code does not
            work with factored modules (see `require_lossless`).
    """
    _require_known("ShrinkML-v0", unknown, valid_arguments(make_env))
    memory_mb = whole_number("memory_mb", memory_mb, least=0)
    workers = whole_number("workers", workers, least=1)
    require_known_parts(
        action=action, observation=observation, shaping=shaping, constraint=constraint, search_space=search_space
    )
    reward = make_reward(reward)
    model, cache = _load(model, device), _open(cache)
    utterances = load_utterances(proxy, "proxy")
    if not isinstance(model, LAS):
        _try_out(model, utterances)
    evaluator = Evaluator(
        model,
        utterances,
        granularity,
        cache,
        make_factorisation(model, factorisation, cache),
        memory=memory_mb * 2**20,
        workers=workers,
        divergence=signal_of(reward) == "divergence",
        dense=dense,
    )
    return assemble_env(
        evaluator,
        action=action,
        observation=observation,
        reward=reward,
        constraint=constraint,
        shaping=shaping,
        search_space=search_space,
        ledger=ledger,
        render_mode=render_mode,
    )


def make_env_v1(size: float = 0.4, calibration: UtteranceSpec = "calibration", **arguments: Any) -> ShrinkEnv:
    """Make a `ShrinkEnv` in which every episode ends just below a given size: ``gym.make("ShrinkML-v1", size=0.4)``.

    ## Description

    One episode compresses one trained recogniser to a given share of its parameters. Each step chooses the *level* of
    one weight matrix, or of a stack of matrices that read the same input, relative to a level that all have in common;
    a higher level keeps more of the matrix. After the last step all levels move together until the model fits the size.
    The reward says how far the probabilities of the compressed model are from those of the original. Nothing is
    retrained.

    The task of `ShrinkML-v0`, in which an untrained policy begins with broken models, is the same with other parts.
    Here the policy begins near the ranks of the least *predicted damage*: the divergence from the original that a
    matrix alone is predicted to cause at each rank, from gradients on calibration speech and without an evaluation.
    The candidates of all matrices lie at common levels: at one level, one more parameter saves the same predicted
    damage in every matrix. An episode of zeros plays nearly these ranks:

    ```python
    >>> import gymnasium as gym, shrinkml_env
    >>> env = gym.make("ShrinkML-v1", size=0.4)
    >>> observation, info = env.reset()
    >>> terminated = False
    >>> while not terminated:
    ...     observation, reward, terminated, truncated, info = env.step([0.0])
    >>> print(f"{info['size_ratio']:.2f}")
    0.40

    ```

    The first use prepares the factors and the prediction, which takes a minute or two for the embedded model; later
    ones find the prediction in the cache.

    ## Action Space

    `Box(-1, 1, (1,), float32)`. 0 gives the matrix the common level, the largest at which the model fits the size; -1
    and 1 move it down or up by 4.8 levels, rounded: a tenth of the 48 from the lowest level to the highest, which is
    dense. `ShrinkMLDiscrete-v1` takes the index of a candidate instead, `ShrinkMLOneShot-v1` the indices of all
    matrices in one step. An action outside the space raises `ValueError` and changes nothing.

    ## Observation Space

    `Box(0, 1, (n,), float32)`, the features of `ShrinkML-v0` about matrices instead of layers; n = 70 for the embedded
    model. They show neither levels nor predicted damage.

    ## Rewards

    0 at every step but the last, and there -d: the mean KL divergence of the compressed model's distributions from the
    original's, in nats a unit of text, on the 12 utterances of the set `"proxy-small"`. It is 0 for the original, and
    has no term for the size. The return is undiscounted: set the agent's gamma to 1.

    ## Starting State

    No matrix is decided; all are dense. Nothing is random: the seed given to `reset` only seeds `np_random`.

    ## Episode End

    The episode terminates after its last matrix, 24 steps for the embedded model, and is never truncated. Then all
    matrices move by the same number of levels, up or down, to the largest model of at most `size`; what is left raises
    single matrices.

    ## Information

    As in `ShrinkML-v0`, with matrices in place of layers. `ranks` are those chosen until the last step, whose `info`
    has the ranks after the move, `wer` and `divergence`.

    ## Arguments

    | argument | default | meaning |
    | --- | --- | --- |
    | `size` | `0.4` | the largest share of the original's parameters, in (0, 1) |
    | `calibration` | `"calibration"` | training speech of the model, on which factors and prediction rest, as `load_utterances` takes it |

    All arguments of `ShrinkML-v0` but `constraint` can be given besides. Their defaults here are `proxy="proxy-small"`,
    `action="level"`, `reward="divergence"`, `granularity="matrix"`, `search_space="allocated"`, and as `factorisation`
    the activation-aware one in pivoting form, with shared inputs and weighed rows. A factorisation or search space that
    is given by name, and takes calibration speech but names none, gets that of `calibration`. A wrong argument raises
    `ValueError`.

    ## Version History

    * v1: see Description. For `las_small` at 0.3 of the size and below, `calibration="calibration-large"` loses less
      than the default's 80 utterances.
    """  # noqa: E501
    return make_env(**arguments_v1(size, calibration, **arguments))


def make_vector_env_v1(
    num_envs: int = 1, size: float = 0.4, calibration: UtteranceSpec = "calibration", **arguments: Any
) -> VectorShrinkEnv:
    """Make N environments of version 1 in lockstep: the entry point of ``gym.make_vec("ShrinkML-v1", ...)``.

    Args:
        num_envs: N, at least 1.
        size: As `make_env_v1`.
        calibration: As `make_env_v1`.
        arguments: As `make_env_v1`.

    Raises:
        ValueError: As `make_env_v1`.
    """
    return make_vector_env(num_envs, **arguments_v1(size, calibration, **arguments))


def arguments_v1(size: float = 0.4, calibration: UtteranceSpec = "calibration", **arguments: Any) -> dict[str, Any]:
    """Return the arguments of `make_env` that stand for those of `make_env_v1`.

    A factorisation or a search space that is given by name, and takes calibration speech but names none, gets this one.

    Raises:
        ValueError: An argument is unknown, the size is no share, or a constraint is given besides.
    """
    valid = {*valid_arguments(make_env)} - {"constraint"}
    _require_known("ShrinkML-v1", sorted({*arguments} - {"constraint"}), ["size", "calibration", *sorted(valid)])
    if "constraint" in arguments:
        raise ValueError("ShrinkML-v1 is constrained to a size: give size=0.4 instead of a constraint, or use -v0")
    size = number("size", size, above=0, below=1, meaning="a share of the original's parameters")
    merged = {
        "proxy": "proxy-small",
        "action": "level",
        "reward": "divergence",
        "constraint": {"name": "shift", "budget": size},
        "factorisation": BEST,
        "granularity": "matrix",
        "search_space": "allocated",
        **arguments,
    }
    for kind in ("factorisation", "search_space"):
        spec = {"name": merged[kind]} if isinstance(merged[kind], str) else merged[kind]
        if isinstance(spec, Mapping) and spec.get("name") in PARTS[kind].registry:
            options = inspect.signature(PARTS[kind].registry[spec["name"]]).parameters
            merged[kind] = {**({"calibration": calibration} if "calibration" in options else {}), **spec}
    return merged


def make_vector_env(num_envs: int = 1, **arguments: Any) -> VectorShrinkEnv:
    """Make N environments in lockstep: the entry point of ``gym.make_vec("ShrinkML-v0", num_envs=N, ...)``.

    Args:
        num_envs: N, at least 1.
        arguments: Arguments of `make_env`.

    Raises:
        ValueError: A name, an argument or an option is unknown, or parts do not go together.
    """
    num_envs = whole_number("num_envs", num_envs, least=1)
    env = make_env(**arguments)
    kind = MaskableVectorShrinkEnv if isinstance(env, MaskableShrinkEnv) else VectorShrinkEnv
    return kind(env, num_envs)


def make_tabular_env(
    action: Any = "discrete",
    observation: Any = "features",
    reward: Any = "linear",
    constraint: Any = "none",
    subset: str = "proxy",
    table: Table | str | os.PathLike[str] = "las_small",
    ledger: Any = None,
    render_mode: str | None = None,
    **unknown: Any,
) -> TabularEnv:
    """Make a tabular environment: the entry point of ``gym.make("ShrinkMLTabular-v0", ...)``.

    Args:
        action: ``"discrete"``, or another kind whose meaning depends on the layer alone (`IndependentActions`):
            ``"continuous"``, ``"energy"``, or, for a table with levels, ``"level"``.
        observation: As in `make_env`.
        reward: As in `make_env`.
        constraint: As in `make_env`; ``"shift"`` for a table with levels.
        subset: The utterance set whose measurements count, one of `shrinkml_env.space.table.SETS`, of which the table
            must hold every configuration.
        table: The name of a shipped table (`shrinkml_env.space.table.SHIPPED_TABLES`), the file of a saved one, or a
            `Table`.
        ledger: As in `make_env`.
        render_mode: As in `make_env`.
        unknown: Anything else is a mistake.

    Raises:
        ValueError: A name, an argument or an option is unknown, or parts do not go together.
    """
    _require_known("ShrinkMLTabular-v0", unknown, valid_arguments(make_tabular_env))
    known = Table.load(table) if isinstance(table, str | os.PathLike) else table
    if not isinstance(known, Table):
        raise ValueError(f"table must be the name or the file of a table, or a Table, got {table!r}")
    parts = {"action": action, "observation": observation, "reward": reward, "constraint": constraint}
    twin = assemble_env(
        known.evaluator(subset), **parts, search_space=known.search_space, ledger=ledger, render_mode=render_mode
    )
    kind = MaskableTabularEnv if isinstance(twin, MaskableShrinkEnv) else TabularEnv
    try:
        return kind(twin, {**known.live_kwargs(subset), **parts})
    except BaseException:
        twin.close()
        raise


def make_vector_tabular_env(num_envs: int = 1, **arguments: Any) -> VectorTabularEnv:
    """Make N tabular episodes at once: the entry point of ``gym.make_vec("ShrinkMLTabular-v0", num_envs=N, ...)``.

    Args:
        num_envs: N, at least 1.
        arguments: Arguments of `make_tabular_env`.

    Returns:
        A `MaskableVectorTabularEnv` if the actions have masks.

    Raises:
        ValueError: A name or an option is unknown, parts do not go together, or a ledger or a render mode is given.
    """
    for name, lacks in {"ledger": "counts no evaluations", "render_mode": "does not render"}.items():
        if arguments.get(name) is not None:
            raise ValueError(f"the vector version {lacks}: leave out `{name}`, or use gym.make")
    env = make_tabular_env(**arguments)
    kind = MaskableVectorTabularEnv if isinstance(env, MaskableTabularEnv) else VectorTabularEnv
    return kind(env, num_envs)


def _require_known(name: str, given: Iterable[str], valid: Iterable[str]) -> None:
    """Raise a ValueError if an environment was given an argument that it does not have."""
    known = list(valid)
    for argument in given:
        if argument not in known:
            raise ValueError(f"{name} has no argument {argument!r}; its arguments are {', '.join(known)}")


def valid_arguments(make: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments of an entry point, without that which collects unknown ones."""
    return [argument for argument in inspect.signature(make).parameters if argument != "unknown"]


def _load(model: Any, device: Any) -> Any:
    try:
        wanted = torch.device(device) if isinstance(device, str | torch.device) else None
    except RuntimeError:
        wanted = None
    if wanted is None:
        raise ValueError(f"device must be 'cpu', 'cuda', or another that torch knows, got {device!r}")
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: this torch finds no GPU; leave out `device`")
    if isinstance(model, str | os.PathLike):
        model = load_model(Path(model) if isinstance(model, os.PathLike) else model)
    elif not isinstance(model, CompressibleModel):
        raise ValueError(
            f"model: must be a name, a path, or a CompressibleModel, got a {type(model).__name__}, which lacks the "
            "protocol's methods: see help(shrinkml_env.CompressibleModel)"
        )
    has = next(model.parameters()).device
    # A device without a number is any of its type.
    if has.type != wanted.type or wanted.index not in (None, has.index):
        model = copy.deepcopy(model).to(wanted)
    return model


def _try_out(model: CompressibleModel, utterances: Sequence[Utterance]) -> None:
    """Check on the shortest utterances that another's model works with factored modules; see `require_lossless`."""
    shortest = sorted(utterances, key=lambda utterance: utterance.waveform.numel())[:TRIED_UTTERANCES]
    for utterance in shortest:
        require_length(model, utterance.waveform.numel(), f"utterance {utterance.id!r}")
    require_lossless(model, [utterance.waveform for utterance in shortest])


def _open(cache: Any) -> EvaluationCache | None:
    if cache == "default":
        return EvaluationCache()
    if isinstance(cache, str | os.PathLike):
        return EvaluationCache(Path(cache))
    if not isinstance(cache, EvaluationCache | None):
        raise ValueError(f"cache must be 'default', the name of a file, an EvaluationCache, or None, got {cache!r}")
    return cache
