import pytest

from experiments.common.on_test import Checked, equal_transcripts
from shrinkml_env.data import SpeechFolder
from tests.helpers.speech import LIBRISPEECH, WHISPER

SETS = ("test-clean", "test-other")


@pytest.mark.slow
@pytest.mark.skipif(not WHISPER.exists() or not LIBRISPEECH.exists(), reason="no Whisper, or no LibriSpeech, here")
def test_transcripts_of_whisper_are_compared_with_those_of_transformers():
    ids = SpeechFolder(LIBRISPEECH, SETS).ids[:2]
    assert equal_transcripts(Checked(f"hf:{WHISPER}", str(LIBRISPEECH), SETS, ids)) == 2
