"""Several episodes in lockstep that share one problem: ``gym.make_vec("ShrinkML-v0", num_envs=N)``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from shrinkml_env.checks import whole_number
from shrinkml_env.envs.shrink import MaskableShrinkEnv, ShrinkEnv

__all__ = ["MaskableVectorShrinkEnv", "VectorShrinkEnv"]


class VectorShrinkEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """N episodes at once, with one model, evaluator and ledger; they all end in the same step.

    The configurations that a step completes are measured together, so that an evaluator with several workers measures
    them in parallel. The same seeds and actions give the same numbers as in N single environments.

    An episode that ends is reset in the same step (`AutoresetMode.SAME_STEP`): the returned observation is the first of
    the next episode, and ``infos["final_obs"]`` and ``infos["final_info"]`` hold the last observation and info.

    Args:
        env: A single environment; the others are shallow copies of it.
        num_envs: N, at least 1.

    Raises:
        ValueError: `num_envs` is below 1.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - as in gym.vector.VectorEnv
        **ShrinkEnv.metadata,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    envs: tuple[ShrinkEnv, ...] = ()
    """Empty until it is made: Gymnasium before 1.4 closes environments whose constructor has failed."""

    def __init__(self, env: ShrinkEnv, num_envs: int) -> None:
        num_envs = whole_number("num_envs", num_envs, least=1)
        self.num_envs = num_envs
        self.autoreset_mode = self.metadata["autoreset_mode"]  # TorchRL reads this attribute
        # Shallow copies: all environments share one problem.
        self.envs = (env, *(copy.copy(env) for _ in range(num_envs - 1)))
        for other in self.envs[1:]:
            other._np_random = None
        self.render_mode = env.render_mode
        self.single_action_space, self.single_observation_space = env.action_space, env.observation_space
        self.action_space = batch_space(env.action_space, num_envs)
        self.observation_space = batch_space(env.observation_space, num_envs)

    @property
    def first(self) -> ShrinkEnv:
        """The first of the environments; all have the same search problem."""
        return self.envs[0]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin N episodes.

        Args:
            seed: A seed for each environment; an integer stands for seed, seed + 1, ...
            options: Not used.

        Raises:
            ValueError: The number of seeds is not `num_envs`.
        """
        seeds: Sequence[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        elif isinstance(seed, int | np.integer):
            seeds = [int(seed) + index for index in range(self.num_envs)]
        else:
            seeds = [None if single is None else int(single) for single in seed]
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        super().reset(seed=seeds[0])
        observations: list[Any] = []
        infos: dict[str, Any] = {}
        for index, (env, single) in enumerate(zip(self.envs, seeds, strict=True)):
            observation, info = env.reset(seed=single)
            observations.append(observation)
            infos = self._add_info(infos, self._flat(info), index)
        return self._batch(observations), infos

    def step(self, actions: Any) -> tuple[Any, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Set the rank of the next layer in every episode.

        Raises:
            ValueError: The number of actions is not `num_envs`, or an action is not in the action space.
            BudgetExhausted: The completed configurations exceed the budget. The ledger holds those within the budget.

        After an error, whatever it is, no episode has advanced.
        """
        singles = list(iterate(self.action_space, actions))
        if len(singles) != self.num_envs:
            raise ValueError(f"{len(singles)} actions for {self.num_envs} environments")
        completed = (env.completed_by(action) for env, action in zip(self.envs, singles, strict=True))
        wanted = [ranks for ranks in completed if ranks is not None]
        problem = self.envs[0].problem
        problem.prefetch(wanted)
        before = [(env._ranks, env._evaluation) for env in self.envs]
        try:
            return self._step(singles)
        except BaseException:
            for env, (ranks, evaluation) in zip(self.envs, before, strict=True):
                env._ranks, env._evaluation = ranks, evaluation
            raise

    def _step(
        self, actions: list[Any]
    ) -> tuple[Any, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        observations, rewards, terminated = [], [], []
        infos: dict[str, Any] = {}
        for index, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            observation, reward, over, _, info = env.step(action)
            if over:
                infos = self._add_info(infos, {"final_obs": observation, "final_info": self._flat(info)}, index)
                observation, info = env.reset()
            infos = self._add_info(infos, self._flat(info), index)
            observations.append(observation)
            rewards.append(reward)
            terminated.append(over)
        never = np.zeros(self.num_envs, np.bool_)
        return self._batch(observations), np.array(rewards), np.array(terminated), never, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the evaluator's workers and release the ledger's file; called by `close`."""
        for env in self.envs[:1]:
            env.close()

    def render(self) -> tuple[Any, ...]:
        """Return the rendering of each environment, see `ShrinkEnv.render`."""
        return tuple(env.render() for env in self.envs)

    def _flat(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return an info that fits into arrays: ``ranks`` as (layers,), 0 if undecided, and ``layer`` as an index."""
        decided = list(info["ranks"].values())
        ranks = np.zeros(len(self.first.layers), np.int64)
        ranks[: len(decided)] = decided
        place = {"layer": len(decided) - 1} if "layer" in info else {}
        return {**info, **place, "ranks": ranks}

    def _batch(self, observations: list[Any]) -> Any:
        empty: Any = create_empty_array(self.single_observation_space, self.num_envs)
        return concatenate(self.single_observation_space, observations, empty)


class MaskableVectorShrinkEnv(VectorShrinkEnv):
    """A `VectorShrinkEnv` of environments whose actions have masks."""

    envs: tuple[MaskableShrinkEnv, ...]

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are allowed now, shape (num_envs, actions)."""
        return np.stack([env.action_masks() for env in self.envs])
