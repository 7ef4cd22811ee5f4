import json
from dataclasses import replace
from pathlib import Path

import pytest

import shrinkml_env
from experiments.runs import Task
from experiments.tradeoff import Found, Search, chosen, draw, make, rows


def found(agent, size, seed, edits, dev_wer=0.1, size_ratio=None):
    """A search on three test utterances of ten words, in each of which the original makes one error."""
    ranks = {"output": 4}
    return Found(agent, size, seed, ranks, size_ratio or size, 5, 0.1, dev_wer, edits, [1, 1, 1], [10, 10, 10])


FOUND = [
    found("uniform", 0.5, 0, [4, 4, 4]),
    found("ppo", 0.5, 0, [2, 2, 2], dev_wer=0.3),
    found("ppo", 0.5, 1, [1, 1, 1], dev_wer=0.2),
    found("uniform", 0.25, 0, [9, 9, 9], size_ratio=0.3),
    found("ppo", 0.25, 0, [3, 3, 3]),
]


def test_dev_chooses_and_test_is_reported():
    assert chosen(FOUND[1:3]).seed == 1
    assert chosen([FOUND[2], replace(FOUND[2], seed=2, size_ratio=0.4)]).seed == 2
    table = rows(FOUND, ["uniform"])
    assert [row[:2] for row in table] == [("0.5", "uniform"), ("0.5", "ppo"), ("0.25", "ppo")]
    by_hand, ppo, small = table
    assert by_hand[3:] == ("0.500", "40.00", "+30.00 (+30.00)", "")
    assert ppo[2].startswith("15.00 [10.00, 20.00] of 2")
    assert ppo[3:] == ("0.500", "10.00", "+0.00 (+0.00)", "-30.00 [-30.00, -30.00]")
    # What kept no size has no place in the table, and cannot be compared with.
    assert small[5:] == ("+20.00 (+20.00)", "")


def test_a_picture(tmp_path):
    draw(tmp_path / "tradeoff.png", FOUND)
    assert (tmp_path / "tradeoff.png").stat().st_size > 10_000


@pytest.mark.parametrize("granularity", ["layer", "matrix"])
def test_a_search_keeps_its_size(tmp_path, monkeypatch, granularity):
    monkeypatch.setenv("SHRINKML_CACHE", str(tmp_path / "cache.sqlite"))
    speech = Path(shrinkml_env.__file__).parent / "assets" / "speech"
    sets = [
        f"{name}={{root: {speech}, subset: dev, limit: {limit}}}"
        for name, limit in (("proxy", 2), ("dev", 2), ("test", 3))
    ]
    task = Task(
        "live",
        "random",
        "accuracy",
        3,
        2,
        ("constraint=clip", "constraint.budget=0.5", f"granularity={granularity}", *sets),
    )
    result = Found(**json.loads(json.dumps(make(Search(task, finalists=1)))))
    assert (result.agent, result.size, result.seed, result.evaluations) == ("random", 0.5, 3, 2)
    assert result.size_ratio <= 0.5
    assert len(result.edits) == len(result.edits_before) == len(result.words) == 3
    assert result.dev_wer == result.proxy_wer  # the same two utterances
