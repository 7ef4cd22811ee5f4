"""Train PPO on some tables and use its policy on another: ``python -m experiments.studies.transfer``.

The policy sees what describes the next layer and the state of the episode, which has the same form on every table, and
chooses one of as many candidates. Beside it learns a policy that begins on the last table. A score is 1 - the
normalised regret, as in the benchmark.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig
from stable_baselines3.common.vec_env import DummyVecEnv

from experiments.common.agent import steps_are_known
from experiments.common.command import command
from experiments.common.compose import compose_config, to_container
from experiments.common.kinds import NAME, list_of, whole
from experiments.common.options import REWARD
from experiments.common.parts import part
from experiments.common.pictures import plt, save_figure
from experiments.common.results import Cell
from experiments.common.statistics import difference, iqm
from experiments.common.study import Report, publish, study_results
from shrinkml_env.envs import TabularEnv, make_tabular_env
from shrinkml_env.space.table import Table

GROUPS = ("layer", "episode")
"""The boxes of the observation that have the same form on every table."""

ARMS = ("transferred", "from scratch")


@dataclass(frozen=True, slots=True)
class Learning:
    """One policy that learns.

    Attributes:
        agent: Config of the agent.
        reward: Config of the reward.
        before: The tables to learn on at first; none for a policy from scratch.
        episodes_before: Number of episodes on them, all together.
        table: The table to learn on at last.
        checkpoints: Numbers of episodes on it after which the policy is judged, ascending.
        judged: Number of episodes in which it is judged.
        seed: Seed of the agent.
    """

    agent: DictConfig
    reward: DictConfig
    before: tuple[str, ...]
    episodes_before: int
    table: str
    checkpoints: tuple[int, ...]
    judged: int
    seed: int


@dataclass(frozen=True, slots=True)
class Learned:
    """The mean score of the policy's episodes at each checkpoint."""

    scores: list[float]


def make_flat_env(table: str, reward: DictConfig) -> gym.Env[Any, Any]:
    """Make the environment of a table, whose observation is a vector of the same form for every table."""
    env = make_tabular_env(table=table, reward=part("reward", reward), observation="dict")
    return gym.wrappers.FlattenObservation(gym.wrappers.FilterObservation(env, list(GROUPS)))


def on_table(env: gym.Env[Any, Any]) -> TabularEnv:
    """Return the tabular environment inside its wrappers."""
    inner = env.unwrapped
    assert isinstance(inner, TabularEnv)
    return inner


def judge(agent: Any, env: gym.Env[Any, Any], episodes: int) -> float:
    """Return the mean score of an agent's episodes, in which it draws its actions.

    The state of torch's generator stays, so that judging an agent does not change what it learns.
    """
    returns = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(episodes):
            observation, terminated, total = env.reset()[0], False, 0.0
            while not terminated:
                action, _ = agent.predict(observation, deterministic=False)
                observation, reward, terminated, _, _ = env.step(action)
                total += float(reward)
            returns.append(total)
    return 1 - on_table(env).regret(float(np.mean(returns)))


def new_agent(config: DictConfig, tables: Sequence[str], reward: DictConfig) -> Any:
    """Make an agent that plays on some tables, all at once, whose layers are equally many."""
    envs = DummyVecEnv([partial(make_flat_env, table, reward) for table in tables])
    with steps_are_known(layers_of(tables[0])):
        return instantiate(config, env=envs, _convert_="all")


def layers_of(table: str) -> int:
    """Return the number of a table's layers: the steps of an episode."""
    return len(Table.load(table).layers)


def make(task: Learning) -> dict[str, Any]:
    """Return `Learned`, as JSON."""
    agent = new_agent(task.agent, [task.table], task.reward)
    if task.before:
        before = new_agent(task.agent, task.before, task.reward)
        before.learn(task.episodes_before * layers_of(task.before[0]))
        agent.policy.load_state_dict(before.policy.state_dict())
    env, scores, played = make_flat_env(task.table, task.reward), [], 0
    for episodes in task.checkpoints:
        if episodes > played:
            agent.learn((episodes - played) * layers_of(task.table), reset_num_timesteps=False)
            played = episodes
        scores.append(judge(agent, env, task.judged))
    return asdict(Learned(scores))


