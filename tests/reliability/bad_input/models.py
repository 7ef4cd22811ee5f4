"""Files of models that are damaged, or something else."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from shrinkml_env import load_compressed, load_model, save_compressed
from shrinkml_env.compression import compress, round_to_storage
from tests.compression import test_checkpoint
from tests.helpers.files import put_tensor
from tests.helpers.models import TinyCTC
from tests.helpers.speech import make_corpus, make_learner
from tests.reliability.bad_input.case import parametrised, shown
from tests.reliability.bad_input.spoil import DEEP, PICKLE, Spoil, change, cut, without


@functools.cache
def tiny() -> TinyCTC:
    return compress(TinyCTC(seed=4), test_checkpoint.RANKS)


def model(spoil: Spoil, folder: Path) -> None:
    save_compressed(tiny(), folder / "model")
    spoil(folder / "model")
    load_compressed(folder / "model")


def las(spoil: Callable[[dict[str, Any]], object], folder: Path) -> None:
    made = make_learner(make_corpus(folder)).eval()
    round_to_storage(made)
    save_compressed(made, folder / "model")
    path = folder / "model" / "config.json"
    config = json.loads(path.read_text())
    spoil(config["config"])
    path.write_text(json.dumps(config))
    load_compressed(folder / "model")


def rename(folder: Path, old: str, new: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[new] = tensors.pop(old)
    save_file(tensors, folder / "model.safetensors")


def swap(folder: Path, one: str, other: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[one], tensors[other] = tensors[other], tensors[one]
    save_file(tensors, folder / "model.safetensors")


def huggingface(spoil: Spoil, folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "whisper"}')
    spoil(folder / "model")
    load_model(f"hf:{folder / 'model'}")


CONFIGS = [
    *(
        (
            f"config.json with {shown(changes)}",
            message,
            lambda path, changes=changes: change(path / "config.json", changes),
        )
        for changes, message in parametrised(test_checkpoint.test_malformed_config)
    ),
    *(
        (f"config.json without {key}", f"key '{key}'", lambda path, key=key: without(path / "config.json", key))
        for (key,) in parametrised(test_checkpoint.test_missing_key)
    ),
    *(
        (
            f"config.json: {content!r}",
            message,
            lambda path, content=content: (path / "config.json").write_bytes(content),
        )
        for content, message in parametrised(test_checkpoint.test_broken_json)
    ),
    *(
        (
            f"no {name}",
            rf"{name}: no such file; a saved model is a directory with this file in it",
            lambda path, name=name: (path / name).unlink(),
        )
        for (name,) in parametrised(test_checkpoint.test_missing_files)
    ),
    (
        "config.json is nested a hundred thousand times",
        r"config\.json: not JSON: it is nested too deeply",
        lambda path: (path / "config.json").write_bytes(DEEP),
    ),
    (
        "config.json asks for 10^12 units",
        r"config\.json: key 'config' does not fit 'tiny_ctc'",
        lambda path: change(path / "config.json", {"config": {"units": 10**12}}),
    ),
]

TENSORS = [
    *(
        (
            f"model.safetensors: {name} {'is missing' if tensor is None else f'is a {shown(tensor)}'}",
            message,
            lambda path, name=name, tensor=tensor: put_tensor(path, name, tensor),
        )
        for name, tensor, message in parametrised(test_checkpoint.test_tensors_that_do_not_fit)
    ),
    (
        "model.safetensors: a tensor is renamed",
        r"unexpected tensor 'hidden\.other'",
        lambda path: rename(path, "hidden.weight", "hidden.other"),
    ),
    (
        "model.safetensors: a tensor is named ../../x",
        r"unexpected tensor '\.\./\.\./x'",
        lambda path: rename(path, "hidden.weight", "../../x"),
    ),
    (
        "model.safetensors: two tensors are swapped",
        r"tensor 'hidden\.(weight|bias)' must be torch\.float16 .*, got",
        lambda path: swap(path, "hidden.weight", "hidden.bias"),
    ),
    (
        "model.safetensors ends in the middle",
        r"model\.safetensors: not a complete safetensors file",
        lambda path: cut(0.5)(path / "model.safetensors"),
    ),
    (
        "model.safetensors is empty",
        r"model\.safetensors: not a complete safetensors file",
        lambda path: cut(0)(path / "model.safetensors"),
    ),
    (
        "model.safetensors is a pickle",
        r"model\.safetensors: not a complete safetensors file",
        lambda path: (path / "model.safetensors").write_bytes(PICKLE),
    ),
    (
        "model.safetensors promises a header of 2^63 bytes",
        r"model\.safetensors: not a complete safetensors file",
        lambda path: (path / "model.safetensors").write_bytes(b"\xff" * 7 + b"\x7f"),
    ),
]

LAS_CONFIGS: list[tuple[str, str, Callable[[dict[str, Any]], object]]] = [
    (
        "config.json: model has an unknown size",
        "key 'config' does not fit 'las'",
        lambda config: config["model"].update(depth=3),
    ),
    (
        "config.json: model lacks a size",
        "key 'config' does not fit 'las'",
        lambda config: config["model"].pop("encoder_units") and config.pop("decoding"),
    ),
    (
        "config.json: encoder_units is -1",
        "key 'config' does not fit 'las'",
        lambda config: config["model"].update(encoder_units=-1),
    ),
    (
        "config.json: encoder_units is a text",
        "key 'config' does not fit 'las'",
        lambda config: config["model"].update(encoder_units="many"),
    ),
    (
        "config.json: tokenizer is not base64",
        "key 'config' does not fit 'las'",
        lambda config: config.update(tokenizer="%%%"),
    ),
    (
        "config.json: tokenizer is another file",
        "key 'config' does not fit 'las'",
        lambda config: config.update(tokenizer="cGlja2xl"),
    ),
    (
        "config.json: tokenizer is a path",
        "key 'config' does not fit 'las'",
        lambda config: config.update(tokenizer="../../etc/passwd"),
    ),
    (
        "config.json: decoding has an unknown setting",
        "key 'config' does not fit 'las'",
        lambda config: config["decoding"].update(_target_="os.system"),
    ),
    (
        "config.json: beam_size is 0",
        "key 'config' does not fit 'las'",
        lambda config: config["decoding"].update(beam_size=0),
    ),
]

HUGGINGFACE: list[tuple[str, str, Spoil]] = [
    ("hf: a folder without weights", r"no \*\.safetensors in it, and pickled weights are not read", lambda path: None),
    (
        "hf: config.json is a list",
        r"config\.json: no model_type in it",
        lambda path: (path / "config.json").write_text("[]"),
    ),
    (
        "hf: config.json is cut off",
        r"config\.json: no model_type in it",
        lambda path: (path / "config.json").write_text('{"model_ty'),
    ),
    (
        "hf: config.json is not in UTF-8",
        r"config\.json: not a text in UTF-8",
        lambda path: (path / "config.json").write_bytes(b"\xff"),
    ),
    (
        "hf: another kind of model",
        "no adapter for models of type 'wavlm'",
        lambda path: change(path / "config.json", {"model_type": "wavlm"}),
    ),
    (
        "hf: model.safetensors is a pickle",
        "transformers cannot load this model",
        lambda path: (path / "model.safetensors").write_bytes(PICKLE),
    ),
]
