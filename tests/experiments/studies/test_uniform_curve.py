from pathlib import Path

import pytest

import shrinkml_env
from experiments.common.compose import compose_config
from experiments.studies import uniform_curve

SPEECH = Path(shrinkml_env.__file__).parent / "assets" / "speech"


@pytest.mark.slow
def test_the_curve_begins_with_the_original_and_keeps_every_size(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SHRINKML_CACHE", str(tmp_path / "cache.sqlite"))
    spoken = f"set={{root: {SPEECH}, subset: dev, limit: 1}}"
    config = compose_config("uniform_curve", [spoken, "sizes=[0.6,0.3]", "dense=[decoder.*]", f"outputs={tmp_path}"])
    uniform_curve.main.__wrapped__(config)
    sizes = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()[2:5]]
    # One rank more in every layer would be a hundredth of the model at most.
    assert sizes == [1.0, pytest.approx(0.595, abs=0.005), pytest.approx(0.295, abs=0.005)]
    (folder,) = tmp_path.glob("uniform-*")
    assert {path.name for path in folder.iterdir()} >= {"uniform.csv", "uniform.png"}
