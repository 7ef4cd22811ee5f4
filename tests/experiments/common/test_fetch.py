"""Downloads before a command runs, of sets that are folders."""

import pytest
from omegaconf import OmegaConf

from experiments.common import fetch
from experiments.common.training import load_speech
from tests.helpers.models import TinyCTC
from tests.helpers.workplace import make_speech


@pytest.fixture
def asked(monkeypatch):
    """Return the list of subsets that are asked for from now on."""
    subsets = []
    monkeypatch.setattr(fetch, "download_librispeech", lambda root, subset: subsets.append((root, subset)))
    return subsets


@pytest.mark.parametrize("download", [True, False])
def test_shipped_sets_are_not_downloaded(asked, tmp_path, download):
    speech = make_speech(tmp_path, TinyCTC())
    train = {"root": str(speech.parent), "subset": speech.name}
    data = OmegaConf.create({"download": download, "train": train, "dev": "proxy-small"})
    folder, sets = load_speech(data, "dev")
    assert asked == [(str(tmp_path), "speech")] * download
    assert len(folder) == len(sets["dev"]) == 12
    fetch.fetch(OmegaConf.create({"data": data, "set": "dev", "other": train}), "set", "other")
    assert len(asked) == 2 * download
