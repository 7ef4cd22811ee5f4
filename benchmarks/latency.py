"""Compare the speed of compressed models and originals: ``python -m benchmarks.latency [MODEL ...] [--form pivoting]``.

A model is las_small, las_large (random weights) or hf:FOLDER. Original and compressed model are saved, loaded in
separate processes, and timed in turns: CPU time of one thread. Both are made to write four tokens for each second of
speech, so that their work is equal. LAS models are also timed as ONNX programs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import string
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, get_args

import torch
from hydra.utils import instantiate
from torch import Tensor
from tqdm import trange

from benchmarks.report import Section, Table, spread
from benchmarks.timing import Comparison
from experiments.common.compose import compose_config
from shrinkml_env import (
    CompressibleModel,
    compress,
    load_compressed,
    load_model,
    load_utterances,
    optimise_for_inference,
    save_compressed,
)
from shrinkml_env.asr import LAS, Decoding, Tokenizer
from shrinkml_env.asr.huggingface import HuggingFaceSeq2Seq
from shrinkml_env.compression import FactorForm, Factors, compressed_parameters, count_parameters, round_to_storage
from shrinkml_env.compression.factors import order_dtype
from shrinkml_env.compression.layers import arrange_layers, group_layers
from shrinkml_env.export import export_model
from shrinkml_env.export.transcribe import Transcriber
from shrinkml_env.space.search_space import uniform_ranks

SIZES = (0.8, 0.65, 0.5, 0.35, 0.2)
BATCHES = {"latency": 1, "throughput": 16}
"""Name -> number of utterances in a batch."""

ROUNDS = 5
TOKENS_PER_SECOND = 4.0

HEAD = ("size ratio", "", "original, s", "as loaded, faster by", "optimised, faster by", "modules")
ONNX_HEAD = ("size ratio", "original, s", "compressed, faster by")


@dataclass(frozen=True, slots=True)
class Compression:
    """The settings that all compressed models share.

    Attributes:
        form: The form of the factors.
        dense: Patterns of the names of layers that stay dense.
    """

    form: FactorForm = "factors"
    dense: tuple[str, ...] = ()


class RandomFactors:
    """A factorisation with random factors of the right shapes, which suffice to measure speed.

    Args:
        model: The original.
        form: The form of the factors.
    """

    name = key = "random"
    singular_values: Mapping[str, Tensor] = {}

    def __init__(self, model: CompressibleModel, form: FactorForm) -> None:
        self.layers = arrange_layers(model.layers, form)
        self._form = form
        self._shapes = {m.name: (m.rows, m.columns) for layer in model.layers for m in layer.matrices}

    def factors(self, matrix: str, rank: int) -> Factors:
        """See `Factorisation.factors`."""
        rows, columns = self._shapes[matrix]
        u, v = torch.randn(rows, rank) / rank**0.5, torch.randn(rank, columns) / columns**0.5
        u, v = u.half().float(), v.half().float()
        if self._form == "factors":
            return Factors(u, v)
        return Factors(u, v[:, rank:], torch.randperm(columns).to(order_dtype(columns)))


def ranks_of_size(
    model: CompressibleModel, size: float, factorisation: RandomFactors, dense: Sequence[str]
) -> dict[str, int]:
    """Return the ranks of the largest uniform fraction of break-even of at most a size ratio."""
    limit = size * count_parameters(model)
    layers = group_layers(tuple(factorisation.layers), "layer", dense)
    curve = [uniform_ranks(layers, number / 1000) for number in range(1001)]
    found = [ranks for ranks in curve if compressed_parameters(model, ranks, factorisation) <= limit]
    if not found:
        raise SystemExit(f"size {size:g} is out of reach with {', '.join(dense) or 'no layer'} dense")
    return found[-1]


def random_large() -> LAS:
    """Return las_large with random weights, and a tokenizer trained on random words."""
    config = compose_config("train_asr", ["architecture=las_large"]).architecture
    generator = random.Random(0)
    words = ("".join(generator.choices(string.ascii_lowercase, k=generator.randint(2, 8))) for _ in range(40_000))
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(words, config.vocabulary_size)
    model = LAS(instantiate(config.sizes), tokenizer, Decoding()).eval()
    round_to_storage(model)
    return model


def speak_on(model: CompressibleModel) -> None:
    """Make a model write tokens up to its limit, `TOKENS_PER_SECOND`, by suppressing the end."""
    if isinstance(model, LAS):
        with torch.no_grad():
            model.decoder.output.bias[model.tokenizer.eos] = -1e9
    elif isinstance(model, HuggingFaceSeq2Seq):
        model.generation.suppress_tokens = [*model.suppressed[0], model.end]
    else:
        raise SystemExit(f"{type(model).__name__} does not write token by token")
    model.decoding = Decoding(tokens_per_second=TOKENS_PER_SECOND, tokens_base=0)


def serve(connection: Connection, folder: Path) -> None:
    """Load a model and answer requests: (name of a batch, whether to use optimised executions) -> seconds."""
    torch.set_num_threads(1)
    model: Any = load_compressed(folder)
    speak_on(model)
    spoken = [utterance.waveform for utterance in load_utterances("dev")[: max(BATCHES.values())]]
    batches = {name: spoken[:size] for name, size in BATCHES.items()}
    usual = {path: "factored" for path, part in model.named_modules() if hasattr(part, "executions")}
    executions: dict[tuple[str, bool], Mapping[str, Any]] = {(name, False): usual for name in batches}
    executions |= {(name, True): optimise_for_inference(model, waveforms) for name, waveforms in batches.items()}
    connection.send(executions)
    while (asked := connection.recv()) is not None:
        for path, execution in executions[asked].items():
            model.get_submodule(path).execution = execution
        started = time.process_time()
        model.recognise(batches[asked[0]])
        connection.send(time.process_time() - started)


def serve_onnx(connection: Connection, folder: Path) -> None:
    """Load ONNX programs and answer each request with the seconds of recognising one utterance."""
    transcribe = Transcriber(folder, threads=1)
    waveform = load_utterances("dev")[0].waveform.numpy()
    connection.send(None)
    while connection.recv() is not None:
        started = time.process_time()
        transcribe.units(waveform)
        connection.send(time.process_time() - started)


def in_turns(ways: Mapping[str, Callable[[], float]], label: str) -> Comparison:
    """Time several ways in turns, after a warm-up round; each is a function that returns its seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in trange(ROUNDS + 1, desc=label, unit="round"):
        for name, way in ways.items():
            elapsed = way()
            if number:
                seconds[name].append(elapsed)
    return Comparison(seconds)


