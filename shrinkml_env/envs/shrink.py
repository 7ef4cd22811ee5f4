"""The environment: rank selection as a Markov decision process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from shrinkml_env.compression.layers import Layer, canonical_ranks
from shrinkml_env.envs.rendering import picture, table
from shrinkml_env.evaluation.protocol import SupportsEvaluate
from shrinkml_env.evaluation.result import Evaluation
from shrinkml_env.mdp.actions import ActionKind, MaskedActions
from shrinkml_env.mdp.observations import Observation
from shrinkml_env.mdp.problem import SearchProblem
from shrinkml_env.mdp.shaping import NoPotential, Potential

__all__ = ["MaskableShrinkEnv", "ShrinkEnv"]


class ShrinkEnv(gym.Env[Any, Any]):
    """Choose how far each layer of a speech recogniser is compressed.

    ## Description

    One episode compresses one trained recogniser by truncated SVD. Its layers are decided one after the other, in
    forward order: each step sets one layer's rank, the number of singular triplets that its weight matrices keep. (A
    layer is a group of weight matrices, or with `granularity="matrix"` a single one; with one-shot actions one step
    sets all.) After the last layer the compressed model transcribes a small, fixed set of utterances (the *proxy set*),
    and the reward weighs its word error rate (WER) against its size. Nothing is retrained.

    A rank is chosen among the layer's *candidates*: by default 24 ranks spread evenly up to the break-even rank r*, the
    largest at which two factors hold fewer numbers than the matrix, and the untouched, dense layer.

    ## Action Space

    | `action` | space | meaning |
    | --- | --- | --- |
    | `"continuous"` | `Box(-1, 1, (1,), float32)` | linear in the rank, from the layer's smallest candidate (-1) to dense (+1), rounded to the nearest candidate; r* lies between |
    | `"discrete"` | `Discrete(k)` | index of the candidate, from the smallest (0) to dense; k is the largest number of candidates of any layer |
    | `"energy"` | `Box(-1, 1, (1,), float32)` | (a + 1) / 2 is the share of the squared singular values to keep: the smallest candidate that does |
    | `"delta"` | `Box(-1, 1, (1,), float32)` | added to the previous layer's place between its smallest candidate (0) and dense (1) |
    | `"level"` | `Box(-1, 1, (1,), float32)` | moves the layer up or down from a level that all layers have in common; for search spaces with levels, `"predicted"` and `"allocated"` |
    | `"one_shot"` | `MultiDiscrete([k1, k2, ...])` | the indices of all layers' candidates at once: the episode is a single step |

    With discrete actions `action_masks()` says which candidates the next layer has and the constraint allows at this
    step (`"check"`, `"decrement"` and `"shift"` allow all). Any other index is legal all the same: it takes the next
    allowed rank below, or the smallest allowed one if there is none, and `info["projected"]` is True. An action outside the space raises `ValueError` and changes nothing:
    `step` may be called again with a good one.

    ## Observation Space

    With `observation="features"`, the default, the observation is a `Box(0, 1, (n,), float32)` of named features: the
    kind, shape, share of parameters and multiply-adds, and spectrum of the layer to be decided, how far the episode is,
    the size so far, the smallest that can still be reached and what the constraint leaves, and every decision so far.
    `observation="dict"` gives the same features as a `Dict` of four boxes, `layer`, `episode`, `decided` and `kept`.
    `shrinkml_env.mdp.observations.Features` describes each; `env.unwrapped.observation.names` lists them. No feature
    costs an evaluation.

    ## Rewards

    The reward is 0 at every step but the last. With e and e0 the WER of the compressed and the original model
    (fractions), and s the size ratio (parameters of the compressed model over the original's):

    | `reward` | last step | default options |
    | --- | --- | --- |
    | `"linear"` | -(e - e0) - `size_weight` * s | `size_weight=0.2` |
    | `"threshold"` | 1 - s if e <= e0 + `tolerance`, else -`punishment` | `tolerance=0.005`, `punishment=1.0` |
    | `"soft_threshold"` | 1 - s - `kappa` * max(0, e - e0 - `tolerance`) | `tolerance=0.005`, `kappa=10.0` |
    | `"accuracy"` | -(e - e0), for use with a constraint | |
    | `"divergence"` | -d - `size_weight` * s, where d is the divergence of the model's distributions from the original's | `size_weight=0` |
    | `"amc"` | -e * log(cost) | `cost="params"`, or `"macs"` |
    | `"multiplicative"` | (1 - e) * (s / `target`) ^ `exponent` | `target=0.4`, `exponent=-0.07` |
    | `"absolute"` | (1 - e) + `beta` * abs(s / `target` - 1) | `target=0.4`, `beta=-0.07` |
    | `"harmonic"` | F-measure of 1 - e and 1 - s, the latter `beta` times as important | `beta=0.25` |
    | `"vector"` | the array [-(e - e0), 1 - s], with `reward_space`, for MO-Gymnasium | |

    Any callable of (evaluation, baseline) will do as well. The return is undiscounted: set the agent's gamma to 1. A
    WER may exceed 1; the reward is always finite (where e stands for an accuracy or beside a logarithm it is clipped to
    [1 / reference words, 1]).

    `shaping="activation_error"` (options: `weight=0.1`) adds a reward on the way for decisions that change the layers'
    outputs little. It adds up to 0 over an episode, so that the best policy stays the best
    (`shrinkml_env.mdp.shaping`); `info["reward_terms"]` does not show it.

    ## Constraints

    | `constraint` | effect | options |
    | --- | --- | --- |
    | `"none"` | every configuration is feasible | |
    | `"check"` | nothing is changed, `info["feasible"]` says whether the budget was met | `budget`, `resource="size"` or `"macs"` |
    | `"clip"` | a rank is replaced as soon as the remaining layers would no longer fit, by a smaller one where one fits | the same |
    | `"mask"` | as `"clip"`, for agents that keep to `action_masks()`: discrete actions only | the same |
    | `"decrement"` | after the last decision each layer in turn goes to its next cheaper candidate until the budget is met | the same |
    | `"shift"` | after the last decision all layers move by the same number of levels, up or down, to the largest model within the budget | the same |

    `budget` is the largest share of the original's parameters or multiply-adds. No episode ends above it with the last
    four, and `gym.make` raises `ValueError` if no configuration can meet it.

    ## Starting State

    No layer is decided; all are dense. Nothing is random: the seed given to `reset` only seeds `np_random`.

    ## Episode End

    The episode terminates after its last layer (with one-shot actions after its only step) and is never truncated.

    ## Information

    Every `step` returns `layer` (name of the layer that was decided, the last one if there were several), `ranks`
    (layer name -> rank so far), `size_ratio` (with the undecided layers dense) and `projected` (the constraint changed
    a rank that was asked for, or the layer lacks the index of a discrete action); `reset` returns `ranks` and
    `size_ratio`. The last step adds `wer`, `wer_baseline`, `params` (parameters), `macs` (multiply-adds of the factored
    form over the proxy set, however they are executed), `capped` (utterances whose decoding ran into its token limit),
    `feasible` (the constraint is met; True where there is none) and `reward_terms` (name -> part of the reward), and
    `divergence` if the reward uses it.

    ## Arguments

    ```python
    >>> import gymnasium as gym, shrinkml_env
    >>> env = gym.make("ShrinkML-v0", action="discrete", reward={"name": "linear", "size_weight": 0.3})

    ```

    Every argument of `gym.make` is a name, a mapping with a name and options, or something finished: an object, and for
    `action`, `observation`, `constraint` and `shaping` a class of your own (with options: a `functools.partial` of it):

    | argument | default | meaning |
    | --- | --- | --- |
    | `model` | `"las_small"` | the recogniser: a shipped name, a checkpoint path, or an object |
    | `proxy` | `"proxy"` | the utterances that are transcribed |
    | `action` | `"continuous"` | see Action Space |
    | `observation` | `"features"` | see Observation Space |
    | `reward` | `"linear"` | see Rewards |
    | `constraint` | `"none"` | see Constraints |
    | `shaping` | `"none"` | see Rewards |
    | `factorisation` | `"svd"` | how matrices are factored: plain, or `"activation_aware"` (`shrinkml_env.compression.factorisations`) |
    | `granularity` | `"layer"` | `"matrix"` decides every weight matrix by itself; a mapping, block name -> layer names, decides layers together |
    | `dense` | `[]` | patterns of the names of layers that stay dense: `["decoder.*"]` compresses the encoder alone |
    | `device` | `"cpu"` | where the recogniser runs; `"cuda"` measures a vector environment's configurations side by side |
    | `search_space` | `"full"` | the candidates: `{"name": "full", "count": 16}` for fewer, `"predicted"` or `"allocated"` for levels of predicted damage |
    | `ledger` | `None` | record of the evaluations: `{"path": FILE, "budget": N}` keeps it in a file and limits it |
    | `cache` | `"default"` | where measurements persist: a file (see `default_cache_path`), or None for nowhere |
    | `workers` | `1` | processes that measure the configurations of a vector environment side by side |
    | `memory_mb` | `256` | room for features and activations that configurations share |
    | `render_mode` | `None` | `"ansi"`: `render()` gives the decisions so far as a table; `"rgb_array"`: as a picture; `gymnasium.wrappers.RecordVideo` makes a video of them (needs `pip install moviepy`) |

    ## Version History

    * v1: `gym.make("ShrinkML-v1", size=0.4)` makes the same task with parts that lose less: factors in pivoting
      form with shared inputs and weighed rows, a decision for every matrix (`granularity="matrix"`), candidates at
      levels of the allocation with the least predicted damage (`search_space="allocated"`), actions that move a layer
      away from the common level (`action="level"`), episodes that end just below the size (`constraint="shift"`), and
      the divergence on 12 utterances as the reward (`reward="divergence"`, `proxy="proxy-small"`). In v0 an untrained
      policy begins with broken models; in v1 it begins near the ranks with the least predicted damage, whatever the
      size. `calibration=` names training speech for another model; for the embedded one `"calibration-large"` loses
      less at 0.3 of the size and below than the default's 80 utterances.
    * v0: initial version; it stays, and its numbers do not change.
    """  # noqa: E501

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 1}  # noqa: RUF012 - as in gym.Env

    def __init__(
        self,
        problem: SearchProblem,
        action: ActionKind,
        observation: Observation,
        potential: Potential | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make an environment from finished parts; `shrinkml_env.envs.registration.make_env` makes it from names.

        Args:
            problem: The search problem: layers, candidates, evaluator, reward, constraint and ledger.
            action: The kind of actions; made with this problem, like the next two.
            observation: The kind of observations.
            potential: The potential of reward shaping; by default none.
            render_mode: None, ``"ansi"`` or ``"rgb_array"``.

        Raises:
            ValueError: The render mode is unknown, or parts are incompatible: a constraint that needs masks with
                actions that have none, or a vector reward with shaping.
        """
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
        if problem.constraint.needs_masks and not isinstance(action, MaskedActions):
            raise ValueError(
                f"the constraint needs masks, but the actions of {type(action).__name__} have no masks: use the "
                "constraint 'clip', or discrete actions"
            )
        if problem.reward_space is not None and not isinstance(potential, NoPotential | None):
            raise ValueError("a vector reward cannot be shaped: leave out `shaping`")
        self.problem = problem
        self.action = action
        self.observation = observation
        self.potential = potential or NoPotential(problem)
        self.action_space = self.action.space
        self.observation_space = self.observation.space
        self.render_mode = render_mode
        self._ranks: tuple[int, ...] | None = None
        self._evaluation: Evaluation | None = None
        if problem.reward_space is not None:
            self.reward_space = problem.reward_space

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers to decide, in forward order: one a step, or all in one step with one-shot actions."""
        return self.problem.layers

    @property
    def evaluator(self) -> SupportsEvaluate:
        """The evaluator that measures configurations."""
        return self.problem.evaluator

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode with every layer dense. `options` are not used."""
        super().reset(seed=seed)
        self._ranks, self._evaluation = (), None
        return self.observation(()), self._info(())

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Set the rank of the next layer; with one-shot actions, of all layers.

        Raises:
            ValueError: The action is not in the action space, or the reward is not finite; the episode is unchanged.
            BudgetExhausted: This was the last layer, the configuration is new, and the ledger's budget is spent.
            ResetNeeded: The episode is over, or `reset` was never called.
        """
        ranks, projected = self._decide(action)
        terminated = len(ranks) == len(self.layers)
        # Everything that can fail comes before the state changes.
        shaping = self.potential(ranks) - self.potential(self._ranks or ())
        observation = self.observation(ranks)
        evaluation = self.problem.evaluate(self.problem.search_space.named(ranks)) if terminated else None
        reward, outcome = (self._no_reward, {}) if evaluation is None else self.outcome(evaluation, ranks)
        info = {"layer": self.layers[len(ranks) - 1].name, "projected": projected, **self._info(ranks), **outcome}
        if self.problem.reward_space is None:
            reward += shaping
        self._ranks, self._evaluation = ranks, evaluation
        return observation, reward, terminated, False, info

    def completed_by(self, action: Any) -> dict[str, int] | None:
        """Return the configuration that an action would complete, without a step; None if the episode would continue.

        Raises:
            ValueError: The action is not in the action space.
            ResetNeeded: The episode is over, or `reset` was never called.
        """
        ranks, _ = self._decide(action)
        return self.problem.search_space.named(ranks) if len(ranks) == len(self.layers) else None

    def close(self) -> None:
        """Stop the evaluator's workers and release the ledger's file."""
        self.problem.close()

    def actions_for(self, ranks: Mapping[str, int]) -> Sequence[Any]:
        """Return the actions of one episode that replay a configuration.

        Args:
            ranks: Layer name -> rank, for any of the evaluator's layers; layers without an entry are dense.

        Raises:
            ValueError: A layer is unknown, a rank is not a candidate, or a layer outside the search space is not dense.
        """
        complete = canonical_ranks(self.evaluator.layers, ranks)
        space = self.problem.search_space
        decided = space.ranks(space.places(complete))
        for layer in self.evaluator.layers:
            if layer.name not in decided and complete[layer.name] != layer.max_rank:
                raise ValueError(
                    f"layer {layer.name!r} is not in the search space: it stays dense ({layer.max_rank}), and no "
                    f"action gives it rank {complete[layer.name]}"
                )
        return self.action.encode(tuple(decided.values()))

    def render(self) -> str | NDArray[np.uint8] | None:
        """Return the decisions so far as a table (``"ansi"``) or as an RGB image, (height, width, 3) (``"rgb_array"``).

        Raises:
            DependencyNotInstalled: The mode is ``"rgb_array"`` and Matplotlib is missing.
        """
        if self.render_mode is None:
            gym.logger.warn("render() needs a render mode: gym.make(..., render_mode='ansi')")
            return None
        draw = table if self.render_mode == "ansi" else picture
        return draw(self.problem, self._ranks or (), self._evaluation)

    def _decide(self, action: Any) -> tuple[tuple[int, ...], bool]:
        """Return the ranks after an action, and whether they differ from the requested ones."""
        before = self._ranks
        if before is None or len(before) == len(self.layers):
            raise ResetNeeded("the episode is over (or has not begun): call reset() before step()")
        request = self.action.decode(before, action)
        ranks = self.problem.constraint.apply(before, request.ranks)
        return ranks, request.projected or ranks != before + request.ranks

    @property
    def _no_reward(self) -> Any:
        space = self.problem.reward_space
        return 0.0 if space is None else np.zeros(space.shape, np.float32)

    def _info(self, ranks: tuple[int, ...]) -> dict[str, Any]:
        size_ratio = self.problem.params_after(ranks) / self.problem.baseline.params
        return {"ranks": self.problem.search_space.named(ranks), "size_ratio": size_ratio}

    def outcome(self, evaluation: Evaluation, ranks: tuple[int, ...]) -> tuple[Any, dict[str, Any]]:
        """Return the reward of a measured configuration, and the entries that it adds to the last step's info."""
        reward, terms = self.problem.reward(evaluation)
        divergence = {} if evaluation.divergence is None else {"divergence": evaluation.divergence}
        return reward, {
            "wer": evaluation.wer,
            "wer_baseline": self.problem.baseline.wer,
            "params": evaluation.params,
            "macs": evaluation.macs,
            "capped": evaluation.capped,
            "feasible": self.problem.is_feasible(self.problem.search_space.named(ranks)),
            "reward_terms": terms,
            **divergence,
        }


class MaskableShrinkEnv(ShrinkEnv):
    """A `ShrinkEnv` whose actions have masks, with the method that sb3-contrib's agents call."""

    action: MaskedActions

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are allowed now, shape (actions,)."""
        return self.action.masks(self._ranks or ())
