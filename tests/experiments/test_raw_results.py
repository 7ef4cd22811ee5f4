"""The results that are kept beside docs/results are still those that its commands ask for."""

import importlib
from pathlib import Path

import pytest
from hydra import compose, initialize

RAW = Path("docs/results/raw").absolute()


class AskedError(Exception):
    """Instead of making what is missing."""


@pytest.mark.parametrize(
    "command",
    [
        "tradeoff comparison=rewards",
        "tradeoff comparison=factorisations",
        "reward_study",
        "ablation",
    ],
)
def test_nothing_is_made_again(command, tmp_path, monkeypatch):
    name, *overrides = command.split()
    study = importlib.import_module(f"experiments.{name}")

    def ask(wanted, *_):
        raise AskedError(wanted)

    monkeypatch.setattr(study, "results_of", ask)
    with initialize(version_base="1.3", config_path="../../conf"):
        config = compose(name, [*overrides, f"outputs={tmp_path}"])
    with pytest.raises(AskedError) as asked:
        study.main.__wrapped__(config)
    (wanted,) = asked.value.args
    assert wanted
    assert [path for path in wanted if not (RAW / path.relative_to(tmp_path)).exists()] == []