class Contender:
    """A saved model in a separate process.

    Attributes:
        first: The server's first message, which it sends when it is ready.
    """

    def __init__(self, server: Callable[[Connection, Path], None], folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=server, args=(theirs, folder))
        self._process.start()
        self.first: Any = self._connection.recv()

    def run(self, *asked: Any) -> float:
        """Send a request to the server, and return the seconds."""
        self._connection.send(asked)
        return float(self._connection.recv())

    def close(self) -> None:
        """End the process."""
        self._connection.send(None)
        self._process.join()


def measure(name: str, sizes: Sequence[float] = SIZES, compression: Compression = Compression()) -> Section:
    """Measure one model at all sizes."""
    original = MODELS[name]() if name in MODELS else load_model(name)
    tables: dict[str, Table] = {"speed": (HEAD, rows_as_loaded(name, original, sizes, compression))}
    if isinstance(original, LAS):
        tables["speed as ONNX programs"] = (ONNX_HEAD, rows_as_onnx(name, original, sizes, compression))
    kept = f", {', '.join(compression.dense)} dense" * bool(compression.dense)
    return Section(
        f"Speed of {name}",
        f"Uniform ranks, form {compression.form!r}{kept}; {BATCHES['throughput']} utterances together (throughput) or"
        f" one (latency, and as ONNX programs). CPU time of one thread, {ROUNDS} rounds in turns: median, smallest and"
        " largest ratio.",
        tables,
    )


def smaller(original: CompressibleModel, sizes: Sequence[float], compression: Compression) -> Iterator[tuple[str, Any]]:
    """Yield (size ratio as text, compressed model) for every size."""
    factorisation = RandomFactors(original, compression.form)
    for size in sizes:
        small = compress(original, ranks_of_size(original, size, factorisation, compression.dense), factorisation)
        yield f"{count_parameters(small) / count_parameters(original):.3f}", small


def rows_as_loaded(
    name: str, original: CompressibleModel, sizes: Sequence[float], compression: Compression
) -> list[tuple[str, ...]]:
    """Measure in torch, both as loaded and with optimised executions; return the rows of the table."""
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        save_compressed(original, Path(folder) / "original")
        dense = Contender(serve, Path(folder) / "original")
        for size, small in smaller(original, sizes, compression):
            save_compressed(small, Path(folder) / "small")
            contender = Contender(serve, Path(folder) / "small")
            for batch in BATCHES:
                ways: dict[str, Callable[[], float]] = {
                    "original": partial(dense.run, batch, False),
                    "as loaded": partial(contender.run, batch, False),
                    "optimised": partial(contender.run, batch, True),
                }
                found = in_turns(ways, f"{name}, {size}, {batch}")
                chosen = list(contender.first[batch, True].values())
                rows.append(
                    (
                        size,
                        batch,
                        f"{found.median('original'):.3f}",
                        *(spread(found.times_faster(way, than="original")) for way in ("as loaded", "optimised")),
                        ", ".join(f"{chosen.count(form)} {form}" for form in sorted(set(chosen))),
                    )
                )
            contender.close()
        dense.close()
    return rows


def rows_as_onnx(name: str, original: LAS, sizes: Sequence[float], compression: Compression) -> list[tuple[str, ...]]:
    """Measure the original and the compressed models as ONNX programs; return the rows of the table."""
    rows: list[tuple[str, ...]] = []
    speak_on(original)
    with tempfile.TemporaryDirectory() as folder:
        export_model(original, Path(folder) / "original", "onnx", [])
        dense = Contender(serve_onnx, Path(folder) / "original")
        for size, small in smaller(original, sizes, compression):
            export_model(small, Path(folder) / size, "onnx", [])
            contender = Contender(serve_onnx, Path(folder) / size)
            found = in_turns({"original": dense.run, "compressed": contender.run}, f"{name}, {size}, ONNX")
            faster = spread(found.times_faster("compressed", than="original"))
            rows.append((size, f"{found.median('original'):.3f}", faster))
            contender.close()
        dense.close()
    return rows


MODELS: dict[str, Callable[[], CompressibleModel]] = {
    "las_small": partial(load_model, "las_small"),
    "las_large": random_large,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description="Speed of compressed models against their originals.")
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL", help="las_small, las_large, hf:DIR")
    parser.add_argument("--sizes", nargs="+", type=float, default=SIZES, help="size ratios, of uniform ranks")
    parser.add_argument("--form", choices=get_args(FactorForm), default="factors", help="form of the factors")
    parser.add_argument("--dense", nargs="+", default=(), metavar="PATTERN", help="layers that stay dense: 'decoder.*'")
    arguments = parser.parse_args()
    for model_name in arguments.models:
        measure(model_name, arguments.sizes, Compression(arguments.form, tuple(arguments.dense))).print()