def grid(config: DictConfig) -> list[Cell[Learning]]:
    """Return the cells: for every reward and seed the policy that comes from other tables, and the one from scratch.

    Raises:
        ValueError: The tables' layers do not have the same number of candidates, those to train on are not equally
            many, or the checkpoints do not ascend or are not whole updates of the agent.
    """
    tables = {name: Table.load(name) for name in (*config.train, config.table)}
    counts = {name: sorted(set(map(len, table.candidates))) for name, table in tables.items()}
    if len(set(itertools.chain(*counts.values()))) > 1:
        raise ValueError(f"train, table: all layers must have the same number of candidates, got {counts}")
    if sorted(set(config.checkpoints)) != list(config.checkpoints):
        raise ValueError(f"checkpoints must ascend, got {list(config.checkpoints)}")
    depths = {name: len(tables[name].layers) for name in config.train}
    if len(set(depths.values())) > 1:
        raise ValueError(f"train: tables must have the same number of layers, got {depths}")
    with steps_are_known():
        update = int(compose_config("search", ["agent=ppo"]).agent.n_steps)
    if any(episodes % update for episodes in config.checkpoints):
        raise ValueError(f"checkpoints must be multiples of {update}, the episodes between two updates of the agent")
    for reward, name in itertools.product(config.rewards, tables):
        make_flat_env(name, compose_config("search", [f"reward={reward}"]).reward)  # the table may lack what it needs
    cells = []
    for reward, seed, arm in itertools.product(config.rewards, range(config.seeds), ARMS):
        search = compose_config("search", ["agent=ppo", f"reward={reward}", "action=discrete"])
        search.seed = seed
        before = tuple(config.train) if arm == "transferred" else ()
        task = Learning(
            search.agent,
            search.reward,
            before,
            config.episodes_before if before else 0,
            config.table,
            tuple(config.checkpoints),
            config.judged,
            seed,
        )
        content = {**asdict(task), "agent": to_container(task.agent), "reward": to_container(task.reward)}
        content |= {"before": [tables[name].content for name in before], "table": tables[config.table].content}
        cells.append(Cell(task, content, {"arm": arm, "reward": reward, "seed": seed}))
    return cells


def curves(cells: Sequence[Cell[Learning]], found: Sequence[Learned], arm: str) -> NDArray[np.float64]:
    """Return the scores of an arm's policies, (seeds, rewards, checkpoints)."""
    lines: dict[str, list[list[float]]] = {}
    for cell, learned in zip(cells, found, strict=True):
        if cell.about["arm"] == arm:
            lines.setdefault(cell.about["reward"], []).append(learned.scores)
    return np.array(list(lines.values())).transpose(1, 0, 2)


def table(config: DictConfig, scores: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
    """Return a row for each checkpoint: the interquartile mean of both arms' scores, and their difference."""
    transferred, scratch = (scores[arm] for arm in ARMS)
    rows = [
        (
            str(episodes),
            *(str(iqm(scores[arm][:, :, place])) for arm in ARMS),
            str(difference(transferred[:, :, place], scratch[:, :, place])),
        )
        for place, episodes in enumerate(config.checkpoints)
    ]
    return pd.DataFrame(rows, columns=[f"episodes on {config.table}", *ARMS, "difference"])


def draw(path: Path, config: DictConfig, scores: dict[str, NDArray[np.float64]]) -> None:
    """Draw the scores of both arms against the episodes on the last table."""
    figure, axes = plt.subplots(figsize=(7, 4.5), constrained_layout=True)
    for arm in ARMS:
        values = [iqm(scores[arm][:, :, place]) for place in range(len(config.checkpoints))]
        (line,) = axes.plot(config.checkpoints, [value.value for value in values], "o-", markersize=3, label=arm)
        low, high = ([getattr(value, end) for value in values] for end in ("low", "high"))
        axes.fill_between(config.checkpoints, low, high, color=line.get_color(), alpha=0.15)
    axes.set_xscale("symlog", linthresh=10)
    axes.set(xlabel=f"episodes on {config.table}", ylabel="score of the policy's mean return (IQM, 95 %)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_figure(figure, path, dpi=120)


@command(
    "transfer",
    checkpoints=list_of(whole(0)),
    episodes_before=whole(1),
    judged=whole(1),
    rewards=list_of(REWARD),
    table=NAME,
    train=list_of(NAME),
)
def main(config: DictConfig) -> None:
    """Train, judge, print and draw."""
    cells = grid(config)
    found = study_results("transfer", config, cells, make, lambda result: Learned(**result), "policies")
    scores = {arm: curves(cells, found, arm) for arm in ARMS}
    report = Report([table(config, scores)], {"transfer": lambda path: draw(path, config, scores)})
    publish("transfer", config, report)


if __name__ == "__main__":
    main()
