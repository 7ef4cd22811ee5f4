import os
from pathlib import Path

import pytest
import torch

LIBRISPEECH = Path(os.environ.get("SHRINKML_TEST_LIBRISPEECH", "../shared/data/LibriSpeech"))
"""Real speech for the tests of the LibriSpeech path; they skip where it is absent."""


@pytest.fixture(autouse=True)
def one_thread():
    """Two busy threads on two busy cores are far slower than one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    """No test reads measurements that something else has left on this machine."""
    monkeypatch.setenv("SHRINKML_CACHE", str(tmp_path / "evaluations.sqlite"))
