import math

import numpy as np
import pytest

from shrinkml_env.evaluation.ledger import BudgetExhausted, Ledger
from shrinkml_env.problem import SearchProblem
from shrinkml_env.rewards import Linear, Vector
from shrinkml_env.search_space import Full
from tests.fake_evaluator import LAYERS, FakeEvaluator, linear


def make(reward=None, ledger=None) -> SearchProblem:
    return SearchProblem(FakeEvaluator(), Full()(LAYERS), reward or Linear(), ledger=ledger)


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
    with pytest.raises(TypeError, match="has no best configuration"):
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
