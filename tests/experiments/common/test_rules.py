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
        assert size_ratio == problem.size_limit == 0.8
        return self.ranks


@pytest.mark.parametrize(
    ("constraint", "expected"), [({"name": "check", "budget": 0.8}, [{"a": 1}, {"a": 2}]), ("none", [])]
)
def test_the_rules_of_an_agent_at_the_allowed_size(constraint, expected):
    problem = search_problem(make_fake_env(constraint=constraint))
    rules = [{"_target_": f"{__name__}.Given", "ranks": {"a": rank}} for rank in (1, 2)]
    assert ranks_of_rules(problem, OmegaConf.create({"rules": rules})) == expected
    assert ranks_of_rules(problem, OmegaConf.create({"rules": None})) == []
    assert ranks_of_rules(problem, OmegaConf.create({})) == []
