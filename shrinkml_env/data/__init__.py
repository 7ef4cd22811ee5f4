"""Speech data: utterances, data sets in LibriSpeech's layout, the embedded corpus."""

from shrinkml_env.data.librispeech import SpeechFolder, download_librispeech
from shrinkml_env.data.sets import SHIPPED_SETS, UtteranceSpec, load_utterances
from shrinkml_env.data.utterance import SAMPLE_RATE, Utterance

__all__ = [
    "SAMPLE_RATE",
    "SHIPPED_SETS",
    "SpeechFolder",
    "Utterance",
    "UtteranceSpec",
    "download_librispeech",
    "load_utterances",
]
