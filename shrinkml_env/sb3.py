"""Support for Stable-Baselines3: the vector environment as a ``VecEnv``, and a callback that ends a search.

This is the only module of the library that imports Stable-Baselines3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from shrinkml_env.envs.vector import VectorShrinkEnv
from shrinkml_env.envs.wrapped import budget_of, search_problem
from shrinkml_env.evaluation import BudgetExhausted, Evaluation, Ledger
from shrinkml_env.evaluation.progress import ProgressBar
from shrinkml_env.mdp.problem import SearchProblem

__all__ = ["BudgetCallback", "EvaluationLog", "Scores", "ShrinkVecEnv", "with_callbacks"]


class ShrinkVecEnv(VecEnv):
    """A `VectorShrinkEnv` as a ``VecEnv``: ``PPO("MlpPolicy", ShrinkVecEnv(gym.make_vec("ShrinkML-v0", num_envs=8)))``.

    As Stable-Baselines3 expects it, episodes are reset in the same step and their last observation is in
    ``info["terminal_observation"]``. Each finished episode's return and length are in ``info["episode"]``, as its
    Monitor wrapper has them.

    A step in which the budget runs out raises `BudgetExhausted`, as `VectorShrinkEnv` does. With a `BudgetCallback` the
    first such step returns the previous observations and rewards of 0 instead, and the callback ends the training
    before the agent learns from them; another step raises.

    Args:
        envs: The environment that ``gym.make_vec`` returns.

    Attributes:
        hides_budget_end: Whether the next step hides the end of the budget; `BudgetCallback` sets it before each step.

    Raises:
        ValueError: The rewards are vectors, which Stable-Baselines3 does not support.
        TypeError: `envs` is another environment.
    """

    def __init__(self, envs: VectorShrinkEnv) -> None:
        if not isinstance(envs, VectorShrinkEnv):
            raise TypeError(f'envs must be what gym.make_vec("ShrinkML-v0", num_envs=8) returns, got {envs!r}')
        envs.first.problem.require_scalar_reward(
            "Stable-Baselines3", "wrap the single environment in MO-Gymnasium's LinearReward"
        )
        self.envs = envs
        self._space = envs.first.problem.search_space
        self.hides_budget_end = False
        self._actions: Any = None
        self._observations: Any = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, int)

    def reset(self) -> Any:
        """Begin N episodes, with the seeds that the method `seed` has set."""
        observations, infos = self.envs.reset(seed=None if None in self._seeds else list(self._seeds))
        self.reset_infos = self._split(infos)
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0, 0
        self._observations = observations
        return observations

    @property
    def first(self) -> gym.Env[Any, Any]:
        """The first of the environments; all have the same search problem."""
        return self.envs.first

    @property
    def spec(self) -> EnvSpec | None:
        """The environment's specification, with the arguments of ``gym.make_vec``."""
        return self.envs.spec

    def step_async(self, actions: NDArray[Any]) -> None:
        """Store the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step every environment with the stored actions."""
        try:
            observations, rewards, terminated, _, infos = self.envs.step(self._actions)
        except BudgetExhausted:
            if not self.hides_budget_end:
                raise
            self.hides_budget_end = False
            nothing = np.zeros(self.num_envs, np.float32)
            return self._observations, nothing, nothing.astype(np.bool_), [{} for _ in range(self.num_envs)]
        self._observations = observations
        self._returns += rewards
        self._lengths += 1
        split = self._split(infos)
        last = self._split(infos["final_info"]) if terminated.any() else []
        for index in np.flatnonzero(terminated):
            episode = {"r": float(self._returns[index]), "l": int(self._lengths[index])}
            self.reset_infos[index] = {name: split[index][name] for name in ("ranks", "size_ratio")}
            split[index] = {
                **last[index],
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
        """Return an attribute of each environment."""
        return [getattr(env, attr_name) for env in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of each environment."""
        for env in self._chosen(indices):
            setattr(env, attr_name, value)

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return the rendering of each environment; called by ``render("rgb_array")``."""
        return self.envs.render()

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of each environment, such as ``action_masks``."""
        return [getattr(env, method_name)(*args, **kwargs) for env in self._chosen(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None) -> list[bool]:
        """Return False for each environment: there are no wrappers."""
        return [False for _ in self._chosen(indices)]

    def _chosen(self, indices: int | Iterable[int] | None) -> Sequence[gym.Env[Any, Any]]:
        return [self.envs.envs[index] for index in self._get_indices(indices)]

    def _split(self, infos: dict[str, Any]) -> list[dict[str, Any]]:
        """Convert Gymnasium's dictionary of arrays into one dictionary for each environment."""
        return [self._named(_pick(infos, index)) for index in range(self.num_envs)]

    def _named(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return an info with the layers' names in place of their indices, as the single environment has them."""
        if "ranks" in info:
            info["ranks"] = self._space.named([int(rank) for rank in info["ranks"] if rank])
        if "layer" in info:
            info["layer"] = self._space.layers[info["layer"]].name
        return info


class Scores:
    """The numbers that are logged for each evaluation: `wer`, `size_ratio` and, for scalar rewards, `best_reward`.

    The best reward is that of the best feasible configuration so far, or of the best infeasible one while there is no
    feasible one.

    Args:
        problem: The search problem; its earlier evaluations count for the best reward.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._best = (False, -np.inf)
        if problem.reward_space is None and (best := problem.best) is not None:
            self._best = (best.feasible, best.reward)

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """Return the values after a new evaluation."""
        values = {"wer": evaluation.wer, "size_ratio": evaluation.size_ratio}
        if self._problem.reward_space is None:
            reward, _ = self._problem.reward(evaluation)
            self._best = max(self._best, (self._problem.is_feasible(evaluation.ranks), reward))
            values["best_reward"] = self._best[1]
        return values


class EvaluationLog:
    """An observer of a ledger that records every evaluation in an agent's logger.

    TensorBoard gets ``evaluation/wer``, ``evaluation/size_ratio`` and ``evaluation/best_reward`` of each evaluation
    (see `Scores`), with the number of evaluations as the step. The logger's other outputs get the values of the latest
    evaluation, and the number of evaluations as ``evaluation/count``.

    Args:
        logger: The agent's logger.
        problem: The search problem.
    """

    def __init__(self, logger: Logger, problem: SearchProblem) -> None:
        self._logger, self._scores = logger, Scores(problem)
        self._writers = [form.writer for form in logger.output_formats if isinstance(form, TensorBoardOutputFormat)]

    def __call__(self, evaluation: Evaluation, count: int) -> None:
        """Record an evaluation; `count` is the number of unique evaluations with it."""
        values = self._scores(evaluation)
        for name, value in values.items():
            for writer in self._writers:
                writer.add_scalar(f"evaluation/{name}", value, count)
        for name, value in {**values, "count": count}.items():
            self._logger.record(f"evaluation/{name}", value, exclude="tensorboard")

    def close(self) -> None:
        """Flush TensorBoard's writers."""
        for writer in self._writers:
            writer.flush()


class BudgetCallback(BaseCallback):
    """Ends ``learn`` when the budget of unique evaluations is spent.

    ``learn`` then returns normally, and other callbacks, such as ``CheckpointCallback``, see the end of the training:
    ``agent.learn(10**6, callback=[BudgetCallback(progress_bar=True), CheckpointCallback(...)])``. Give an
    ``EvalCallback`` its own environment: episodes that it plays on the training environment count as evaluations.

    Every new evaluation is recorded in the agent's logger, and in TensorBoard (see `EvaluationLog`).

    Args:
        progress_bar: Whether to show a progress bar of the evaluations.
        verbose: As in Stable-Baselines3.
    """

    def __init__(self, progress_bar: bool = False, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.progress_bar = progress_bar
        self._ledger = Ledger()
        self._observers: list[EvaluationLog | ProgressBar] = []

    def _on_training_start(self) -> None:
        self.close()  # an earlier `learn` may have ended by an error
        problem = _problem_of(self.training_env.unwrapped)
        budget = budget_of(problem)
        self._ledger = problem.ledger
        self._observers = [EvaluationLog(self.logger, problem)]
        if self.progress_bar:
            self._observers.append(ProgressBar(budget))
        for observer in self._observers:
            self._ledger.subscribe(observer)
        self._hide_budget_end()

    def _on_rollout_start(self) -> None:
        self._hide_budget_end()

    def _on_step(self) -> bool:
        self._hide_budget_end()
        return not self._ledger.spent

    def _on_training_end(self) -> None:
        self.close()

    def close(self) -> None:
        """Unsubscribe from the ledger. Stable-Baselines3 does not call this when ``learn`` ends by an error."""
        if self._observers and isinstance(env := self.training_env.unwrapped, ShrinkVecEnv):
            env.hides_budget_end = False
        for observer in self._observers:
            self._ledger.unsubscribe(observer)
            observer.close()
        self._observers = []

    def _hide_budget_end(self) -> None:
        if isinstance(env := self.training_env.unwrapped, ShrinkVecEnv):
            env.hides_budget_end = True


def _problem_of(env: VecEnv) -> SearchProblem:
    """Return the search problem of the environment that an agent plays.

    Raises:
        TypeError: It is not a ShrinkML environment.
        ValueError: It consists of several environments with separate budgets.
    """
    if isinstance(env, SubprocVecEnv):
        raise ValueError(
            "a budget cannot be counted in other processes: use ShrinkVecEnv(gym.make_vec(...)), whose `workers` "
            "measure side by side, in place of SubprocVecEnv"
        )
    if isinstance(env, DummyVecEnv) and env.num_envs > 1:
        raise ValueError(
            "environments in a DummyVecEnv do not end together: use "
            f'ShrinkVecEnv(gym.make_vec("ShrinkML-v0", num_envs={env.num_envs}, ledger=...))'
        )
    return search_problem(env)


def with_callbacks(
    ours: BaseCallback,
    theirs: BaseCallback | Sequence[BaseCallback] | Callable[[dict[str, Any], dict[str, Any]], bool] | None,
) -> CallbackList:
    """Combine a callback with the user's argument `callback` of ``learn``: None, a callback, a list, or a function."""
    if theirs is None:
        return CallbackList([ours])
    if isinstance(theirs, Sequence):
        return CallbackList([ours, *theirs])
    return CallbackList([ours, theirs if isinstance(theirs, BaseCallback) else ConvertCallback(theirs)])


def _pick(infos: dict[str, Any], index: int) -> dict[str, Any]:
    picked = {}
    for name, values in infos.items():
        if name.startswith("_") or not infos.get(f"_{name}", [False] * (index + 1))[index]:
            continue
        picked[name] = _pick(values, index) if isinstance(values, dict) else _plain(values[index])
    return picked


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
