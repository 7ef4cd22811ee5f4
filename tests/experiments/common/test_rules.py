import pytest
from omegaconf import OmegaConf

from experiments.common.rules import ranks_of_rules
from shrinkml_env.envs.wrapped import search_problem
from tests.helpers.fake_evaluator import make_fake_env


class Given:
    """A rule with ranks of its own."""

    def __init__(self, ranks):
        self.ranks = ranks

    def ranks_of_size(self, problem, size_ratio):
        assert size_ratio == 0.8
        # Any rank, not only the candidates of the search.
        assert problem.size_limit is None
        assert problem.search_space.counts == tuple(layer.break_even + 1 for layer in problem.layers)
        return self.ranks


def test_rules_leave_dense_what_the_search_does_not_decide():
    space = {"name": "explicit", "candidates": {"encoder.0": [8]}}
    problem = search_problem(make_fake_env(constraint={"name": "check", "budget": 0.9}, search_space=space))
    assert [layer.name for layer in problem.layers] == ["encoder.0"]
    rules = [{"_target_": "agents.UniformRank"}]
    (ranks,) = ranks_of_rules(problem, OmegaConf.create({"rules": rules}))
    assert set(ranks) == {"encoder.0"}
    assert problem.size(ranks) <= 0.9


@pytest.mark.parametrize(
    ("constraint", "expected"), [({"name": "check", "budget": 0.8}, [{"a": 1}, {"a": 2}]), ("none", [])]
)
def test_the_rules_of_an_agent_at_the_allowed_size(constraint, expected):
    problem = search_problem(make_fake_env(constraint=constraint))
    rules = [{"_target_": f"{__name__}.Given", "ranks": {"a": rank}} for rank in (1, 2)]
    assert ranks_of_rules(problem, OmegaConf.create({"rules": rules})) == expected
    assert ranks_of_rules(problem, OmegaConf.create({"rules": None})) == []
    assert ranks_of_rules(problem, OmegaConf.create({})) == []
