"""The tabular environments: the decision process on a `Table`, with more than ten thousand steps a second."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from shrinkml_env.checks import whole_number
from shrinkml_env.envs.rendering import picture, table
from shrinkml_env.envs.shrink import ShrinkEnv
from shrinkml_env.mdp.actions import IndependentActions, MaskedActions
from shrinkml_env.space.table import TableEvaluator

__all__ = ["MaskableTabularEnv", "MaskableVectorTabularEnv", "TabularEnv", "VectorTabularEnv"]


class _Node(NamedTuple):
    """The results of a step into one state."""

    observation: Any
    reward: float
    terminated: bool
    info: dict[str, Any]
    ranks: dict[str, int]


class TabularEnv(gym.Env[Any, Any]):
    """Choose how far blocks of layers are compressed, with all results known: ``gym.make("ShrinkMLTabular-v0")``.

    ## Description

    The decision process of `ShrinkML-v0` on a search space small enough to be known completely. Every configuration has
    been measured by real recognition, and a *table* holds the results, so that a step costs microseconds and the best
    configuration is known. What an agent finds here, it finds in the live environment with the same blocks and
    candidates, `gym.make("ShrinkML-v0", **env.unwrapped.live_kwargs)`: observations, actions, rewards, infos and the
    ledger are the same.

    ```python
    >>> import gymnasium as gym, shrinkml_env
    >>> env = gym.make("ShrinkMLTabular-v0", reward="accuracy")
    >>> observation, info = env.reset()
    >>> terminated = False
    >>> while not terminated:
    ...     observation, reward, terminated, truncated, info = env.step(3)  # dense
    >>> info["size_ratio"], reward
    (1.0, 0.0)
    >>> env.unwrapped.optimum > reward, env.unwrapped.regret(env.unwrapped.optimum)
    (True, 0.0)

    ```

    ## Action Space

    `Discrete(k)` by default, the index of a candidate of the next block, from the smallest rank (0) to dense; k is 4 in
    the shipped tables. `action=` takes every other kind whose meaning depends on the block alone: `"continuous"`,
    `"energy"`, and `"level"` on a table with levels.

    ## Observation Space

    `Box(0, 1, (n,), float32)`, the features of `ShrinkML-v0` about blocks; n = 36 for the default table.

    ## Rewards

    As in `ShrinkML-v0`: 0 at every step but the last. `"divergence"` needs a table that holds divergences. A vector
    reward has no optimum and is refused. `optimum` is the largest reward of all episodes; `regret(reward)` is 0 for it
    and 1 for the median of all episodes.

    ## Starting State

    No block is decided; all are dense. Nothing is random.

    ## Episode End

    The episode terminates after its last block, seven steps in the default table, and is never truncated.

    ## Information

    As in `ShrinkML-v0`.

    ## Version History

    * v0: initial version. A table is data of a version: its name always stands for the same measurements.
    """

    metadata = ShrinkEnv.metadata

    def __init__(self, twin: ShrinkEnv, live_kwargs: Mapping[str, Any]) -> None:
        """Make an environment of another one; `gym.make` does both.

        Args:
            twin: An environment on a `TableEvaluator`; it computes the results of each state once.
            live_kwargs: Arguments of ``gym.make("ShrinkML-v0", ...)`` for the same problem, measured without the table.

        Raises:
            TypeError: The evaluator of `twin` is not a `TableEvaluator`.
            ValueError: The actions depend on earlier decisions, or the reward is a vector.
        """
        evaluator = twin.problem.evaluator
        if not isinstance(evaluator, TableEvaluator):
            raise TypeError("a tabular environment needs an environment on a TableEvaluator")
        if not isinstance(twin.action, IndependentActions):
            raise ValueError(
                "tabular environments need actions whose meaning depends on the layer alone, as that of 'delta' and "
                "'one_shot' does not"
            )
        twin.problem.require_scalar_reward("the optimum of a tabular environment")
        self.twin = twin
        self.live_kwargs = dict(live_kwargs)
        self.evaluator, self.table = evaluator, evaluator.table
        self.problem, self.layers = twin.problem, twin.layers
        self.action_space, self.observation_space = twin.action_space, twin.observation_space
        self.render_mode = twin.render_mode
        self.action = twin.action
        self._space = self.problem.search_space
        self._counts = self._space.counts
        self._nodes: list[dict[int, _Node]] = [{} for _ in range(len(self.layers) + 1)]
        # Configuration that is asked for -> the one that the constraint makes of it, both by their number.
        self._after_constraint: list[dict[int, int]] = [{} for _ in range(len(self.layers) + 1)]
        self._changes_decisions = twin.problem.constraint.changes_decisions
        self._measured: set[int] = set()
        self._depth, self._number = -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. `options` are not used."""
        super().reset(seed=seed)
        self._depth, self._number = 0, 0
        return self.twin.reset()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Set the rank of the next layer, as `ShrinkEnv.step` does."""
        depth = self._depth
        if not 0 <= depth < len(self._counts):
            raise ResetNeeded("the episode is over (or has not begun): call reset() before step()")
        place, projected = self.action.place(depth, action)
        asked = self._number * self._counts[depth] + place
        number = self.after_constraint(depth + 1, asked) if self._changes_decisions else asked
        node = self._nodes[depth + 1].get(number) or self._make(depth + 1, number)
        if node.terminated and number not in self._measured:
            self.problem.evaluate(node.ranks)  # may raise: the budget
            self._measured.add(number)
        self._depth, self._number = depth + 1, number
        info = {**node.info, "ranks": node.ranks.copy(), "projected": projected or number != asked}
        if node.terminated:
            info["reward_terms"] = node.info["reward_terms"].copy()
        # Callers may change what they get; the node must stay as it is.
        kept = node.observation
        observation = {name: box.copy() for name, box in kept.items()} if isinstance(kept, dict) else kept.copy()
        return observation, node.reward, node.terminated, False, info

    def after_constraint(self, depth: int, number: int) -> int:
        """Return what the constraint makes of the ranks of the first layers, the last of which was just asked for.

        Args:
            depth: The number of these layers, at least 1.
            number: The index of their configuration; and so is the result.

        Raises:
            ValueError: The constraint gives a rank that is no candidate.
        """
        moved = self._after_constraint[depth]
        if number not in moved:
            *before, wanted = self._prefix(depth, number)
            ranks = self.problem.constraint.apply(tuple(before), [wanted])
            places = [choices.index(rank) for choices, rank in zip(self._space.candidates, ranks, strict=False)]
            moved[number] = int(np.ravel_multi_index(places, self._counts[:depth]))
        return moved[number]

    def actions_for(self, ranks: Mapping[str, int]) -> Sequence[Any]:
        """Return the actions that replay a configuration, as `ShrinkEnv.actions_for` does."""
        return self.twin.actions_for(ranks)

    def close(self) -> None:
        """Release the ledger's file."""
        self.twin.close()

    def render(self) -> Any:
        """Show the decisions so far, as `ShrinkEnv.render` does."""
        if self.render_mode is None:
            return self.twin.render()
        ranks = self._decided
        over = self._depth == len(self.layers)
        evaluation = self.problem.evaluator.evaluate(self._space.named(ranks)) if over else None
        return (table if self.render_mode == "ansi" else picture)(self.problem, ranks, evaluation)

    @cached_property
    def final_numbers(self) -> NDArray[np.int64]:
        """The configuration that each episode ends with, by index in the table, (configurations,).

        Episodes are in the order of the configurations that they ask for, which only constraints change. Any candidates
        may be asked for here, also those that the actions do not reach.
        """
        numbers = np.zeros(1, np.int64)
        for depth, count in enumerate(self._counts):
            numbers = (numbers[:, None] * count + np.arange(count)).ravel()
            if self._changes_decisions:
                numbers = np.array([self.after_constraint(depth + 1, number) for number in numbers.tolist()])
        return numbers

    @cached_property
    def table_rewards(self) -> NDArray[np.float64]:
        """The reward of every configuration, in the table's order, (configurations,)."""
        return np.array(self.problem.rewards(self.evaluator.evaluations))

    @property
    def rewards(self) -> NDArray[np.float64]:
        """The reward of every episode, in the order of `final_numbers`, (configurations,)."""
        found: NDArray[np.float64] = self.table_rewards[self.final_numbers]
        return found

    @cached_property
    def feasible(self) -> NDArray[np.bool_]:
        """Whether each episode ends within the constraint, in the order of `final_numbers`, (configurations,)."""
        meets = np.array([self.problem.is_feasible(ranks) for ranks in self.table.configurations()])
        found: NDArray[np.bool_] = meets[self.final_numbers]
        return found

    @cached_property
    def optimum(self) -> float:
        """The largest reward of an episode that meets the constraint.

        Raises:
            ValueError: No configuration meets the constraint.
        """
        feasible = self.feasible
        if not feasible.any():
            raise ValueError("no configuration of the table meets the constraint: raise the budget")
        return float(self.rewards[feasible].max())

    def regret(self, reward: float) -> float:
        """Return the normalised regret, (optimum - reward) / (optimum - median): 0 for the optimum, 1 for the median.

        The median is taken over all episodes, feasible or not. A configuration that no episode ends with may be better
        than the optimum: its regret is negative.

        Raises:
            ValueError: No configuration meets the constraint, or none that does is better than the median.
        """
        median = float(np.median(self.rewards))
        if self.optimum <= median:
            raise ValueError("nothing that meets the constraint is better than the median: allow more, or less")
        return (self.optimum - reward) / (self.optimum - median)

    def _make(self, depth: int, number: int) -> _Node:
        ranks = self._prefix(depth, number)
        named = self._space.named(ranks)
        info: dict[str, Any] = {"layer": self.layers[depth - 1].name, "size_ratio": self.problem.size(named)}
        reward, terminated = 0.0, depth == len(self.layers)
        if terminated:
            reward, outcome = self.twin.outcome(self.problem.evaluator.evaluate(named), ranks)
            info |= outcome
        node = _Node(self.twin.observation(ranks), reward, terminated, info, named)
        self._nodes[depth][number] = node
        return node

    @property
    def _decided(self) -> tuple[int, ...]:
        """The ranks of the layers decided so far."""
        return self._prefix(max(0, self._depth), self._number)

    def _prefix(self, depth: int, number: int) -> tuple[int, ...]:
        """Return the ranks of the first `depth` layers, given the index of their configuration."""
        places = np.unravel_index(number, self._counts[:depth])
        return tuple(self._space.ranks([int(place) for place in places]).values())


