"""How the cost grows: ``python -m benchmarks.scale``. Draws docs/images/scale.png."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import matplotlib as mpl
import torch

mpl.use("Agg")
from matplotlib import pyplot as plt
from tqdm import tqdm

from benchmarks.report import Section
from shrinkml_env import CompressibleModel, Evaluator, load_model, load_utterances
from shrinkml_env.asr import LAS, LASConfig
from shrinkml_env.compression import SVD, round_to_storage
from shrinkml_env.search_space import uniform_ranks

PICTURE = Path("docs/images/scale.png")
SIZES = (9, 18, 36, 72, 144, 288)
UNITS = (192, 384, 768, 1024)
FRACTION = 0.5


def seconds(model: CompressibleModel, count: int, repeats: int = 3) -> float:
    """Of a cold evaluation on so many utterances of the pool; the fastest of some."""
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
    """As las_small but wider, with random weights; at 1024 units as large as las_large."""
    small = load_model("las_small")
    assert isinstance(small, LAS)
    torch.manual_seed(0)
    sizes = LASConfig(
        encoder_units=units,
        time_reduction=small.config.time_reduction,
        attention_units=units,
        embedding_units=units // 2,
        decoder_units=units,
        readout_units=units,
    )
    model = LAS(sizes, small.tokenizer, small.decoding).eval()
    round_to_storage(model)
    return model


def peak_megabytes(units: int) -> float:
    """Largest resident memory of a process that makes one evaluation on 72 utterances."""
    code = (
        f"from benchmarks.scale import *; torch.set_num_threads(1); seconds(random_model({units}), 72, 1); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def measure() -> Section:
    """Proxy size, model size and memory."""
    torch.set_num_threads(1)
    small = load_model("las_small")
    by_count = {count: seconds(small, count) for count in tqdm(SIZES, desc="proxy sizes")}
    by_units = {}
    for units in tqdm(UNITS, desc="model sizes"):
        model = random_model(units)
        by_units[units] = (sum(p.numel() for p in model.parameters()), seconds(model, 72, 1), peak_megabytes(units))
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    panels[0].loglog(list(by_count), list(by_count.values()), "o-")
    panels[0].set_xlabel("utterances, las_small")
    panels[1].loglog([p / 1e6 for p, _, _ in by_units.values()], [s for _, s, _ in by_units.values()], "o-")
    panels[1].set_xlabel("million parameters, 72 utterances")
    for panel in panels:
        panel.set_ylabel("seconds an evaluation")
        panel.grid(alpha=0.3, which="both")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)
    return Section(
        "Scale",
        f"One cold evaluation, one thread, uniform ranks at {FRACTION} of break-even; wider models have random weights "
        "and decode up to their token limit, so they are the worst case.\n\n![Cost of an evaluation](images/scale.png)",
        {
            "proxy": (("utterances", "s"), [(str(count), f"{value:.2f}") for count, value in by_count.items()]),
            "model": (
                ("encoder units", "parameters", "s", "peak memory of the process, MB"),
                [
                    (str(units), f"{parameters / 1e6:.1f} M", f"{value:.2f}", f"{memory:.0f}")
                    for units, (parameters, value, memory) in by_units.items()
                ],
            ),
        },
    )


if __name__ == "__main__":
    measure().print()
