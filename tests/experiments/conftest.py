import numpy as np
import pytest
import torch
from hydra import compose, initialize
from matplotlib.figure import Figure

from shrinkml_env import save_compressed
from shrinkml_env.asr import JointCTCAttention
from shrinkml_env.asr.training import Trainer, TrainingSettings
from shrinkml_env.compression import round_to_storage
from tests.helpers.fake_table import TABLE
from tests.helpers.models import TinyCTC
from tests.helpers.speech import PLAIN, make_corpus, make_learner
from tests.helpers.workplace import make_workplace


@pytest.fixture
def fake_table(monkeypatch):
    """The table of the fake model in place of the shipped one."""
    monkeypatch.setattr("shrinkml_env.space.table.Table.load", classmethod(lambda cls, name_or_path="las_small": TABLE))


@pytest.fixture
def panels(monkeypatch):
    """For each panel of the pictures that are written, the number of points of its lines and dots."""
    shown, savefig = [], Figure.savefig

    def points(axes):
        lines = sum(int(np.isfinite(line.get_xydata().astype(float)).all(1).sum()) for line in axes.get_lines())
        return lines + sum(len(dots.get_offsets()) for dots in axes.collections)

    def save(figure, *arguments, **options):
        shown.extend(points(axes) for axes in figure.axes if axes.axison)
        return savefig(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", save)
    return shown


@pytest.fixture
def configure(tmp_path):
    """Composes the config of a search on `TinyCTC`, with runs below `tmp_path`."""
    common = [*make_workplace(tmp_path, TinyCTC()), f"outputs={tmp_path / 'outputs'}"]

    def compose_search(*overrides):
        with initialize(version_base="1.3", config_path="../../conf"):
            return compose("search", [*common, *overrides])

    return compose_search


@pytest.fixture(scope="session")
def tones(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session")
def original(tones):
    """The folder of a model that has learned a little."""
    torch.set_num_threads(1)
    model, folder = make_learner(tones), tones.folder.parent
    settings = TrainingSettings(epochs=40, batch_seconds=20.0, learning_rate=1e-2)
    Trainer(model, tones, tones[:1], PLAIN, JointCTCAttention(), settings, folder / "training").run()
    round_to_storage(model.eval())
    save_compressed(model, folder / "original")
    return folder / "original"


@pytest.fixture
def configure_training(tones, original, tmp_path):
    """Composes a config on the tones, with runs below `tmp_path`."""
    speech = f"{{root: {tones.folder.parent}, subset: train}}"
    sets = {
        "finetune": [f"data.{name}={speech}" for name in ("train", "dev", "test")],
        "seed_model": [f"{name}={speech}" for name in ("proxy", "dev", "test")],
    }
    sets["iterate"] = [*sets["finetune"], f"proxy={speech}"]
    sets["retraining"] = sets["finetune"]

    def compose_config(name, *overrides):
        common = ["data=synthetic", f"original={original}", "training.batch_seconds=2.0", "training.epochs=2"]
        common = [f"model={original}"] if name == "seed_model" else common
        with initialize(version_base="1.3", config_path="../../conf"):
            return compose(name, [*common, *sets[name], f"outputs={tmp_path / name}", *overrides])

    return compose_config
