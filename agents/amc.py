"""DDPG as AMC trains it (He et al. 2018, arXiv 1802.03494, section 3.2 and its published code).

Plain DDPG sees a reward at the end of an episode only, and its noise piles actions up at the ends of their range. AMC
gives every step of an episode the final reward less a moving average of the rewards, and draws actions from a normal
distribution truncated to the range, whose width shrinks from episode to episode.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import truncnorm
from stable_baselines3 import DDPG
from stable_baselines3.common.buffers import ReplayBuffer

__all__ = ["AMC", "FinalRewardBuffer"]


class FinalRewardBuffer(ReplayBuffer):
    """Keeps an episode back until it is over, then stores it with the final reward, less the average, at every step.

    Args:
        args: As `ReplayBuffer`.
        decay: The decay of the moving average of the episodes' rewards, in [0, 1).
        kwargs: As `ReplayBuffer`.
    """

    def __init__(self, *args: Any, decay: float = 0.95, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.n_envs != 1:
            raise ValueError(f"AMC plays one environment at a time, got {self.n_envs}")
        self.decay = decay
        self.average: float | None = None
        self._episode: list[tuple[Any, ...]] = []
        self._total = 0.0

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Keep one step of the one environment."""
        self._episode.append((obs, next_obs, action, done, infos))
        self._total += float(reward[0])
        if not done[0]:
            return
        self.average = self._total if self.average is None else self.average
        self.average = self.decay * self.average + (1 - self.decay) * self._total
        advantage = np.array([self._total - self.average], np.float32)
        for seen, following, taken, over, info in self._episode:
            super().add(seen, following, taken, advantage, over, info)
        self._episode, self._total = [], 0.0


class AMC(DDPG):
    """DDPG with AMC's rewards and exploration; everything else, `learn` and `predict` included, is Stable-Baselines3's.

    Args:
        args: As `DDPG`.
        noise: Standard deviation of the actions after the warm-up (`learning_starts` steps, uniformly random).
        noise_decay: Its factor from one episode to the next.
        reward_decay: The decay of the moving average of rewards.
        kwargs: As `DDPG`.
    """

    def __init__(
        self, *args: Any, noise: float = 0.5, noise_decay: float = 0.97, reward_decay: float = 0.95, **kwargs: Any
    ) -> None:
        self.noise, self.noise_decay = noise, noise_decay
        kwargs.setdefault("replay_buffer_class", FinalRewardBuffer)
        kwargs.setdefault("replay_buffer_kwargs", {"decay": reward_decay})
        super().__init__(*args, **kwargs)
        self._episodes_at_start: int | None = None

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
        # Thousands of episodes later still wider than rounding.
        width = max(1e-3, self.noise * self.noise_decay ** (self._episode_num - self._episodes_at_start))
        # Numpy's global generator is the one that Stable-Baselines3 seeds.
        bounds = (-1 - mean) / width, (1 - mean) / width
        drawn = truncnorm.rvs(*bounds, loc=mean, scale=width, size=mean.shape).astype(np.float32)
        return self.policy.unscale_action(drawn), drawn
