"""DDPG with the rewards and the exploration of AMC (He et al. 2018, arXiv 1802.03494, section 3.2 and published code).

Plain DDPG gets a reward only at the end of an episode, and its clipped noise accumulates actions at the ends of their
range. AMC assigns the final reward minus a moving average of the rewards to every step of the episode, and samples
actions from a normal distribution truncated to the range, whose width decays from episode to episode.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.stats import truncnorm
from stable_baselines3 import DDPG
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.td3.policies import TD3Policy

__all__ = ["AMC", "FinalRewardBuffer"]


class FinalRewardBuffer(ReplayBuffer):
    """A replay buffer that stores complete episodes, with the final reward minus its moving average at every step.

    Args:
        args: Arguments of `ReplayBuffer`.
        decay: Decay of the moving average of the episodes' rewards, in [0, 1).
        kwargs: Arguments of `ReplayBuffer`.

    Raises:
        ValueError: There are several environments.
    """

    def __init__(self, *args: Any, decay: float = 0.95, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.n_envs != 1:
            raise ValueError(f"AMC plays one environment at a time, got {self.n_envs}")
        self.decay = decay
        self.average: float | None = None
        self._episode: list[tuple[Any, ...]]
        self._total: float
        self.forget_episode()

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Add one step; the steps of an episode are stored when it is over."""
        self._episode.append((obs, next_obs, action, done, infos))
        self._total += float(reward[0])
        if not done[0]:
            return
        self.average = self._total if self.average is None else self.average
        self.average = self.decay * self.average + (1 - self.decay) * self._total
        advantage = np.array([self._total - self.average], np.float32)
        for seen, following, taken, over, info in self._episode:
            super().add(seen, following, taken, advantage, over, info)
        self.forget_episode()

    def forget_episode(self) -> None:
        """Drop the steps of an episode that is not over."""
        self._episode, self._total = [], 0.0


class AMC(DDPG):
    """Stable-Baselines3's DDPG with AMC's rewards and exploration.

    Args:
        policy: As in `DDPG`.
        env: As in `DDPG`.
        noise: Standard deviation of the actions after the warm-up of `learning_starts` uniformly random steps.
        noise_decay: Factor of the standard deviation from one episode to the next.
        reward_decay: Decay of the moving average of rewards, in [0, 1).
        kwargs: Other arguments of `DDPG`. By default it learns after every episode, a gradient step for each step.
    """

    def __init__(
        self,
        policy: str | type[TD3Policy],
        env: GymEnv | str,
        *,
        noise: float = 0.5,
        noise_decay: float = 0.97,
        reward_decay: float = 0.95,
        **kwargs: Any,
    ) -> None:
        self.noise, self.noise_decay, self.reward_decay = noise, noise_decay, reward_decay
        own = {"replay_buffer_class": FinalRewardBuffer, "replay_buffer_kwargs": {"decay": reward_decay}}
        super().__init__(policy, env, **{"train_freq": (1, "episode"), "gradient_steps": -1, **own, **kwargs})
        self._episodes_at_start: int | None = None

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *args: Any
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps:  # the environment begins a new episode
            cast(FinalRewardBuffer, self.replay_buffer).forget_episode()
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Take gradient steps, as DDPG does; none before the end of the first episode, when the buffer is empty."""
        assert self.replay_buffer is not None
        if self.replay_buffer.size():
            super().train(gradient_steps, batch_size)

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.num_timesteps < learning_starts:
            actions, scaled = super()._sample_action(learning_starts, None, n_envs)
            return actions, scaled
        if self._episodes_at_start is None:
            self._episodes_at_start = self._episode_num
        assert self._last_obs is not None
        wanted, _ = self.predict(self._last_obs, deterministic=True)
        mean = self.policy.scale_action(wanted).astype(np.float64)
        # The lower limit keeps the width above rounding after thousands of episodes.
        width = max(1e-3, self.noise * self.noise_decay ** (self._episode_num - self._episodes_at_start))
        # Stable-Baselines3 seeds NumPy's global generator.
        bounds = (-1 - mean) / width, (1 - mean) / width
        drawn = truncnorm.rvs(*bounds, loc=mean, scale=width, size=mean.shape).astype(np.float32)
        return self.policy.unscale_action(drawn), drawn
