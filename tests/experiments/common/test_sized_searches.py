import json

import pytest

from experiments.common.searches import Search
from experiments.common.sized_searches import Chosen, SizedRule, SizedSearch, choose_ranks
from tests.helpers.speech import SHIPPED_SPEECH


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """Overrides for two utterances to search on, the same two to choose by, three to report."""
    monkeypatch.setenv("SHRINKML_CACHE", str(tmp_path / "cache.sqlite"))
    limits = {"proxy": 2, "dev": 2, "test": 3}
    return [f"{name}={{root: {SHIPPED_SPEECH}, subset: dev, limit: {limit}}}" for name, limit in limits.items()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "evaluations", "least"),
    # Two utterances bear a lot, and of equal losses the knapsack takes the smaller model.
    [("profile", 0, 0.39), ("knapsack", 66, 0.2)],
)
def test_a_rule_keeps_its_size(sets, rule, evaluations, least):
    search = Search("live", rule, "accuracy", 0, 1, tuple(sets))
    result = Chosen(**json.loads(json.dumps(choose_ranks(SizedRule("mine", search, 0.4)))))
    assert (result.agent, result.size, result.seed, result.evaluations) == ("mine", 0.4, 0, evaluations)
    assert least < result.size_ratio <= 0.4
    assert len(result.edits) == 3


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["layer", "matrix"])
def test_a_search_keeps_its_size(sets, granularity):
    search = Search(
        "live",
        "random",
        "accuracy",
        3,
        2,
        ("constraint=clip", "constraint.budget=0.5", f"granularity={granularity}", *sets),
    )
    result = Chosen(**json.loads(json.dumps(choose_ranks(SizedSearch("mine", search, finalists=1)))))
    assert (result.agent, result.size, result.seed, result.evaluations) == ("mine", 0.5, 3, 2)
    assert result.size_ratio <= 0.5
    assert len(result.edits) == len(result.edits_before) == len(result.words) == 3
    assert result.dev_wer == result.proxy_wer  # the same two utterances
