"""Time one cold evaluation, and each of its stages: ``python -m benchmarks.evaluation``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from agents import UniformRank
from benchmarks.reference import Careful, Straightforward
from benchmarks.report import Section, spread
from benchmarks.timing import compare
from experiments.common.rules import every_rank
from shrinkml_env import Evaluator, compress, load_model, load_utterances
from shrinkml_env.asr import LAS
from shrinkml_env.compression import SVD, in_batches, matrix_ranks

ROUNDS = 5
SIZE = 0.5


def gemm_gflops(size: int = 1024, repeats: int = 10) -> float:
    """Return the multiply-adds a second of a large float32 matrix product on this thread, in billions."""
    one, other = torch.randn(2, size, size)
    one @ other
    started = time.perf_counter()
    for _ in range(repeats):
        one @ other
    return repeats * size**3 / (time.perf_counter() - started) / 1e9


def profile(model: LAS, waveforms: list[torch.Tensor]) -> dict[str, float]:
    """Return the seconds of each stage of recognising all waveforms once."""
    seconds: dict[str, float] = {}

    def timed(name: str, run: Any) -> Any:
        started = time.perf_counter()
        result = run()
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
        return result

    with torch.inference_mode():
        for batch in in_batches([waveform.numel() for waveform in waveforms]):
            chosen = [waveforms[index] for index in batch]
            state = timed("features", lambda chosen=chosen: model.begin(chosen))
            for stage, names in enumerate(model.stages):
                state = timed(names[0], lambda stage=stage, state=state: model.advance(stage, state))
            timed("attention and decoder", lambda chosen=chosen, state=state: model.finish(chosen, state))
    return seconds


def executed_macs(evaluator: Evaluator, ranks: Mapping[str, int]) -> int:
    """Return the multiply-adds that are executed, given that a factored W_hh is multiplied out and runs dense."""
    by_matrix = Evaluator(evaluator.model, evaluator.utterances, "matrix", factorisation=evaluator.factorisation)
    chosen = matrix_ranks(evaluator.model.layers, ranks)
    return by_matrix.macs({name: rank for name, rank in chosen.items() if "weight_hh" not in name})


def measure() -> Section:
    """Compare with the references A and B, and profile the stages."""
    torch.set_num_threads(1)
    model = load_model("las_small")
    assert isinstance(model, LAS)
    utterances = load_utterances("proxy")
    factorisation = SVD(model)
    # Without memory every evaluation is cold: it computes the features anew, as A and B do.
    evaluator = Evaluator(model, utterances, factorisation=factorisation, memory=0)
    uniform = UniformRank().ranks_of_size(every_rank(evaluator), SIZE)
    rest_dense = Evaluator(model, utterances, factorisation=factorisation, memory=0, dense=["encoder.5", "decoder.*"])
    sound = UniformRank().ranks_of_size(every_rank(rest_dense), SIZE)
    contenders: dict[str, Any] = {
        "A, straightforward": Straightforward(model, utterances).wer,
        "B, careful": Careful(model, utterances, factorisation).wer,
        "ShrinkML": lambda ranks: evaluator.evaluate(ranks).wer,
    }
    rows = []
    for kind, ranks in {"every layer alike": uniform, "encoder.0 to encoder.4 only": sound}.items():
        measured = {name: way(ranks) for name, way in contenders.items()}
        if max(measured.values()) - min(measured.values()) > 1e-9:
            raise RuntimeError(f"the three ways do not measure the same WER: {measured}")
        comparison = compare({name: partial(_run, way, ranks) for name, way in contenders.items()}, ROUNDS, kind)
        for name in contenders:
            faster = "" if name == "ShrinkML" else spread(comparison.times_faster("ShrinkML", than=name))
            rows.append((kind, f"{100 * measured[name]:.1f} %", name, f"{comparison.median(name):.2f}", faster))
    compressed = compress(model, sound, factorisation)
    assert isinstance(compressed, LAS)
    waveforms = [utterance.waveform for utterance in utterances]
    profile(compressed, waveforms)
    seconds = profile(compressed, waveforms)
    total = sum(seconds.values())
    products = total - seconds["features"]
    executed = executed_macs(evaluator, sound)
    peak = gemm_gflops()
    share = executed / products / 1e9 / peak
    return Section(
        "One evaluation",
        f"The default model at size ratio {SIZE} on the default proxy set, nothing cached, one thread each; "
        f"{ROUNDS} rounds in turns. A and B are in [benchmarks/reference.py](../benchmarks/reference.py). With every "
        "layer compressed alike the model is broken, and decoding runs into its limits; with the encoder alone it is "
        "sound.",
        {
            "times": (("compressed", "WER", "way", "median, s", "ShrinkML is faster by"), rows),
            "where the time goes": (
                ("stage, encoder.0 to encoder.4 compressed", "s", "share"),
                [(name, f"{value:.3f}", f"{value / total:.0%}") for name, value in seconds.items()],
            ),
        },
        [
            f"Executed in the second case: {executed / 1e9:.1f} billion multiply-adds, padding not counted, in "
            f"{products:.2f} s without the features: {share:.0%} of the {peak:.0f} billion a second of a large matrix "
            "product.",
        ],
    )


def _run(way: Any, ranks: Mapping[str, int], _: int) -> None:
    way(ranks)


if __name__ == "__main__":
    measure().print()
