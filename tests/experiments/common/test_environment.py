import sys

import pytest

from experiments.common.environment import make_tabular_environment
from experiments.common.searches import Search, check_search
from shrinkml_env import Ledger


def test_what_a_config_imports_is_imported_where_the_environment_is_made(tmp_path, monkeypatch, fake_table):
    """A worker process begins without it."""
    (tmp_path / "reward_of_mine.py").write_text("def mine(evaluation, baseline):\n    return -evaluation.size_ratio\n")
    monkeypatch.syspath_prepend(tmp_path)
    search = Search("tabular", "random", "linear", 0, 1, ("imports=[reward_of_mine]",))
    assert "reward_of_mine" not in sys.modules
    make_tabular_environment(search.config, Ledger())
    assert "reward_of_mine" in sys.modules


def test_studies_play_one_environment_at_a_time():
    given = ("num_envs=2",)
    with pytest.raises(ValueError, match=r"^overrides.* num_envs=2: a study plays one environment at a time"):
        check_search(Search("live", "random", "linear", 0, 1, given), {"overrides": given})
