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

from agents import UniformRank
from experiments.common.command import command
from experiments.common.compose import to_container
from experiments.common.fetch import fetch
from experiments.common.kinds import SHARE, UTTERANCES, list_of
from experiments.common.parts import part
from experiments.common.pictures import draw_uniform_curve
from experiments.common.rules import every_rank
from experiments.common.run_directory import run_directory
from experiments.common.sets import load_set
from shrinkml_env import EvaluationCache, Evaluator, load_model
from shrinkml_env.compression.factorisations import make_factorisation
from shrinkml_env.files import write_atomic
from shrinkml_env.text_table import format_table


@command("uniform_curve", set=UTTERANCES, sizes=list_of(SHARE, least=0))
def main(config: DictConfig) -> None:
    """Measure, print and draw the curve of one model."""
    fetch(config, "set")
    model = load_model(config.model)
    cache = EvaluationCache()
    evaluator = Evaluator(
        model,
        load_set(config, "set"),
        to_container(config.granularity),
        cache=cache,
        factorisation=make_factorisation(model, part("factorisation", config.factorisation), cache),
        dense=to_container(config.dense),
    )
    problem = every_rank(evaluator)
    configurations: list[Mapping[str, int]] = [{}]
    configurations += [UniformRank().ranks_of_size(problem, size) for size in config.sizes]
    curve = [evaluator.evaluate(ranks) for ranks in tqdm(configurations, desc="uniform ranks", unit="evaluation")]
    head = ("size ratio", "parameters", "WER %", "word errors", "words")
    rows = [
        (f"{e.size_ratio:.3f}", f"{e.params:,}", f"{100 * e.wer:.2f}", str(sum(e.edits)), str(sum(e.words)))
        for e in curve
    ]
    shown = pd.DataFrame(rows, columns=list(head))
    print(format_table(shown))
    directory: Path = run_directory(config, "uniform")
    write_atomic(directory / "uniform.csv", shown.to_csv(index=False))
    draw_uniform_curve(directory / "uniform.png", curve)
    print(f"table and picture: {directory}")


if __name__ == "__main__":
    main()
