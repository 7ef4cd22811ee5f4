"""A recurrent controller trained by REINFORCE: the kind of agent in the ShrinkML paper, in one file.

An LSTM goes through the layers in forward order. For each layer it reads the environment's observation and returns a
distribution over the layer's candidates. Whole configurations are sampled, and their log-probabilities are increased or
decreased in proportion to the reward minus a moving average of rewards (Williams 1992; Zoph and Le 2017, arXiv
1611.01578).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple, Self

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from agents.base import Callback, environment_of, require_one_environment
from shrinkml_env.checks import number, whole_number
from shrinkml_env.files import write_atomic
from shrinkml_env.progress import progress

__all__ = ["Controller"]

State = tuple[NDArray[Any], ...]


class _Policy(nn.Module):
    """The policy network, an LSTM cell with a linear output."""

    def __init__(self, observation_size: int, actions: int, units: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(observation_size, units)
        self.logits = nn.Linear(units, actions)
        # Small weights make the initial distribution over the candidates almost uniform.
        nn.init.uniform_(self.logits.weight, -0.01, 0.01)
        nn.init.zeros_(self.logits.bias)

    def forward(self, observation: Tensor, memory: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Compute the logits, (batch, actions), and the new memory.

        Args:
            observation: (batch, features).
            memory: Hidden and cell state, (batch, units) each.
        """
        hidden, cell = self.cell(observation, memory)
        return self.logits(hidden), (hidden, cell)

    def empty_memory(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return the memory at the start of an episode: two of zeros, (batch, units)."""
        zeros = torch.zeros(batch, self.cell.hidden_size)
        return zeros, zeros


class _Episode(NamedTuple):
    log_probability: Tensor
    entropy: Tensor
    reward: float


class Controller:
    """REINFORCE with a moving-average baseline and an entropy bonus, for discrete actions and vector observations.

    It has the methods of Stable-Baselines3's `BaseAlgorithm` that searches use. Masked actions are never sampled.

    Args:
        env: Any environment with a Discrete action space from 0 and a one-dimensional Box of observations.
        units: Number of LSTM units, at least 1.
        learning_rate: Learning rate of Adam.
        episodes_per_update: Number of episodes for each update, at least 1.
        baseline_decay: Decay of the moving average of rewards, in [0, 1).
        entropy_weight: Weight in the loss of the policy's entropy, averaged over steps, >= 0.
        seed: Seed; the same seed gives the same training.

    Raises:
        ValueError: The environment has other spaces, or a number is out of range.
        TypeError: The argument is not an environment, or is a vector environment.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | None = None,
        units: int = 64,
        learning_rate: float = 3e-3,
        episodes_per_update: int = 5,
        baseline_decay: float = 0.8,
        entropy_weight: float = 1e-3,
        seed: int | None = None,
    ) -> None:
        require_one_environment(self, env)
        self.env = env
        self.units = whole_number("units", units, least=1)
        self.learning_rate = learning_rate
        self.episodes_per_update = whole_number("episodes_per_update", episodes_per_update, least=1)
        self.baseline_decay = number("baseline_decay", baseline_decay, at_least=0, below=1)
        self.entropy_weight = entropy_weight
        self.seed = seed
        self.num_timesteps = 0
        self.baseline: float | None = None
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)
        if env is not None:
            self._build(*_sizes(env))

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments except the environment, as JSON can hold them."""
        names = ("units", "learning_rate", "episodes_per_update", "baseline_decay", "entropy_weight", "seed")
        return {name: getattr(self, name) for name in names}

    def _build(self, observation_size: int, actions: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=self._generator)))
            self.policy = _Policy(observation_size, actions, self.units)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.learning_rate)

    def learn(self, total_timesteps: int, callback: Callback | None = None, progress_bar: bool = False) -> Self:
        """Train for at least `total_timesteps` more steps.

        Args:
            total_timesteps: Number of steps of this call; episodes are played to their end.
            callback: Called with (locals, globals) after each step; if it returns False, the training ends.
            progress_bar: Whether to show a progress bar.

        Raises:
            RuntimeError: The agent has no environment.
        """
        env = environment_of(self)
        end = self.num_timesteps + total_timesteps
        with progress(total=total_timesteps, disable=not progress_bar, unit="step") as bar:
            while self.num_timesteps < end:
                episodes = []
                for _ in range(self.episodes_per_update):
                    episode = self._play(env, callback, bar)
                    if episode is None:
                        return self
                    episodes.append(episode)
                self._update(episodes)
        return self

    def _play(self, env: gym.Env[Any, Any], callback: Callback | None, bar: tqdm[Any]) -> _Episode | None:
        """Play one sampled episode; return None if the callback ended the training."""
        observation, _ = env.reset(seed=self.seed if self.num_timesteps == 0 else None)
        memory = self.policy.empty_memory(1)
        log_probabilities, entropies, total, terminated = [], [], 0.0, False
        while not terminated:
            logits, memory = self.policy(torch.as_tensor(observation, dtype=torch.float32)[None], memory)
            allowed = _allowed(env)
            if allowed is not None:
                logits = logits.masked_fill(~torch.as_tensor(allowed), -torch.inf)
            distribution = logits.log_softmax(1)
            action = int(torch.multinomial(distribution.exp(), 1, generator=self._generator))
            log_probabilities.append(distribution[0, action])
            # 0 log 0 is 0.
            entropies.append(-(distribution.exp() * distribution.clamp(min=-1e9)).sum())
            observation, reward, terminated, truncated, info = env.step(action)
            total += float(reward)
            self.num_timesteps += 1
            bar.update()
            if callback is not None and callback(locals(), globals()) is False:
                return None
            terminated = terminated or truncated
        return _Episode(torch.stack(log_probabilities).sum(), torch.stack(entropies).mean(), total)

    def _update(self, episodes: list[_Episode]) -> None:
        rewards = [episode.reward for episode in episodes]
        if self.baseline is None:
            self.baseline = float(np.mean(rewards))
        advantages = [reward - self.baseline for reward in rewards]
        # Advantages are scaled, so that the range of the rewards does not matter.
        scale = max(1e-6, float(np.sqrt(np.mean(np.square(advantages)))))
        losses = [
            -advantage / scale * episode.log_probability - self.entropy_weight * episode.entropy
            for advantage, episode in zip(advantages, episodes, strict=True)
        ]
        self.optimizer.zero_grad()
        loss: Any = torch.stack(losses).mean()
        loss.backward()
        self.optimizer.step()
        decay = self.baseline_decay
        self.baseline = decay * self.baseline + (1 - decay) * float(np.mean(rewards))

    def predict(
        self,
        observation: NDArray[Any],
        state: State | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], State]:
        """Return the action for one observation, or the actions for a batch of them.

        Args:
            observation: (features,) or (batch, features).
            state: The state that the last call returned; None at the start.
            episode_start: (batch,): True where a new episode starts and the memory is reset.
            deterministic: Whether to take the most probable action instead of a sample.
            action_masks: (actions,) or (batch, actions): False for actions that must not be chosen.

        Returns:
            The action or actions, and the state for the next call.
        """
        batch = torch.as_tensor(observation, dtype=torch.float32)
        single = batch.ndim == 1
        batch = batch[None] if single else batch
        memory = self.policy.empty_memory(len(batch))
        if state is not None:
            fresh = torch.zeros(len(batch)) if episode_start is None else torch.as_tensor(episode_start).float()
            memory = tuple(torch.as_tensor(part) * (1 - fresh[:, None]) for part in state)  # type: ignore[assignment]
        with torch.no_grad():
            logits, memory = self.policy(batch, memory)
        if action_masks is not None:
            logits = logits.masked_fill(~torch.as_tensor(action_masks).reshape(len(batch), -1), -torch.inf)
        if deterministic:
            actions = logits.argmax(1)
        else:
            actions = torch.multinomial(logits.softmax(1), 1, generator=self._generator).squeeze(1)
        chosen: NDArray[np.int64] = actions.numpy()
        return (chosen[0] if single else chosen), tuple(part.numpy() for part in memory)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write policy and settings as a safetensors file, without the optimiser's state."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        summary = {"settings": self.settings, "num_timesteps": self.num_timesteps, "baseline": self.baseline}
        write_atomic(path, save(self.policy.state_dict(), {"controller": json.dumps(summary)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: gym.Env[Any, Any] | None = None) -> Self:
        """Load an agent that `save` wrote.

        Args:
            path: The file.
            env: The environment to continue with, if any.

        Raises:
            ValueError: The file was not written by `save`, or for an environment with other spaces.
        """
        try:
            with safe_open(path, "pt") as file:
                summary = json.loads((file.metadata() or {})["controller"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            agent = cls(None, **summary["settings"])
            agent._build(tensors["cell.weight_ih"].shape[1], len(tensors["logits.bias"]))
            agent.policy.load_state_dict(tensors)
        except (SafetensorError, KeyError, ValueError, TypeError, OverflowError, RuntimeError) as error:
            raise ValueError(f"{path} was not saved by {cls.__name__}: {error}") from error
        if env is not None and _sizes(env) != (agent.policy.cell.input_size, agent.policy.logits.out_features):
            raise ValueError(f"{path} is of an environment with other spaces")
        agent.env = env
        agent.num_timesteps, agent.baseline = int(summary["num_timesteps"]), summary["baseline"]
        return agent


def _sizes(env: gym.Env[Any, Any]) -> tuple[int, int]:
    observations, actions = env.observation_space, env.action_space
    if not isinstance(actions, gym.spaces.Discrete) or actions.start:
        raise ValueError(f"the controller needs Discrete actions from 0, got {actions}: use action=discrete")
    if not isinstance(observations, gym.spaces.Box) or len(observations.shape) != 1:
        raise ValueError(f"the controller needs observations in a vector, got {observations}: use observation=features")
    return observations.shape[0], int(actions.n)


def _allowed(env: gym.Env[Any, Any]) -> NDArray[np.bool_] | None:
    if not env.has_wrapper_attr("action_masks"):
        return None
    masks: NDArray[np.bool_] = env.get_wrapper_attr("action_masks")()
    return masks
