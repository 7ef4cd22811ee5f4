"""What a model's name may be, wherever one is asked for."""

import pytest

from shrinkml_env import compress, load_model, save_compressed
from shrinkml_env.asr.zoo import folder_of
from shrinkml_env.compression import ranks_of
from tests.helpers.models import TinyCTC


@pytest.mark.parametrize("made", ["", "compressed", "model"])
def test_the_folder_of_a_model_or_of_a_run(tmp_path, made):
    run = tmp_path / "run"
    save_compressed(TinyCTC(), run / "original")
    save_compressed(compress(TinyCTC(), {"gru": 3}), run / made)
    for name in run, str(run), run / made:
        assert set(ranks_of(load_model(name)).values()) == {3}


def test_a_run_that_has_made_no_model(tmp_path):
    (tmp_path / "config.yaml").touch()
    save_compressed(TinyCTC(), tmp_path / "original")
    (tmp_path / "compressed").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no model: neither .* nor has a run put one in"):
        load_model(tmp_path)


def test_a_name_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither a shipped model \(las_small\) nor the folder of a"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="a model must be given by its name or the path of its folder, got None"):
        load_model(None)
    for prefix in ("hf:", "torchaudio:", "joint:"):
        with pytest.raises(ValueError, match=f"'{prefix}' lacks what comes after the colon"):
            load_model(prefix)


def test_the_folder_that_a_name_leads_to(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_compressed(TinyCTC(), tmp_path / "run" / "model")
    for name in (tmp_path / "run", f"hf:{tmp_path / 'run'}", "hf:~/run"):
        assert folder_of(name) == tmp_path / "run" / "model"
    (tmp_path / "las_small").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("las_small", "joint:las_small", "hf:openai/whisper-tiny.en"):
        assert folder_of(name) is None
    with pytest.raises(FileNotFoundError, match="holds no model"):
        folder_of(tmp_path)
