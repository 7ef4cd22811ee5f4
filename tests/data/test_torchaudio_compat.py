import sys
from types import ModuleType

import pytest
import torch

from shrinkml_env.data import torchaudio_compat
from tests.helpers.processes import python


def test_resampling_and_mel_filters_work():
    torchaudio = torchaudio_compat.import_torchaudio()
    waveform = torch.sin(torch.arange(1600) * 0.1)
    assert torchaudio.functional.resample(waveform, 16_000, 8_000).shape == (800,)


def test_a_working_torchaudio_is_left_alone(monkeypatch):
    whole = ModuleType("torchaudio")
    monkeypatch.setitem(sys.modules, "torchaudio", whole)
    monkeypatch.delitem(sys.modules, "torchaudio._extension", raising=False)
    assert torchaudio_compat.import_torchaudio() is whole
    assert "torchaudio._extension" not in sys.modules


def test_other_failures_are_not_hidden(monkeypatch):
    def broken(name):
        raise OSError("disk on fire")

    monkeypatch.setattr(torchaudio_compat.importlib, "import_module", broken)
    with pytest.raises(OSError, match="disk on fire"):
        torchaudio_compat.import_torchaudio()


@pytest.mark.slow
def test_a_fresh_process_can_import_it():
    code = "from shrinkml_env.data import torchaudio_compat as t; print(t.import_torchaudio().transforms.MFCC)"
    output = python("-c", code).stdout
    assert "MFCC" in output