class MaskableTabularEnv(TabularEnv):
    """A `TabularEnv` whose actions have masks, with the method that sb3-contrib's agents call."""

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are allowed now, shape (actions,)."""
        action = self.twin.action
        assert isinstance(action, MaskedActions)
        return action.masks(self._decided)


class VectorTabularEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """Many episodes on the table at once, vectorised with NumPy.

    All episodes begin and end together; they are reset in the same step, and the last observations are in
    ``infos["final_obs"]``. Infos hold ``size_ratio``, and at the end ``wer`` and ``number``, the indices of the
    configurations in the table; these are in ``infos["final_info"]`` as well, where Gymnasium's wrappers look. The
    environment is made for speed: it neither counts evaluations nor has a budget, nor does it render.

    Args:
        env: A tabular environment with vector observations.
        num_envs: Number of episodes, at least 1.

    Raises:
        ValueError: The observations are not vectors, `num_envs` is below 1, or the table does not hold every
            configuration on the environment's set.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - as in gym.vector.VectorEnv

    def __init__(self, env: TabularEnv, num_envs: int) -> None:
        if not isinstance(env.observation_space, gym.spaces.Box):
            raise ValueError("the vector version has vector observations: leave out `observation`")
        subset = env.evaluator.subset
        if (env.table.edits[subset] < 0).any():
            raise ValueError(f"the table holds only some configurations on {subset!r}: choose another set")
        self.num_envs = num_envs = whole_number("num_envs", num_envs, least=1)
        self.autoreset_mode = self.metadata["autoreset_mode"]  # TorchRL reads this attribute
        self.env = env
        self._counts = env.problem.search_space.counts
        self.single_action_space, self.single_observation_space = env.action_space, env.observation_space
        self.action_space = batch_space(env.action_space, num_envs)
        self.observation_space = batch_space(env.observation_space, num_envs)
        self._depth, self._numbers = -1, np.zeros(num_envs, np.int64)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin N episodes. `seed` and `options` are not used: nothing is random."""
        self._depth, self._numbers = 0, np.zeros(self.num_envs, np.int64)
        return self._observe(0, self._numbers), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Set the rank of the next layer in every episode.

        Raises:
            ValueError: An action is not in the action space, or their number is not `num_envs`.
            ResetNeeded: `reset` was never called.
        """
        depth, env = self._depth, self.env
        if depth < 0:
            raise ResetNeeded("no episode has begun: call reset() before step()")
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions for {self.num_envs} environments")
        numbers = self._numbers * self._counts[depth] + env.action.places(depth, actions)
        if env.problem.constraint.changes_decisions:
            numbers = self._numbers_after_constraint[depth + 1][numbers]
        observations, sizes = self._observe(depth + 1, numbers), self._states[depth + 1][1][numbers]
        infos: dict[str, Any] = {"size_ratio": sizes}
        over = depth + 1 == len(env.layers)
        if over:
            subset = env.evaluator.subset
            infos |= {"wer": env.table.edits[subset][numbers] / env.table.words[subset], "number": numbers}
            infos |= {"final_obs": observations, "final_info": self._of_all(infos)}
            rewards = env.table_rewards[numbers]
            observations, _ = self.reset()
        else:
            rewards = np.zeros(self.num_envs)
            self._depth, self._numbers = depth + 1, numbers
        never = np.zeros(self.num_envs, np.bool_)
        return observations, rewards, np.full(self.num_envs, over), never, self._of_all(infos)

    def _of_all(self, infos: Mapping[str, Any]) -> dict[str, Any]:
        """Return infos with Gymnasium's masks: ``_name`` says which environments have a value; here all have."""
        return {**infos, **{f"_{name}": np.ones(self.num_envs, np.bool_) for name in infos}}

    def _observe(self, depth: int, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        observations: NDArray[np.float32] = self._states[depth][0][numbers]
        return observations

    @property
    def decided(self) -> tuple[int, NDArray[np.int64]]:
        """The number of layers decided, and the index of each episode's configuration of these layers, (num_envs,)."""
        return max(0, self._depth), self._numbers

    @cached_property
    def _numbers_after_constraint(self) -> list[NDArray[np.int64]]:
        """What the constraint makes of every configuration, by index, for each number of decided layers."""
        sizes = np.cumprod([1, *self._counts])
        return [
            np.array([self.env.after_constraint(depth, number) for number in range(size)] if depth else [0])
            for depth, size in enumerate(sizes)
        ]

    @cached_property
    def _states(self) -> list[tuple[NDArray[np.float32], NDArray[np.float64]]]:
        """The observations and the size ratios of all states, for each number of decided layers."""
        states = []
        for depth in range(len(self.env.layers) + 1):
            prefixes = list(itertools.product(*self.env.table.candidates[:depth]))
            observations = np.stack([self.env.twin.observation(ranks) for ranks in prefixes])
            sizes = np.array([self.env.problem.size(self.env.problem.search_space.named(ranks)) for ranks in prefixes])
            states.append((observations, sizes))
        return states


class MaskableVectorTabularEnv(VectorTabularEnv):
    """A `VectorTabularEnv` whose actions have masks."""

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are allowed now, shape (num_envs, actions)."""
        depth, numbers = self.decided
        masks: NDArray[np.bool_] = self._masks[depth][numbers]
        return masks

    @cached_property
    def _masks(self) -> list[NDArray[np.bool_]]:
        """The masks of all states, for each number of decided layers."""
        action = self.env.twin.action
        assert isinstance(action, MaskedActions)
        candidates = self.env.table.candidates
        return [
            np.stack([action.masks(ranks) for ranks in itertools.product(*candidates[:depth])])
            for depth in range(len(candidates))
        ]
