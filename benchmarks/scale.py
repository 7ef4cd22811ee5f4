"""Measure how the cost of evaluations scales: ``python -m benchmarks.scale``. Draws docs/images/scale.png."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib as mpl
import torch
from hydra.utils import instantiate
from torch import nn
from tqdm import tqdm

from benchmarks.report import Section
from experiments.common.compose import compose_config
from experiments.common.pictures import plt
from shrinkml_env import CompressibleModel, Evaluator, count_parameters, load_model, load_utterances
from shrinkml_env.asr import LAS, LASConfig
from shrinkml_env.compression import SVD, round_to_storage
from shrinkml_env.space.search_space import uniform_ranks

PICTURE = Path("docs/images/scale.png")
SIZES = (9, 18, 36, 72, 144, 288)
WORKERS = tuple(range(1, 1 + len(os.sched_getaffinity(0))))
FRACTION = 0.5


def seconds(model: CompressibleModel, count: int, repeats: int = 3) -> float:
    """Return the time of a cold evaluation on `count` utterances of the pool, the fastest of several."""
    utterances = load_utterances("proxy-pool")[:count]
    factorisation = SVD(model)
    ranks = uniform_ranks(model.layers, FRACTION)
    times = []
    for _ in range(repeats):
        evaluator = Evaluator(model, utterances, factorisation=factorisation)
        started = time.perf_counter()
        evaluator.evaluate(ranks)
        times.append(time.perf_counter() - started)
    return min(times)


def random_model(units: int) -> LAS:
    """Return a model like las_small, but wider and with random weights."""
    small = load_model("las_small")
    assert isinstance(small, LAS)
    config = replace(
        small.config,
        encoder_units=units,
        attention_units=units,
        embedding_units=units // 2,
        decoder_units=units,
        readout_units=units,
    )
    return _random(config, small)


def random_large() -> LAS:
    """Return las_large with random weights; units beyond las_small's vocabulary are never chosen."""
    small = load_model("las_small")
    assert isinstance(small, LAS)
    config = compose_config("train_asr", ["architecture=las_large"]).architecture
    large = _random(instantiate(config.sizes), small)
    decoder = large.decoder
    decoder.embedding = nn.Embedding(config.vocabulary_size, decoder.embedding.embedding_dim)
    decoder.output = nn.Linear(decoder.output.in_features, config.vocabulary_size)
    with torch.no_grad():
        decoder.output.bias[len(small.tokenizer) :] = -1e4
    round_to_storage(large)
    return large.eval()


def _random(config: LASConfig, small: LAS) -> LAS:
    torch.manual_seed(0)
    model = LAS(config, small.tokenizer, small.decoding).eval()
    round_to_storage(model)
    return model


MODELS: dict[str, Callable[[], LAS]] = {
    "192 (las_small's encoder)": partial(random_model, 192),
    "384": partial(random_model, 384),
    "768": partial(random_model, 768),
    "1024 (las_large)": random_large,
}


def peak_megabytes(name: str) -> float:
    """Return the peak resident memory of a process that makes one evaluation on 72 utterances."""
    # Not getrusage's ru_maxrss, which in a new process starts with the parent's value.
    code = (
        f"from benchmarks.scale import *; torch.set_num_threads(1); seconds(MODELS[{name!r}](), 72, 1); "
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    kilobytes = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return float(kilobytes) / 1024


def seconds_with(model: CompressibleModel, workers: int) -> float:
    """Return the mean time of an evaluation when several workers share many; starting the workers does not count."""
    evaluator = Evaluator(model, load_utterances("proxy"), workers=workers, memory=0)
    first, *ranks = (uniform_ranks(evaluator.layers, fraction) for fraction in torch.linspace(0.3, 0.7, 25).tolist())
    list(evaluator.evaluate_many([first, {}]))
    started = time.perf_counter()
    list(evaluator.evaluate_many(ranks))
    spent = time.perf_counter() - started
    evaluator.close()
    return spent / len(ranks)


def draw(by_count: Mapping[int, float], by_size: Mapping[int, float], by_workers: Mapping[int, float]) -> None:
    """Draw the time of an evaluation by utterances, by parameters and by workers."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    panels[0].loglog(list(by_count), list(by_count.values()), "o-")
    panels[0].set_xlabel("utterances, las_small")
    panels[1].loglog([size / 1e6 for size in by_size], list(by_size.values()), "o-")
    panels[1].set_xlabel("million parameters, 72 utterances")
    panels[2].plot(list(by_workers), [1 / value for value in by_workers.values()], "o-")
    panels[2].set_xlabel("workers, las_small")
    panels[2].set_xticks(list(by_workers))
    panels[2].set_ylim(0, None)
    for axis in (panels[0].xaxis, panels[0].yaxis, panels[1].xaxis, panels[1].yaxis):
        axis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
        axis.set_minor_formatter(mpl.ticker.NullFormatter())
    for panel in panels:
        panel.set_ylabel("evaluations a second" if panel is panels[2] else "seconds an evaluation")
        panel.grid(alpha=0.3, which="both")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)


def measure() -> Section:
    """Measure the effect of proxy size, model size and workers on time, and of model size on memory."""
    torch.set_num_threads(1)
    small = load_model("las_small")
    by_count = {count: seconds(small, count) for count in tqdm(SIZES, desc="proxy sizes")}
    by_model = {}
    for name, make in tqdm(MODELS.items(), desc="model sizes"):
        model = make()
        by_model[name] = (count_parameters(model), seconds(model, 72, 1), peak_megabytes(name))
    by_workers = {workers: seconds_with(small, workers) for workers in tqdm(WORKERS, desc="workers")}
    draw(by_count, {parameters: value for parameters, value, _ in by_model.values()}, by_workers)
    return Section(
        "Scale",
        f"One cold evaluation, one thread, uniform ranks at {FRACTION} of break-even; wider models have random weights "
        "and decode up to their token limit, so they are the worst case.\n\n![Cost of an evaluation](images/scale.png)",
        {
            "proxy": (("utterances", "s"), [(str(count), f"{value:.2f}") for count, value in by_count.items()]),
            "workers": (
                ("workers", "evaluations a second", "more than one worker by"),
                [
                    (str(workers), f"{1 / value:.2f}", f"{by_workers[1] / value:.2f}x")
                    for workers, value in by_workers.items()
                ],
            ),
            "model": (
                ("encoder units", "parameters", "s", "peak memory of the process, MB"),
                [
                    (name, f"{parameters / 1e6:.1f} M", f"{value:.2f}", f"{memory:.0f}")
                    for name, (parameters, value, memory) in by_model.items()
                ],
            ),
        },
    )


if __name__ == "__main__":
    measure().print()
