import pytest
from hydra import compose, initialize

from tests.experiments.workplace import make_workplace
from tests.models import TinyCTC


@pytest.fixture
def configure(tmp_path):
    """Composes the config of a search on `TinyCTC`, with runs below `tmp_path`."""
    common = [*make_workplace(tmp_path, TinyCTC()), f"outputs={tmp_path / 'outputs'}"]

    def compose_search(*overrides):
        with initialize(version_base="1.3", config_path="../../conf"):
            return compose("search", [*common, *overrides])

    return compose_search
