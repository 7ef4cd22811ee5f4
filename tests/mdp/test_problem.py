import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env.compression import split_layers
from shrinkml_env.envs.assembly import make_problem
from shrinkml_env.evaluation.ledger import BudgetExhausted, Ledger
from shrinkml_env.mdp.constraints import Unconstrained
from shrinkml_env.mdp.problem import SearchProblem
from shrinkml_env.mdp.rewards import Linear, Vector
from shrinkml_env.space.formation import Full
from tests.helpers.fake_evaluator import LAYERS, FakeEvaluator, linear


def make(reward=None, ledger=None, split=False) -> SearchProblem:
    layers = split_layers(LAYERS) if split else LAYERS
    return SearchProblem(FakeEvaluator(layers), Full()(layers), reward or Linear(), ledger=ledger)


def test_history_and_best():
    problem = make()
    assert problem.best is None
    assert problem.history == ()
    rewards = []
    for rank in (39, 20, 39, 1):
        evaluation = problem.evaluate({"output": rank})
        rewards.append(problem.reward(evaluation)[0])
    assert [trial.ranks["output"] for trial in problem.history] == [39, 20, 1]
    assert [trial.reward for trial in problem.history] == [rewards[0], rewards[1], rewards[3]]
    # Rank 20 is above half of break-even (19), where the fake WER starts to rise: smaller at no loss.
    assert problem.best is not None
    assert problem.best.ranks == {**problem.baseline.ranks, "output": 20}
    assert math.isclose(problem.best.reward, sum(problem.best.terms.values()))


def test_size_costs_nothing():
    problem = make(ledger=Ledger(budget=0))
    assert problem.size({}) == 1.0
    # 100 x 64 at rank 10: 1640 numbers instead of 6400.
    original = problem.baseline.params
    assert problem.size({"output": 10}) == pytest.approx((original - 4760) / original)
    with pytest.raises(BudgetExhausted):
        problem.evaluate({})


def test_any_callable_is_a_reward():
    problem = make(reward=lambda evaluation, baseline: baseline.wer - evaluation.wer)
    assert problem.reward(problem.baseline) == (0.0, {"reward": 0.0})
    with pytest.raises(ValueError, match="gave nan"):
        make(reward=lambda evaluation, baseline: math.nan).reward(problem.baseline)


def test_a_vector_reward_has_no_best():
    problem = make(reward=Vector())
    problem.evaluate({})
    (trial,) = problem.history
    assert trial.reward.tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="a best configuration needs a scalar reward, not Vector: read `history`"):
        _ = problem.best


def test_rewards_that_cannot_work_are_refused_at_once():
    class Nameless:
        space = Vector.space

        def __call__(self, evaluation, baseline):
            return np.zeros(2, np.float32)

    with pytest.raises(ValueError, match="needs a method `terms`"):
        make(reward=Nameless())
    with pytest.raises(ValueError, match=r"or a callable, got 0\.3"):
        make(reward=0.3)


def test_search_space_of_another_model():
    with pytest.raises(ValueError, match="'stranger' is not one of the evaluator's"):
        SearchProblem(FakeEvaluator(), Full()([linear("stranger", 50, 50)]), Linear())


def test_constraint_of_another_search_space():
    evaluator = FakeEvaluator()
    constraint = Unconstrained(evaluator, Full(2)(LAYERS))
    with pytest.raises(ValueError, match="the constraint was made of another search space"):
        SearchProblem(evaluator, Full(3)(LAYERS), Linear(), constraint)


def test_a_resumed_run_has_the_same_history(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    histories = []
    for _ in range(2):
        problem = make(ledger=Ledger(path))
        assert problem.history == ()
        for rank in (39, 20, 1):
            problem.evaluate({"output": rank})
        histories.append(problem.history)
        problem.ledger.close()
    assert histories[0] == histories[1]


@pytest.mark.parametrize("resource", ["size", "macs"])
@pytest.mark.parametrize("space", ["full", {"name": "explicit", "candidates": {"output": [10], "bridge": [2]}}])
def test_any_configuration_of_the_evaluator_is_judged(resource, space):
    """Ranks that are no candidates, and layers that the search space leaves out, count for the budget as well."""
    problem = make_problem(
        FakeEvaluator(),
        constraint={"name": "check", "budget": 0.95, "resource": resource},
        reward="accuracy",
        search_space=space,
    )
    configurations = [{"output": 4}, {"encoder.0": 50}, {"gate": 1, "bridge": 4}, {"encoder.1": 1, "output": 39}, {}]
    for ranks in configurations:
        evaluation = problem.evaluate(ranks)
        share = {"size": evaluation.size_ratio, "macs": evaluation.macs / problem.baseline.macs}[resource]
        trial = problem.history[-1]
        assert trial.feasible is (share <= 0.95)
        assert problem.is_feasible(ranks) is problem.is_feasible(trial.ranks) is trial.feasible
    assert {trial.feasible for trial in problem.history} == {True, False}
    assert problem.best.feasible
    with pytest.raises(ValueError, match="no layer is named 'nowhere'"):
        problem.is_feasible({"nowhere": 1})


@given(data=st.data())
def test_sizes_on_the_way_are_the_evaluators(data):
    problem = make(split=data.draw(st.booleans()))
    done = data.draw(st.integers(0, len(problem.layers)))
    ranks = tuple(data.draw(st.sampled_from(candidates)) for candidates in problem.candidates[:done])
    named = {layer.name: rank for layer, rank in zip(problem.layers, ranks, strict=False)}
    assert problem.params_after(ranks) == problem.evaluator.params(named)
    assert problem.params_after(ranks) / problem.baseline.params == problem.evaluator.size_ratio(named)
