"""The Markov decision process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from shrinkml_env.actions import ActionKind
from shrinkml_env.compression.layers import Layer, canonical_ranks
from shrinkml_env.evaluation.ledger import SupportsEvaluate
from shrinkml_env.observations import Observation
from shrinkml_env.problem import SearchProblem

__all__ = ["ShrinkEnv"]


class ShrinkEnv(gym.Env[Any, Any]):
    """Choose how far each layer of a speech recogniser is compressed.

    ## Description

    One episode compresses one trained recogniser by truncated SVD. Its layers are decided one after the other, in
    forward order: each step sets one layer's rank, the number of singular triplets that its weight matrices keep. After
    the last layer the compressed model transcribes a small, fixed set of utterances (the *proxy set*), and the reward
    weighs its word error rate (WER) against its size. Nothing is retrained.

    A rank is chosen among the layer's *candidates*: by default 24 ranks spread evenly up to the break-even rank r*, the
    largest at which two factors hold fewer numbers than the matrix, and the untouched, dense layer.

    ## Action Space

    | `action` | space | meaning |
    | --- | --- | --- |
    | `"continuous"` | `Box(-1, 1, (1,), float32)` | linear in the rank, from the layer's smallest candidate (-1) over r* to dense (+1), then the nearest candidate |
    | `"discrete"` | `Discrete(k)` | index of the candidate, from the smallest (0) to dense; k is the largest number of candidates of any layer |

    With discrete actions `action_masks()` says which ones the next layer has. One that it lacks is legal all the same:
    it takes the nearest allowed rank, and `info["projected"]` is True. An action outside the space raises `ValueError`
    and changes nothing: `step` may be called again with a good one.

    ## Observation Space

    With `observation="features"`, the default, a `Box(0, 1, (n,), float32)` of named features: the kind, shape, share
    of parameters and multiply-adds, and spectrum of the layer to be decided, how far the episode is, the size so far
    and the smallest that can still be reached, and every decision so far.
    `shrinkml_env.observations.Features` describes each; `env.unwrapped.observation.names` lists them. No feature costs
    an evaluation.

    ## Rewards

    0 at every step but the last. With e and e0 the WER of the compressed and the original model (fractions), and s the
    size ratio (parameters of the compressed model over the original's):

    | `reward` | last step | default options |
    | --- | --- | --- |
    | `"linear"` | -(e - e0) - `size_weight` * s | `size_weight=0.1` |
    | `"threshold"` | 1 - s if e <= e0 + `tolerance`, else -`punishment` | `tolerance=0.005`, `punishment=1.0` |

    The return is undiscounted: set the agent's gamma to 1. A WER may exceed 1; the reward is always finite.

    ## Starting State

    No layer is decided; all are dense. Nothing is random: the seed given to `reset` only seeds `np_random`.

    ## Episode End

    The episode terminates after its last layer and is never truncated.

    ## Information

    Every `step` returns `layer` (name of the layer that was decided), `ranks` (layer name -> rank so far), `size_ratio`
    (with the undecided layers dense) and `projected`; `reset` returns `ranks` and `size_ratio`. The last step adds
    `wer`, `wer_baseline`, `params` (parameters), `macs` (multiply-adds of the factored form over the proxy set, however
    they are executed), `capped` (utterances whose decoding ran into its token limit), `feasible` (the constraint is met;
    True where there is none) and `reward_terms` (name -> part of the reward).

    ## Arguments

    ```python
    >>> import gymnasium as gym, shrinkml_env
    >>> env = gym.make("ShrinkML-v0", action="discrete", reward={"name": "linear", "size_weight": 0.2})

    ```

    Every argument of `gym.make` is a name, a mapping with a name and options, or a finished object:

    | argument | default | meaning |
    | --- | --- | --- |
    | `model` | `"las_small"` | the recogniser: a shipped name, a checkpoint path, or an object |
    | `proxy` | `"proxy"` | the utterances that are transcribed |
    | `action` | `"continuous"` | see Action Space |
    | `observation` | `"features"` | see Observation Space |
    | `reward` | `"linear"` | see Rewards |
    | `granularity` | `"layer"` | `"matrix"` decides every weight matrix by itself |
    | `device` | `"cpu"` | where the recogniser runs |
    | `search_space` | `"full"` | the candidates; `{"name": "full", "count": 16}` for fewer |
    | `ledger` | `None` | record of the evaluations: `{"path": FILE, "budget": N}` keeps it in a file and limits it |
    | `render_mode` | `None` | `"ansi"`: `render()` gives the decisions so far as a table |

    ## Version History

    * v0: initial version
    """  # noqa: E501

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - as in gym.Env

    def __init__(
        self,
        problem: SearchProblem,
        action: ActionKind,
        observation: Observation,
        render_mode: str | None = None,
    ) -> None:
        """An environment of finished parts; `shrinkml_env.registration.make_env` builds them from names.

        Args:
            problem: Layers, candidates, measurement, reward and ledger.
            action: How a rank is chosen; bound to the problem here.
            observation: What is seen; bound to the problem here.
            render_mode: None or ``"ansi"``.

        Raises:
            ValueError: The render mode is unknown.
        """
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
        self.problem = problem
        self.action = action.bind(problem)
        self.observation = observation.bind(problem)
        self.action_space = self.action.space
        self.observation_space = self.observation.space
        self.render_mode = render_mode
        self._ranks: tuple[int, ...] | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers to decide, in forward order: one step each."""
        return self.problem.layers

    @property
    def evaluator(self) -> SupportsEvaluate:
        """What measures a configuration."""
        return self.problem.evaluator

    @property
    def action_masks(self) -> Callable[[], NDArray[np.bool_]]:
        """``action_masks()``: which actions are allowed now, for the action kinds that have masks; absent otherwise."""
        masks = getattr(self.action, "masks", None)
        if masks is None:
            raise AttributeError(f"actions of {type(self.action).__name__} have no masks")
        return lambda: masks(self._ranks or ())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode with every layer dense. `options` are not used."""
        super().reset(seed=seed)
        self._ranks = ()
        return self.observation(self._ranks), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Decide the next layer.

        Raises:
            ValueError: The action is not in the action space; the episode goes on unchanged.
            BudgetExhausted: This was the last layer, the configuration is new, and the ledger's budget is spent.
            ResetNeeded: The episode is over, or `reset` was never called.
        """
        if self._ranks is None or self._is_over(self._ranks):
            raise ResetNeeded("the episode is over (or has not begun): call reset() before step()")
        index = len(self._ranks)
        ranks, projected = self.action.decode(self._ranks, action)
        terminated = self._is_over(ranks)
        reward, outcome = self._outcome(ranks) if terminated else (0.0, {})
        self._ranks = ranks  # only now: an action or a measurement that fails changes nothing
        info = {"layer": self.layers[index].name, "projected": projected, **self._info(), **outcome}
        return self.observation(ranks), reward, terminated, False, info

    def actions_for(self, ranks: Mapping[str, int]) -> Sequence[Any]:
        """The actions of one episode that replay a configuration.

        Args:
            ranks: Layer name -> rank; what it leaves out is dense.

        Raises:
            ValueError: A layer is unknown or a rank is not a candidate.
        """
        complete = canonical_ranks(self.layers, ranks)
        checked = [self.problem.search_space.check(index, rank) for index, rank in enumerate(complete.values())]
        return self.action.encode(tuple(checked))

    def render(self) -> str | None:
        """The decisions so far as a table, with ``render_mode="ansi"``."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render mode: gym.make(..., render_mode='ansi')")
            return None
        ranks = self._ranks or ()
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"{'layer':<{width}}  {'rank':>5}  {'of':>5}  {'kept':>6}"]
        for index, layer in enumerate(self.layers):
            rank = ranks[index] if index < len(ranks) else layer.max_rank
            kept = layer.parameters(rank) / layer.parameters(layer.max_rank)
            shown = "" if index >= len(ranks) else "dense" if rank == layer.max_rank else str(rank)
            lines.append(f"{layer.name:<{width}}  {shown:>5}  {layer.max_rank:>5}  {kept:>6.1%}")
        lines.append(f"size ratio {self.problem.size(self._named(ranks)):.3f}")
        return "\n".join(lines)

    def _is_over(self, ranks: tuple[int, ...]) -> bool:
        return len(ranks) == len(self.layers)

    def _named(self, ranks: tuple[int, ...]) -> dict[str, int]:
        return {layer.name: rank for layer, rank in zip(self.layers, ranks, strict=False)}

    def _info(self) -> dict[str, Any]:
        ranks = self._named(self._ranks or ())
        return {"ranks": ranks, "size_ratio": self.problem.size(ranks)}

    def _outcome(self, ranks: tuple[int, ...]) -> tuple[float, dict[str, Any]]:
        """Measure a finished configuration: its reward and what the last step's info tells of it."""
        evaluation = self.problem.evaluate(self._named(ranks))
        reward, terms = self.problem.reward(evaluation)
        return reward, {
            "wer": evaluation.wer,
            "wer_baseline": self.problem.baseline.wer,
            "params": evaluation.params,
            "macs": evaluation.macs,
            "capped": evaluation.capped,
            "feasible": True,
            "reward_terms": terms,
        }
