"""Stable-Baselines3's view of the vector environment; the only module that needs Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from shrinkml_env.envs.vector import VectorShrinkEnv

__all__ = ["ShrinkVecEnv"]


class ShrinkVecEnv(VecEnv):
    """A `VectorShrinkEnv` as a ``VecEnv``: ``PPO("MlpPolicy", ShrinkVecEnv(gym.make_vec("ShrinkML-v0", num_envs=8)))``.

    As Stable-Baselines3 expects it, episodes are reset in the same step and their last observation is in
    ``info["terminal_observation"]``. Each finished episode's return and length are in ``info["episode"]``, as its
    Monitor wrapper has them.

    Args:
        envs: What ``gym.make_vec`` returns.

    Raises:
        ValueError: Its rewards are vectors, which Stable-Baselines3 does not know.
    """

    def __init__(self, envs: VectorShrinkEnv) -> None:
        if envs.envs[0].problem.reward_space is not None:
            raise ValueError(
                "Stable-Baselines3 needs scalar rewards: wrap the single environment in MO-Gymnasium's LinearReward"
            )
        self.envs = envs
        self._actions: Any = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, int)

    def reset(self) -> Any:
        """Begin N episodes, with the seeds that `seed` has set."""
        observations, infos = self.envs.reset(seed=None if None in self._seeds else list(self._seeds))
        self.reset_infos = self._split(infos)
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0, 0
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions; `step_wait` does the work."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step every environment."""
        observations, rewards, terminated, _, infos = self.envs.step(self._actions)
        self._returns += rewards
        self._lengths += 1
        split = self._split(infos)
        for index in np.flatnonzero(terminated):
            last: dict[str, Any] = self._split(infos["final_info"])[index]
            episode = {"r": float(self._returns[index]), "l": int(self._lengths[index])}
            self.reset_infos[index] = {name: split[index][name] for name in ("ranks", "size_ratio")}
            split[index] = {
                **last,
                "terminal_observation": infos["final_obs"][index],
                "TimeLimit.truncated": False,
                "episode": episode,
            }
            self._returns[index], self._lengths[index] = 0, 0
        return observations, rewards.astype(np.float32), terminated, split

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of each environment."""
        return [getattr(env, attr_name) for env in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of each environment."""
        for env in self._chosen(indices):
            setattr(env, attr_name, value)

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """What each environment renders; called by ``render("rgb_array")``."""
        return self.envs.render()

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of each environment, such as ``action_masks``."""
        return [getattr(env, method_name)(*args, **kwargs) for env in self._chosen(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None) -> list[bool]:
        """False for each: there are no wrappers."""
        return [False for _ in self._chosen(indices)]

    def _chosen(self, indices: int | Iterable[int] | None) -> Sequence[gym.Env[Any, Any]]:
        return [self.envs.envs[index] for index in self._get_indices(indices)]

    def _split(self, infos: dict[str, Any]) -> list[dict[str, Any]]:
        """Gymnasium's dictionary of arrays as one dictionary for each environment."""
        return [_pick(infos, index) for index in range(self.num_envs)]


def _pick(infos: dict[str, Any], index: int) -> dict[str, Any]:
    picked = {}
    for name, values in infos.items():
        if name.startswith("_") or not infos.get(f"_{name}", [False] * (index + 1))[index]:
            continue
        picked[name] = _pick(values, index) if isinstance(values, dict) else _plain(values[index])
    return picked


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
