import pytest
import torch

from tests.helpers.speech import make_corpus


@pytest.fixture(autouse=True)
def one_thread():
    """Two busy threads on two busy cores are far slower than one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    """No test reads measurements that something else has left on this machine."""
    monkeypatch.setenv("SHRINKML_CACHE", str(tmp_path / "evaluations.sqlite"))


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path)
