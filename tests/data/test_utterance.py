import copy
import pickle
import warnings

import numpy as np
import pytest
import torch

from shrinkml_env import Utterance
from shrinkml_env.data.utterance import as_waveform, as_waveforms
from tests.helpers.models import tones

SAMPLES = np.array([0, 8192, -32768, 32767], np.int16)
EXPECTED = torch.tensor([0, 0.25, -1, 32767 / 32768])


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "samples",
    [
        SAMPLES,
        SAMPLES.astype(">i2"),
        SAMPLES[::-1].copy()[::-1],
        read_only(SAMPLES.copy()),
        SAMPLES / 32768,
        (SAMPLES / 32768).astype(np.float32)[None],
        (SAMPLES / 32768).astype(np.longdouble),
        torch.tensor(SAMPLES),
        EXPECTED.double(),
        EXPECTED[None],
    ],
)
def test_what_has_one_meaning_is_converted(samples):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for waveform in (as_waveform(samples, "x"), Utterance("a", "s", samples, "text").waveform):
            assert waveform.dtype == torch.float32
            assert torch.equal(waveform, EXPECTED)


def test_a_waveform_is_taken_as_it_is():
    assert as_waveform(EXPECTED, "x").data_ptr() == EXPECTED.data_ptr()
    assert as_waveform(torch.full((9,), 1.5), "x").max() == 1.5  # A filter has overshot.


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.zeros(2, 16_000), r"got float32 of shape \(2, 16000\)"),
        (np.zeros((16_000, 2)), r"got float64 of shape \(16000, 2\)"),
        (torch.zeros(1, 1, 100), r"got float32 of shape \(1, 1, 100\)"),
        (torch.tensor(0.0), r"got float32 of shape \(\)"),
        (torch.zeros(100, dtype=torch.int32), "got int32 of shape"),
        (np.zeros(100, np.int64), "got int64 of shape"),
        (np.zeros(100, np.uint8), "got uint8 of shape"),
        (np.array(["a"]), "got <U1 of shape"),
        (torch.zeros(100, dtype=torch.complex64), "got complex64 of shape"),
        ([0.0, 0.1], "got list"),
        ("speech.wav", "got str"),
        (None, "got NoneType"),
        (torch.zeros(0), "holds no sample"),
        (np.zeros((1, 0)), "holds no sample"),
        (torch.tensor([0.0, torch.nan]), "NaN or infinite"),
        (np.array([0.0, -np.inf]), "NaN or infinite"),
        (np.array([0.0, 1e300]), "NaN or infinite"),
        (SAMPLES.astype(np.float32), r"samples as large as 32768, .* divide"),
        (-100 * torch.ones(4), "samples as large as 100, where full scale is 1"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_the_rest_is_refused(samples, message):
    with pytest.raises(ValueError, match=f"^x: .*{message}") as refusal:
        as_waveform(samples, "x")
    assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match=f"^utterance '7': .*{message}"):
        Utterance("7", "s", samples, "text")
    with pytest.raises(ValueError, match=f"^waveform 1: .*{message}"):
        as_waveforms([torch.zeros(9), samples])


@pytest.mark.parametrize(
    ("waveforms", "message"),
    [
        (torch.zeros(16_000), r"got one float32 of shape \(16000,\)"),
        (np.zeros((2, 16_000)), r"got one float64 of shape \(2, 16000\)"),
        ("speech.wav", "got one str"),
        (None, "got one NoneType"),
    ],
)
def test_one_waveform_is_no_list(waveforms, message):
    with pytest.raises(ValueError, match=rf"transcribe takes a list of waveforms, \[waveform, \.\.\.\], {message}"):
        as_waveforms(waveforms)
    assert as_waveforms([]) == as_waveforms(()) == []


def test_utterances_survive_copying():
    utterance = Utterance("a", "s", tones(1)[0], "text")
    for other in (copy.deepcopy(utterance), pickle.loads(pickle.dumps(utterance))):
        assert torch.equal(other.waveform, utterance.waveform)
        assert other.duration == 0.5
