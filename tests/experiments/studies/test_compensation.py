from dataclasses import asdict

import pytest

from experiments.common.compose import compose_config
from experiments.common.findings import Errors
from experiments.studies import compensation
from experiments.studies.compensation import Compared, read, table
from tests.helpers.speech import SHIPPED_SPEECH

FEW = f"{{root: {SHIPPED_SPEECH}, subset: dev, limit: 4}}"


def test_a_row_of_the_table():
    """All utterances alike, so that the intervals are as wide as nothing: 10, 40 and 20 % of 10 words each."""
    errors = [Errors([edits] * 6, [10] * 6) for edits in (1, 4, 2)]
    found = Compared(0.4, 0.399, (0.05, 0.025), *errors)
    assert read(asdict(found)) == found
    (row,) = table([found]).to_dict("records")
    assert list(row.values()) == [
        "0.4",
        "0.399",
        "0.0500",
        "0.0250",
        "40.00",
        "20.00",
        "-20.00 [-20.00, -20.00]",
        "+10.00 (+10.00)",
    ]


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SHRINKML_CACHE", str(tmp_path / "cache.sqlite"))
    # Speech of the same voices everywhere: less divergence is sure only on what the factors were fitted on.
    few = ["proxy", "dev", "test", "factorisation.calibration", "agent.calibration"]
    overrides = ["factorisation=pivoting", "granularity=matrix", *(f"{name}={FEW}" for name in few)]
    config = compose_config("compensation", ["sizes=[0.3]", f"outputs={tmp_path}"])
    config.overrides = overrides
    compensation.main.__wrapped__(config)
    values = capsys.readouterr().out.splitlines()[2].split()
    assert values[0] == "0.3"
    assert 0.29 < float(values[1]) <= 0.3
    assert 0 < float(values[3]) < float(values[2])
    assert list(tmp_path.glob("*/*.png"))
