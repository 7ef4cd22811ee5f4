"""Speech synthesis engines with one interface.

Every engine returns the same samples for the same arguments and software versions. Kokoro and Piper run in this process
on one thread; flite, festival and espeak-ng are programs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

from experiments.build.synthetic.assets import Assets
from experiments.build.synthetic.voices import Voice, festival_voices
from shrinkml_env.data.utterance import SAMPLE_RATE

__all__ = ["ENGINES", "Engine", "finish", "load_engine", "punctuate", "require"]

# A low level makes FLAC files smaller; rounding to 16 bits is still 65 dB below the speech.
_LEVEL_DBFS = -32.0
_PEAK = 0.95
_KEPT_SILENCE = 0.12
_SILENCE_DB = -40.0
_QUESTION_WORDS = frozenset(
    ["what", "what's", "when", "where", "where's", "who", "who's", "why", "how", "is", "are", "do", "does", "did"]
)
_DIGITS = frozenset(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
_NEVER_AFTER_ARTICLE = frozenset(["and", "at", "for", "from", "in", "not", "on", "or", "to", "with"])

Samples = NDArray[np.float32]


class Engine(Protocol):
    """A speech synthesis engine."""

    def speak(self, text: str, voice: Voice, speed: float, seed: int) -> tuple[Samples, int]:
        """Synthesise a text.

        Args:
            text: The text, punctuated and with spelled letters in upper case (see `punctuate`).
            voice: A voice of this engine.
            speed: Speed relative to the voice's own; 2 is twice as fast.
            seed: Seed of the engine's random numbers, if it draws any.

        Returns:
            Mono samples and their rate in Hz.
        """
        ...


class Kokoro:
    """Kokoro-82M, a neural engine with 28 English voices, whose style vectors can be mixed."""

    def __init__(self, assets: Assets) -> None:
        self._session = _onnx_session(assets.kokoro_model)
        self._voices = assets.kokoro_voices
        self._tokenizer = _tokenizer()

    def speak(self, text: str, voice: Voice, speed: float, seed: int) -> tuple[Samples, int]:
        """See `Engine.speak`; the model draws no random numbers."""
        phonemes = self._tokenizer.phonemize(text, "en-gb" if voice.name.startswith("b") else "en-us")
        ids = self._tokenizer.tokenize(phonemes)
        style = sum(np.float32(share) * self._style(name)[len(ids)] for name, share in voice.weights)
        inputs = {"tokens": np.array([[0, *ids, 0]]), "style": style, "speed": np.array([speed], np.float32)}
        return np.asarray(self._session.run(None, inputs)[0], np.float32).reshape(-1), 24_000

    def _style(self, name: str) -> Samples:
        return np.fromfile(self._voices / f"{name}.bin", np.float32).reshape(-1, 1, 256)


class Piper:
    """Piper (VITS), a neural engine, with the voice "joe"."""

    def __init__(self, assets: Assets) -> None:
        self._model = assets.piper_model
        self._config = json.loads(Path(f"{assets.piper_model}.json").read_text("utf-8"))
        self._tokenizer = _tokenizer(self._config["phoneme_id_map"])

    def speak(self, text: str, voice: Voice, speed: float, seed: int) -> tuple[Samples, int]:
        """See `Engine.speak`."""
        import onnxruntime

        table = self._config["phoneme_id_map"]
        padding = table["_"]
        ids = [*table["^"], *padding]
        for symbol in self._tokenizer.phonemize(text, self._config["espeak"]["voice"]):
            ids += [*table[symbol], *padding]
        ids += table["$"]
        scales = self._config["inference"]
        inputs = {
            "input": np.array([ids]),
            "input_lengths": np.array([len(ids)]),
            "scales": np.array([scales["noise_scale"], 1.0 / speed, scales["noise_w"]], np.float32),
        }
        # The graph's random generators are seeded when a session starts: a new session for each utterance makes the
        # samples independent of earlier utterances. Without graph optimisation this takes 0.1 s.
        onnxruntime.set_seed(seed)
        session = _onnx_session(self._model, optimise=False)
        return np.asarray(session.run(None, inputs)[0], np.float32).reshape(-1), self._config["audio"]["sample_rate"]


class Flite:
    """CMU Flite with its built-in voices."""

    def __init__(self, assets: Assets) -> None:
        require("flite", "flite")

    def speak(self, text: str, voice: Voice, speed: float, seed: int) -> tuple[Samples, int]:
        """See `Engine.speak`."""
        options = ["-voice", voice.name, "--setf", f"duration_stretch={1.0 / speed:.3f}"]
        if voice.pitch is not None:
            options += ["--setf", f"int_f0_target_mean={voice.pitch}"]
        return _run(["flite", *options, "-t", text, "-o", "{wav}"])


class Festival:
    """Festival with two diphone voices and an HTS voice."""

    def __init__(self, assets: Assets) -> None:
        packages = "festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts"
        require("festival", packages)
        voices = " ".join(sorted({f"(voice_{voice.name})" for voice in festival_voices()}))
        finished = subprocess.run(["festival", "--batch", f"(begin {voices})"], capture_output=True, text=True)
        if finished.returncode != 0:
            raise ValueError(f"a voice of festival is missing ({finished.stderr.strip()}): apt install {packages}")

    def speak(self, text: str, voice: Voice, speed: float, seed: int) -> tuple[Samples, int]:
        """See `Engine.speak`."""
        stretch = f"(Parameter.set 'Duration_Stretch {1.0 / speed:.3f})"
        if voice.name.endswith("_hts"):
            stretch = f"""(set! hts_engine_params (append hts_engine_params '(("-r" {speed:.3f}))))"""
        pitch = ""
        if voice.pitch is not None:
            pitch = f"(set! int_lr_params (cons '(target_f0_mean {voice.pitch}) (cdr int_lr_params)))"
        # Festival always reads the letter A as the article; a word with the letter's pronunciation replaces it.
        text = text.replace("A,", "lettera,").replace("A.", "lettera.")
        return _run(
            ["festival", "--batch", "{scheme}"],
            f"""(voice_{voice.name}) {stretch} {pitch}
            (lex.add.entry '("lettera" nn (((ey) 1))))
            (utt.save.wave (utt.synth (Utterance Text "{text}")) "{{wav}}" 'riff)""",
        )


class Espeak:
    """espeak-ng, a formant synthesiser."""

    def __init__(self, assets: Assets) -> None:
        require("espeak-ng", "espeak-ng")

    def speak(self, text: str, voice: Voice, speed: float, seed: int) -> tuple[Samples, int]:
        """See `Engine.speak`."""
        pitch = 50 if voice.pitch is None else voice.pitch
        return _run(["espeak-ng", "-v", voice.name, "-p", str(pitch), "-s", f"{175 * speed:.0f}", "-w", "{wav}", text])


ENGINES: Mapping[str, Callable[[Assets], Engine]] = {
    "kokoro": Kokoro,
    "piper": Piper,
    "flite": Flite,
    "festival": Festival,
    "espeak": Espeak,
}


def load_engine(name: str, assets: Assets) -> Engine:
    """Return the engine of a name.

    Raises:
        ValueError: The name is unknown, or the engine's program or Python packages are missing.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown speech engine {name!r}: choose one of {', '.join(ENGINES)}")
    return ENGINES[name](assets)


def require(program: str, packages: str) -> None:
    """Check that a program is installed.

    Raises:
        ValueError: It is not installed; the message names the apt packages that contain it.
    """
    if shutil.which(program) is None:
        raise ValueError(f"the speech engine {program} is not installed: apt install {packages}")


def punctuate(text: str, pause: bool) -> str:
    """Write a spoken-form sentence such that every engine reads it correctly.

    Spelled letters become upper case: all single letters but "a" and "i", and these two beside another letter ("m a r t
    i n"), between two digits, or where an article cannot occur. A comma after A makes engines read the letter.

    Args:
        text: Lower-case words and letters.
        pause: Whether to write a comma, and so a short pause, after each letter of a spelled word.
    """
    words = text.split()
    written = []
    for index, word in enumerate(words):
        neighbours = words[max(index - 1, 0) : index] + words[index + 1 : index + 2]
        letter = (
            word not in ("a", "i")
            or any(len(neighbour) == 1 for neighbour in neighbours)
            or _DIGITS.issuperset(neighbours)
            or not _NEVER_AFTER_ARTICLE.isdisjoint(words[index + 1 : index + 2])
        )
        if len(word) == 1 and letter:
            word = word.upper()
            if word == "A" or pause:
                word += ","
        elif word == "i":
            word = "I"
        written.append(word)
    return " ".join(written).rstrip(",") + ("?" if words[0] in _QUESTION_WORDS else ".")


def finish(samples: Samples, rate: int) -> Samples:
    """Convert an engine's output to a waveform of the corpus: 16 kHz, at most 0.12 s of silence at each end, -32 dBFS.

    Args:
        samples: Mono samples at any level.
        rate: The sampling rate in Hz.

    Returns:
        ``(samples,)`` in [-0.95, 0.95], with a root mean square of 0.025, or less if the peak would exceed the range.

    Raises:
        ValueError: The samples are silent.
    """
    if rate != SAMPLE_RATE:
        divisor = int(np.gcd(rate, SAMPLE_RATE))
        samples = resample_poly(samples, SAMPLE_RATE // divisor, rate // divisor).astype(np.float32)
    samples = samples - samples.mean()
    frame = SAMPLE_RATE // 100
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    power = np.square(frames).mean(1)
    if not power.size or power.max() < 1e-8:
        raise ValueError("the speech engine gave silence")
    loud = np.flatnonzero(power > power.max() * 10.0 ** (_SILENCE_DB / 10.0))
    kept = int(_KEPT_SILENCE * SAMPLE_RATE)
    samples = samples[max(loud[0] * frame - kept, 0) : (loud[-1] + 1) * frame + kept]
    gain = 10.0 ** (_LEVEL_DBFS / 20.0) / np.sqrt(np.square(samples).mean())
    level = np.float32(min(gain, _PEAK / np.abs(samples).max()))
    return np.asarray(samples * level, np.float32)


def _tokenizer(vocabulary: dict[str, list[int]] | None = None) -> Any:
    """Return a tokenizer for the phonemes of espeak-ng that are in a vocabulary (None: Kokoro's)."""
    try:
        from kokoro_onnx.tokenizer import Tokenizer
    except ImportError as error:
        raise ValueError(f"the neural engines need more Python packages: pip install kokoro-onnx ({error})") from error
    return Tokenizer() if vocabulary is None else Tokenizer(vocab=vocabulary)


def _onnx_session(path: Path, optimise: bool = True) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _run(command: list[str], scheme: str = "") -> tuple[Samples, int]:
    """Run a program that writes ``{wav}`` and may read the file ``{scheme}``; return the samples and their rate."""
    with tempfile.TemporaryDirectory() as folder:
        files = {"{wav}": f"{folder}/speech.wav", "{scheme}": f"{folder}/speech.scm"}
        Path(files["{scheme}"]).write_text(scheme.replace("{wav}", files["{wav}"]), "utf-8")
        finished = subprocess.run([files.get(part, part) for part in command], capture_output=True, text=True)
        if finished.returncode != 0 or not Path(files["{wav}"]).exists():
            raise ValueError(f"`{' '.join(command)}` failed: {finished.stderr.strip() or finished.stdout.strip()}")
        samples, rate = soundfile.read(files["{wav}"], dtype="float32")
    return samples, rate
