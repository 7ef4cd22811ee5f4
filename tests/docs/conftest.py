import pytest

from shrinkml_env.data import SHIPPED_SETS


@pytest.fixture
def few_utterances(monkeypatch):
    """Every shipped set is four of its utterances: that the code runs takes no more."""
    for name, options in SHIPPED_SETS.items():
        monkeypatch.setitem(SHIPPED_SETS, name, {**options, "limit": 4})
