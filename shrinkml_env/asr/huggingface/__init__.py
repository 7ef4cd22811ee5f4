"""Adapters to Hugging Face's transformers: Whisper, Speech2Text, Moonshine, and Wav2Vec2 or HuBERT with CTC.

transformers is imported only when a model is made.
"""

from shrinkml_env.asr.huggingface.base import HuggingFaceModel
from shrinkml_env.asr.huggingface.ctc import HuggingFaceCTC
from shrinkml_env.asr.huggingface.folder import find_folder, model_type, read_folder
from shrinkml_env.asr.huggingface.seq2seq import HuggingFaceMoonshine, HuggingFaceSeq2Seq, HuggingFaceSpeech2Text
from shrinkml_env.asr.huggingface.whisper import HuggingFaceWhisper

__all__ = [
    "HuggingFaceCTC",
    "HuggingFaceModel",
    "HuggingFaceMoonshine",
    "HuggingFaceSeq2Seq",
    "HuggingFaceSpeech2Text",
    "HuggingFaceWhisper",
    "load_huggingface",
]

ADAPTERS: dict[str, type[HuggingFaceModel]] = {
    name: adapter
    for adapter in (HuggingFaceWhisper, HuggingFaceSpeech2Text, HuggingFaceMoonshine, HuggingFaceCTC)
    for name in adapter.model_types
}
"""The ``model_type`` of a folder -> its adapter."""


def load_huggingface(name: str) -> HuggingFaceModel:
    """Load a model by the path of its folder or its name on the Hugging Face Hub.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: The name is neither a folder nor a model that can be downloaded.
        ImportError: transformers is not installed.
        ValueError: There is no adapter for this type of model, or the folder's weights do not fit.
    """
    folder = find_folder(name)
    try:
        kind = model_type(read_folder(folder))
    except ValueError as error:
        raise ValueError(f"hf:{name}: {error}") from error
    if kind not in ADAPTERS:
        raise ValueError(f"hf:{name}: no adapter for models of type {kind!r}; there are some for {', '.join(ADAPTERS)}")
    return ADAPTERS[kind].from_folder(folder)
