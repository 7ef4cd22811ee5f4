"""Draw pictures of the documentation: ``python -m experiments.build.pictures``.

``rewards.png`` shows every scalar reward of the WER with its defaults, over size ratio and WER; ``episode.png`` an
episode of ``ShrinkML-v1`` after half of its steps.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.kinds import NAME
from experiments.common.pictures import plt, save_figure
from shrinkml_env import Evaluation
from shrinkml_env.envs.wrapped import episode_length
from shrinkml_env.mdp.rewards import REWARDS, Reward

PARAMS, MACS, WORDS = 6_400_000, 10_000_000_000, 10_000
BASELINE_WER = 0.03


def measured(wer: float, size_ratio: float) -> Evaluation:
    """Return the evaluation of a model with this WER and size ratio."""
    edits, params, macs = round(wer * WORDS), round(size_ratio * PARAMS), round(size_ratio * MACS)
    return Evaluation({}, (edits,), (WORDS,), params, size_ratio, macs, capped=0)


def draw_rewards(path: Path) -> None:
    """Draw every scalar reward of the WER over size ratio and WER."""
    made = {name: kind() for name, kind in REWARDS.items()}
    rewards = {name: reward for name, reward in made.items() if isinstance(reward, Reward) and reward.signal == "wer"}
    original = measured(BASELINE_WER, 1.0)
    sizes = np.linspace(0.05, 1.0, 96)
    # Half of the picture shows models that are good enough to use.
    errors = np.concatenate([np.linspace(0.0, 0.1, 81), np.linspace(0.1, 1.2, 81)[1:]])
    columns = np.arange(len(errors))
    figure, panels = plt.subplots(2, 4, figsize=(13, 6.2), sharex=True, sharey=True, constrained_layout=True)
    for panel, (name, reward) in zip(panels.flat, rewards.items(), strict=True):
        surface = np.array([[reward(measured(wer, size), original) for wer in errors] for size in sizes])
        # Colours and most lines resolve the half that is good enough to use; a few lines continue into the rest.
        useful = surface[:, errors <= 0.1]
        levels = np.unique([*np.linspace(useful.min(), useful.max(), 11), *np.linspace(surface.min(), useful.min(), 7)])
        image = panel.pcolormesh(columns, sizes, surface, vmin=useful.min(), cmap="viridis", rasterized=True)
        panel.contour(columns, sizes, surface, levels, colors="white", linewidths=0.6, linestyles="solid")
        panel.plot(np.interp(BASELINE_WER, errors, columns), 1.0, "*", color="red", markersize=13, clip_on=False)
        panel.set_title(name)
        figure.colorbar(image, ax=panel)
    ticks = [0.0, 0.03, 0.1, 0.4, 0.8, 1.2]
    panels[0, 0].set_xticks(
        [float(np.interp(tick, errors, columns)) for tick in ticks], [f"{100 * tick:g}" for tick in ticks]
    )
    for panel in panels[1]:
        panel.set_xlabel("WER, %")
    for panel in panels[:, 0]:
        panel.set_ylabel("size ratio")
    save_figure(figure, path, dpi=80)


def draw_episode(path: Path) -> None:
    """Draw an episode of ``ShrinkML-v1`` at 0.4 of the size whose actions are 0, after half of its steps."""
    env = gym.make("ShrinkML-v1", size=0.4, render_mode="rgb_array")
    env.reset()
    for _ in range(episode_length(env) // 2):
        env.step(np.zeros(1, np.float32))
    plt.imsave(path, np.asarray(env.render(), np.uint8))


@command("pictures", images=NAME)
def main(config: DictConfig) -> None:
    """Draw the pictures."""
    folder = Path(config.images)
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in {"rewards.png": draw_rewards, "episode.png": draw_episode}.items():
        draw(folder / name)
        print(folder / name)


if __name__ == "__main__":
    main()
