"""The base class of the adapters to Hugging Face's models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from shrinkml_env.asr.huggingface.folder import LOCAL, import_transformers, read_folder, unpacked
from shrinkml_env.asr.recogniser import Recogniser
from shrinkml_env.compression import Layer, exact_storage_dtype, require_length
from shrinkml_env.data.utterance import SAMPLE_RATE

__all__ = ["HuggingFaceModel"]


class HuggingFaceModel(Recogniser):
    """A model of transformers with its feature extractor and tokenizer.

    Args:
        files: File name -> content, of the folder's files without the weights (see `read_folder`).
        network: The transformers model; None makes one with random weights.

    Attributes:
        files: The argument `files`.
        network: The transformers model.
    """

    model_types: ClassVar[tuple[str, ...]]
    """The values of ``model_type`` of folders that the adapter loads."""

    auto_class: ClassVar[str]
    """The name of the transformers class that makes the network."""

    attention: ClassVar[str] = "sdpa"
    """The attention implementation of transformers to use; it overrides the folder's setting."""

    def __init__(self, files: Mapping[str, str], network: nn.Module | None = None) -> None:
        super().__init__()
        self.files = dict(files)
        if network is None:
            transformers = import_transformers()
            with unpacked(self.files) as folder:
                config = transformers.AutoConfig.from_pretrained(folder, **LOCAL)
            auto_class = getattr(transformers, self.auto_class)
            network = auto_class.from_config(config, trust_remote_code=False, **self._arithmetic())
        self.network: Any = network

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], **options: Any) -> Self:
        """Load the model in a folder.

        Args:
            folder: A folder with ``config.json`` and safetensors.
            **options: Further arguments of the constructor.

        Returns:
            The model in evaluation mode; its `storage_dtype` represents the weights exactly.

        Raises:
            ValueError: The folder has no safetensors, its files are damaged or lack weights, or the model needs another
                sampling rate than 16 kHz.
        """
        folder = Path(folder)
        if not any(folder.glob("*.safetensors")):
            raise ValueError(
                f"{folder}: no *.safetensors in it, and pickled weights are not read; load it with transformers where"
                " you trust it, and save it with save_pretrained"
            )
        auto_class = getattr(import_transformers(), cls.auto_class)
        try:
            network, report = auto_class.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **LOCAL, **cls._arithmetic()
            )
        except UNREADABLE as error:
            cause = " ".join(str(error).split())
            raise ValueError(f"{folder}: transformers cannot load this model ({cause})") from error
        missing = [name for name in sorted(report["missing_keys"]) if not name.endswith("masked_spec_embed")]
        if missing:
            raise ValueError(
                f"{folder}: the weights lack {missing[0]!r} ({len(missing)} in all): was it fine-tuned to recognise"
                " speech?"
            )
        model = cls(read_folder(folder), network=network, **options)
        model.storage_dtype = exact_storage_dtype(model.parameters())
        rate = model.feature_extractor.sampling_rate
        if rate != SAMPLE_RATE:
            raise ValueError(f"{folder}: the model wants {rate} Hz; ShrinkML's waveforms have {SAMPLE_RATE} Hz")
        return model.eval()

    @classmethod
    def _arithmetic(cls) -> dict[str, Any]:
        return {"dtype": torch.float32, "attn_implementation": cls.attention}

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """One layer for each convolution, attention module and feed-forward matrix, named as in transformers."""
        return tuple(replace(layer, name=layer.name.removeprefix("model.")) for layer in super().layers)

    @property
    def decoder_settings(self) -> dict[str, Any]:
        """The version of transformers, which determines the features."""
        return {"transformers": import_transformers().__version__}

    @cached_property
    def feature_extractor(self) -> Any:
        """The feature extractor of transformers."""
        auto_class = import_transformers().AutoFeatureExtractor
        with unpacked(self.files) as folder:
            return auto_class.from_pretrained(folder, **LOCAL)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers."""
        auto_class = import_transformers().AutoTokenizer
        with unpacked(self.files) as folder:
            return auto_class.from_pretrained(folder, **LOCAL)

    def features(self, waveform: Tensor) -> Tensor:
        """Return the network's input for one waveform: (samples,) -> (1, ...), on the network's device.

        Raises:
            ValueError: The waveform is too short for the model.
        """
        require_length(self, waveform.numel(), "a waveform")
        found = self.feature_extractor(waveform.cpu().numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        features: Tensor = found[self.network.main_input_name]
        return features.to(self.network.device)

    def to_config(self) -> dict[str, Any]:
        """Return the files as text, JSON-able."""
        return {"files": self.files}

    def __getstate__(self) -> dict[str, Any]:
        # They are made again from the files when needed: not all tokenizers can be pickled.
        made = ("feature_extractor", "tokenizer")
        kept = {name: value for name, value in self.__dict__.items() if name not in made}
        # First in the pickle, because the objects after it need the import.
        return {"": _Imported(), **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name})


UNREADABLE = (AttributeError, LookupError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)
"""The exceptions that transformers may raise if a file is damaged."""


class _Imported:
    """An object that imports transformers when it is unpickled, by `import_transformers`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _import, ()


def _import() -> None:
    import_transformers()
