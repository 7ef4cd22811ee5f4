"""Make the synthetic speech corpus: `python -m experiments.build.corpus` (options: conf/corpus.yaml)."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from experiments.build.synthetic.assets import fetch_assets
from experiments.build.synthetic.choice import CALIBRATION, copy_calibration
from experiments.build.synthetic.engines import load_engine
from experiments.build.synthetic.recipe import SUBSETS, Item, held_out_items, training_items
from experiments.build.synthetic.rendering import focus, remove_others, synthesise, write_index
from experiments.common.command import command
from experiments.common.kinds import NAME, choice, list_of, mapping_of, number, whole
from shrinkml_env.files import write_atomic
from shrinkml_env.progress import progress

# CPU seconds for a second of speech, for the weights of the progress bar.
_COST = {"kokoro": 0.4, "piper": 0.15, "flite": 0.04, "festival": 0.12, "espeak": 0.02}


def _cost(item: Item) -> float:
    return _COST[item.voice.engine] * item.expected_seconds


def _first_hours(items: list[Item], hours: float) -> list[Item]:
    """Return the first items, as many as are expected to fill the hours."""
    total = 0.0
    for count, item in enumerate(items, start=1):
        total += item.expected_seconds
        if total >= hours * 3600.0:
            return items[:count]
    return items


def make_subsets(config: DictConfig) -> None:
    """Synthesise the held-out sets, then the training set engine by engine."""
    root, shipped_root = Path(config.root), Path(config.shipped_root)
    assets = fetch_assets(Path(config.assets_dir))
    held_out = held_out_items(config.utterances, config.seed)
    subsets = [subset for subset in held_out if subset in config.subsets]
    training = training_items(config.hours, config.utterances, config.seed) if "train" in config.subsets else {}
    # Load all engines first, so that a missing one is noticed at once. Flite's voices make the babble noise.
    for engine in {*training, *(("kokoro", "flite") if subsets else ())}:
        load_engine(engine, assets)
    planned = [item for subset in subsets for item in held_out[subset]]
    planned += [item for engine, items in training.items() for item in _first_hours(items, config.hours[engine])]

    bar_format = "{desc} {percentage:3.0f} % |{bar}| {elapsed} elapsed, {remaining} left{postfix}"
    with progress(total=sum(map(_cost, planned)), bar_format=bar_format, smoothing=0.02) as bar:
        done = 0

        def spoken(item: Item) -> None:
            nonlocal done
            done += 1
            bar.set_postfix_str(f"{done} of about {len(planned)} utterances", refresh=False)
            bar.update(_cost(item))

        for subset in subsets:
            bar.set_description(subset)
            shipped = synthesise(held_out[subset], shipped_root, assets, config.workers, progress=spoken)
            write_index(shipped_root, shipped)
            remove_others(shipped_root, shipped)
        kept: list[tuple[Item, float]] = []
        for engine, items in training.items():
            bar.set_description(f"train: {engine}")
            kept += synthesise(items, root, assets, config.workers, config.hours[engine], spoken)
            # After every engine, so that the corpus is usable before it is complete.
            write_index(root, kept)
        if kept:
            remove_others(root, kept)
            ids = focus(kept, config.focus_hours)
            write_atomic(root / "train" / "focus.txt", "\n".join(ids) + "\n")


@command(
    "corpus",
    subsets=list_of(choice(*SUBSETS, CALIBRATION)),
    root=NAME,
    shipped_root=NAME,
    assets_dir=NAME,
    calibration_utterances=whole(1),
    hours=mapping_of(number(least=0)),
    focus_hours=number(least=0),
)
def main(config: DictConfig) -> None:
    """Synthesise the chosen subsets, and copy the calibration set from training."""
    if set(config.subsets) != {CALIBRATION}:
        make_subsets(config)
    if CALIBRATION in config.subsets:
        copy_calibration(Path(config.root), Path(config.shipped_root), config.calibration_utterances, config.seed)


if __name__ == "__main__":
    main()
