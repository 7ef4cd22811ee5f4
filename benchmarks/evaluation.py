"""One evaluation, cold: ``python -m benchmarks.evaluation``. Prints a table and where the time goes."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.reference import Careful, Straightforward
from benchmarks.report import Section, spread
from benchmarks.timing import compare
from experiments.uniform_curve import uniform_ranks_of_size
from shrinkml_env import Evaluator, compress, load_model, load_utterances
from shrinkml_env.asr import LAS
from shrinkml_env.compression import SVD, in_batches

ROUNDS = 5
SIZE = 0.5


def gemm_gflops(size: int = 1024, repeats: int = 10) -> float:
    """Multiply-adds a second of a large float32 matrix product on this thread, in billions."""
    one, other = torch.randn(2, size, size)
    one @ other
    started = time.perf_counter()
    for _ in range(repeats):
        one @ other
    return repeats * size**3 / (time.perf_counter() - started) / 1e9


def profile(model: LAS, waveforms: list[torch.Tensor]) -> dict[str, float]:
    """Seconds in each stage of recognising everything once."""
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


def executed_macs(evaluator: Evaluator, ranks: dict[str, int]) -> int:
    """Multiply-adds that are really computed: a factored W_hh is multiplied back and runs dense."""
    dense_recurrent = {name: rank for name, rank in ranks.items() if not name.endswith(("weight_hh_l0", "weight_hh"))}
    return evaluator.macs(dense_recurrent)


def measure() -> Section:
    """The comparison with A and B, and the profile."""
    torch.set_num_threads(1)
    model = load_model("las_small")
    assert isinstance(model, LAS)
    utterances = load_utterances("proxy")
    factorisation = SVD(model)
    by_matrix = Evaluator(model, utterances, "matrix", factorisation=factorisation)
    ranks = uniform_ranks_of_size(Evaluator(model, utterances, factorisation=factorisation), SIZE)
    straightforward = Straightforward(model, utterances)
    careful = Careful(model, utterances, factorisation)

    # Without memory for activations every evaluation is cold. Only the features are there, as in every search, whose
    # first evaluation is the baseline.
    evaluator = Evaluator(model, utterances, factorisation=factorisation, memory=0)
    evaluator.evaluate({})

    def cold(_: int) -> float:
        return evaluator.evaluate(ranks).wer

    comparison = compare(
        {
            "A, straightforward": lambda _: straightforward.wer(ranks),
            "B, careful": lambda _: careful.wer(ranks),
            "ShrinkML": cold,
        },
        ROUNDS,
        "one evaluation",
    )
    if not (abs(cold(0) - careful.wer(ranks)) < 1e-9 and abs(cold(0) - straightforward.wer(ranks)) < 1e-9):
        raise RuntimeError("the three ways do not measure the same WER")
    rows = [
        (
            name,
            f"{comparison.median(name):.2f}",
            spread(comparison.times_faster("ShrinkML", than=name)) if name != "ShrinkML" else "",
        )
        for name in comparison.seconds
    ]
    matrices = {
        matrix.name: ranks[layer.name] for layer in model.layers for matrix in layer.matrices if layer.name in ranks
    }
    compressed = compress(model, ranks, factorisation)
    waveforms = [utterance.waveform for utterance in utterances]
    profile(compressed, waveforms)
    seconds = profile(compressed, waveforms)
    total = sum(seconds.values())
    executed = executed_macs(by_matrix, matrices)
    peak = gemm_gflops()
    share = executed / total / 1e9 / peak
    return Section(
        "One evaluation",
        f"The default model at size ratio {SIZE} on the default proxy set, nothing cached, one thread each; "
        f"{ROUNDS} rounds in turns. A and B are in [benchmarks/reference.py](../benchmarks/reference.py).",
        {
            "times": (("way", "median, s", "ShrinkML is faster by"), rows),
            "where the time goes": (
                ("stage", "s", "share"),
                [(name, f"{value:.3f}", f"{value / total:.0%}") for name, value in seconds.items()],
            ),
        },
        [
            f"Executed: {executed / 1e9:.1f} billion multiply-adds in {total:.2f} s: {share:.0%} of the "
            f"{peak:.0f} billion a second of a large matrix product.",
        ],
    )


if __name__ == "__main__":
    measure().print()
