"""Transcribe speech with an exported recogniser: ``python transcribe.py FILE.wav ...``.

It needs only numpy and onnxruntime (for ``*.onnx``) or torch (for ``*.pt2``). ShrinkML copies this file beside the
programs that it exports, and checks them with it.
"""

from __future__ import annotations

import json
import math
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Transcriber"]

Program = Callable[..., list[Any]]


class Transcriber:
    """A recogniser of single utterances, with greedy search.

    Args:
        folder: The folder with ``recogniser.json`` and the two programs; by default the folder of this file.
        threads: Number of threads of onnxruntime; 0 is its default.
    """

    def __init__(self, folder: str | Path = Path(__file__).parent, threads: int = 0) -> None:
        self.settings = json.loads((Path(folder) / "recogniser.json").read_text(encoding="utf-8"))
        self.encoder, self.decoder = (_program(Path(folder), name, threads) for name in ("encoder", "decoder"))

    def __call__(self, waveform: Any) -> str:
        """Return the transcript of float32 samples at 16 kHz, in [-1, 1], (samples,)."""
        return " ".join("".join(self.settings["units"][unit] for unit in self.units(waveform)).split())

    def units(self, waveform: Any) -> list[int]:
        """Return the subword units of the transcript."""
        settings = self.settings
        limit = settings["tokens_base"] + math.ceil(settings["tokens_per_second"] * len(waveform) / 16_000)
        samples = np.zeros(max(len(waveform), settings["min_samples"]), np.float32)
        samples[: len(waveform)] = waveform
        values, keys = self.encoder(samples)
        state = [np.zeros((1, size), np.float32) for size in (*settings["state"], len(values))]
        units: list[int] = []
        previous = settings["end"]
        for _ in range(limit):
            logits, *state = self.decoder(np.array([previous], np.int64), values, keys, *state)
            previous = int(logits[0].argmax())
            if previous == settings["end"]:
                break
            units.append(previous)
        return units


def _program(folder: Path, name: str, threads: int) -> Program:
    """Load a program as a function from arrays to arrays."""
    if (folder / f"{name}.onnx").is_file():
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
        names = [argument.name for argument in session.get_inputs()]
        return lambda *arrays: list(session.run(None, dict(zip(names, arrays, strict=True))))

    import torch

    program = torch.export.load(folder / f"{name}.pt2").module()

    def run(*arrays: Any) -> list[Any]:
        with torch.inference_mode():
            return [result.numpy() for result in program(*map(torch.from_numpy, arrays))]

    return run


def _read_wav(file: str) -> Any:
    with wave.open(file) as audio:
        if (audio.getframerate(), audio.getnchannels(), audio.getsampwidth()) != (16_000, 1, 2):
            raise ValueError(f"{file}: 16 kHz, one channel, 16 bits a sample are wanted")
        return np.frombuffer(audio.readframes(audio.getnframes()), "<i2").astype(np.float32) / 32_768


if __name__ == "__main__":
    transcriber = Transcriber()
    for path in sys.argv[1:]:
        print(transcriber(_read_wav(path)))
