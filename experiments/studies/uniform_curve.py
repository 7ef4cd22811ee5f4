"""Measure uniform ranks: ``python -m experiments.studies.uniform_curve [model=MODEL] [set=test]``.

Every layer gets the same fraction of its break-even rank. The table shows WER and word errors at each size ratio: the
curve that a search has to beat. ``dense=[PATTERN, ...]`` keeps layers dense: ``dense=[decoder.*]``. With
``granularity=matrix``, every matrix has its own rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig
from tqdm import tqdm

from experiments.common.command import command
from experiments.common.fetch import fetch
from experiments.common.kinds import SHARE, UTTERANCES, list_of
from experiments.common.parts import part
from experiments.common.report import draw_uniform_curve
from experiments.common.run_directory import plain, run_directory
from shrinkml_env import EvaluationCache, Evaluator, default_cache_path, load_model, load_utterances
from shrinkml_env.envs import make_factorisation
from shrinkml_env.files import write_whole
from shrinkml_env.space.search_space import uniform_ranks
from shrinkml_env.tables import format_table


def uniform_ranks_of_size(evaluator: Evaluator, size_ratio: float) -> dict[str, int]:
    """Return the ranks of the largest uniform fraction of at most a size ratio.

    Args:
        evaluator: The evaluator of the model.
        size_ratio: The largest size ratio, in (0, 1].

    Raises:
        ValueError: The model with rank 1 in all of these layers is larger.
    """
    layers = evaluator.layers
    smallest, largest = 0.0, 1.0
    if evaluator.size_ratio(uniform_ranks(layers, smallest)) > size_ratio:
        raise ValueError(f"no uniform rank makes the model as small as {size_ratio} of its size")
    # A fraction of 2^-20 is far below one rank.
    for _ in range(20):
        middle = (smallest + largest) / 2
        fits = evaluator.size_ratio(uniform_ranks(layers, middle)) <= size_ratio
        smallest, largest = (middle, largest) if fits else (smallest, middle)
    return uniform_ranks(layers, smallest)


@command("uniform_curve", set=UTTERANCES, sizes=list_of(SHARE, least=0))
def main(config: DictConfig) -> None:
    """Measure, print and draw the curve of one model."""
    fetch(config, "set")
    model = load_model(config.model)
    evaluator = Evaluator(
        model,
        load_utterances(plain(config.set)),
        plain(config.granularity),
        cache=EvaluationCache(default_cache_path()),
        factorisation=make_factorisation(model, part("factorisation", config.factorisation)),
        dense=plain(config.dense),
    )
    configurations: list[Mapping[str, int]] = [{}]
    configurations += [uniform_ranks_of_size(evaluator, size) for size in config.sizes]
    curve = [evaluator.evaluate(ranks) for ranks in tqdm(configurations, desc="uniform ranks", unit="evaluation")]
    head = ("size ratio", "parameters", "WER %", "word errors", "words")
    rows = [
        (f"{e.size_ratio:.3f}", f"{e.params:,}", f"{100 * e.wer:.2f}", str(sum(e.edits)), str(sum(e.words)))
        for e in curve
    ]
    shown = pd.DataFrame(rows, columns=list(head))
    print(format_table(shown))
    directory: Path = run_directory(config, "uniform")
    write_whole(directory / "uniform.csv", shown.to_csv(index=False))
    draw_uniform_curve(directory / "uniform.png", curve)
    print(f"table and picture: {directory}")


if __name__ == "__main__":
    main()
