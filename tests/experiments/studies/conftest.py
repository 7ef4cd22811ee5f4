import pytest

from tests.helpers.fake_table import TABLE


@pytest.fixture
def fake_table(monkeypatch):
    """The table of the fake model in place of the shipped one."""
    monkeypatch.setattr("shrinkml_env.space.table.Table.load", classmethod(lambda cls, name_or_path="las_small": TABLE))
