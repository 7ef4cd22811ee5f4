"""The results that are kept beside docs/results are still those that its commands ask for."""

import importlib
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize

RAW = Path("docs/results/raw").absolute()


@pytest.mark.parametrize(
    "command",
    [
        "tradeoff",
        "tradeoff comparison=rewards",
        "tradeoff comparison=factorisations",
        "reward_study",
        "ablation",
        "retraining",
    ],
)
def test_tables_from_what_is_kept(command, tmp_path, monkeypatch, capsys):
    name, *overrides = command.split()
    study = importlib.import_module(f"experiments.{name}")
    read = study.results_of

    def results_of(wanted, *options):
        assert [path.name for path in wanted if not path.exists()] == []
        return read(wanted, *options)

    monkeypatch.setattr(study, "results_of", results_of)
    for folder in RAW.glob(f"{name}-*"):
        shutil.copytree(folder, tmp_path / folder.name)
    with initialize(version_base="1.3", config_path="../../conf"):
        config = compose(name, [*overrides, f"outputs={tmp_path}"])
    study.main.__wrapped__(config)
    assert "---" in capsys.readouterr().out
