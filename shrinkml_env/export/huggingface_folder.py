"""Export to a folder for transformers' `from_pretrained`, with the factors and the code that multiplies with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from shrinkml_env.asr.huggingface import HuggingFaceModel
from shrinkml_env.asr.huggingface.folder import import_transformers, unpacked
from shrinkml_env.compression import (
    CompressibleModel,
    arranged_layers,
    count_parameters,
    inference_tensors,
    int8_scales,
)
from shrinkml_env.compression.modules import LowRank
from shrinkml_env.export import modeling_shrinkml

__all__ = ["read_huggingface", "write_huggingface"]

CARD = """---
library_name: transformers
pipeline_tag: automatic-speech-recognition
tags: [shrinkml]
---

A speech recogniser compressed by ShrinkML: {parameters:,} parameters. `modeling_shrinkml.py`, in this folder, holds
the code that multiplies with the factors:

```python
from transformers import {auto_class}, AutoProcessor

model = {auto_class}.from_pretrained("PATH", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("PATH")
```
"""


def write_huggingface(model: CompressibleModel, folder: Path) -> None:
    """Write a model's files into an existing folder.

    Raises:
        ValueError: The model is not an adapter to a Hugging Face model, or is quantised.
    """
    model = _require_huggingface(model)
    if int8_scales(model):
        raise ValueError("the format huggingface has no int8: export the model that this one was quantised from")
    network: nn.Module = model.network
    ranks = {}
    for path, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, LowRank):
            (ranks[path],) = module.ranks.values()
    matrices = [matrix for layer in arranged_layers(model) for matrix in layer.matrices]
    with unpacked(model.files) as files:
        shutil.copytree(files, folder, dirs_exist_ok=True)
    config: dict[str, Any] = json.loads(model.files["config.json"])
    base = type(network).__name__
    module_name = Path(modeling_shrinkml.__file__).stem
    config |= {
        "shrinkml_ranks": ranks,
        "shrinkml_pivoting": any(matrix.form == "pivoting" for matrix in matrices),
        "shrinkml_sources": _sources(model),
        "auto_map": {model.auto_class: f"{module_name}.{base}"},
        "architectures": [base],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    code = Path(modeling_shrinkml.__file__).read_text(encoding="utf-8")
    # With the class's own name, because transformers' pipelines recognise models by their class names.
    code += f'\n\nimport transformers\n\n\nclass {base}(Compressed, transformers.{base}):\n    """Compressed."""\n'
    (folder / f"{module_name}.py").write_text(code, encoding="utf-8")
    tensors = {
        name.removeprefix("network."): tensor.detach().to(
            model.storage_dtype if isinstance(tensor, nn.Parameter) else tensor.dtype, copy=True
        ).contiguous()
        for name, tensor in inference_tensors(model).items()
    }  # fmt: skip
    save_file(tensors, folder / f"model.{modeling_shrinkml.VARIANT}.safetensors", metadata={"format": "pt"})
    parameters = count_parameters(model)
    (folder / "README.md").write_text(CARD.format(auto_class=model.auto_class, parameters=parameters), encoding="utf-8")


def _sources(model: CompressibleModel) -> dict[str, str]:
    """Return the modules that use another one's right factor: path in the network -> path of the one that stores it."""
    tensors = inference_tensors(model)
    sources: dict[str, str] = {}
    for matrix in [matrix for layer in arranged_layers(model) for matrix in layer.matrices]:
        paths = [part.name.removesuffix(".weight") for part in matrix.parts]
        held = [path for path in paths if f"{path}.weight_v" in tensors]
        sources |= {
            path.removeprefix("network."): held[0].removeprefix("network.") for path in paths if path not in held
        }
    return sources


def read_huggingface(model: CompressibleModel, folder: Path) -> HuggingFaceModel:
    """Load the network in a folder by transformers and the folder's code; return a model like the given one with it."""
    model = _require_huggingface(model)
    auto_class = getattr(import_transformers(), model.auto_class)
    again = type(model).from_config(model.to_config())
    again.network = auto_class.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=True,
        dtype=torch.float32,
        attn_implementation=model.attention,
    )
    return again.eval()


def _require_huggingface(model: CompressibleModel) -> HuggingFaceModel:
    if not isinstance(model, HuggingFaceModel):
        raise ValueError(
            f"the format huggingface is for models of Hugging Face's transformers, this is {model.architecture!r}: use"
            " safetensors, or onnx or torch for a LAS model"
        )
    return model
