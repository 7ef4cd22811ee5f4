import math

import pytest

from agents import EnergyCurve, ModelBasedSearch, RandomSearch, UniformRank
from shrinkml_env.evaluation.ledger import BudgetExhausted, Ledger
from tests.helpers.fake_evaluator import Deaf, FakeEvaluator, linear, make_fake_env

STEPS = 5


@pytest.mark.slow
def test_a_model_of_the_wer_is_worth_having():
    """After 25 evaluations it has found more than random search after four times as many, whatever the seed."""
    for seed in range(2):
        random, planned = make_fake_env(), make_fake_env(ledger=Ledger(budget=25))
        RandomSearch(random, seed=seed).learn(100 * STEPS)
        with pytest.raises(BudgetExhausted):
            ModelBasedSearch(planned, seed=seed).learn(1000 * STEPS)
        assert planned.problem.best.reward > random.problem.best.reward


def test_planning_starts_from_what_rules_give():
    env = make_fake_env(constraint={"name": "check", "budget": 0.6})
    ModelBasedSearch(env, far=0, rules=[UniformRank(), EnergyCurve()], seed=0).learn(10 * STEPS)
    expected = [rule.ranks_of_size(env.problem, 0.6) for rule in (UniformRank(), EnergyCurve())]
    for trial, ranks in zip(env.problem.history, expected, strict=False):
        assert {name: trial.ranks[name] for name in ranks} == ranks
    assert len(env.problem.history) == 10
    # Rules that agree are played once.
    alike = make_fake_env(constraint={"name": "check", "budget": 0.6})
    ModelBasedSearch(alike, far=0, rules=[UniformRank(), UniformRank()], seed=0).learn(10 * STEPS)
    assert alike.problem.ledger.count == len(alike.problem.history) == 10
    by_macs = {"name": "check", "budget": 0.6, "resource": "macs"}
    for constraint in ("none", by_macs):
        with pytest.raises(ValueError, match="need a constraint"):
            ModelBasedSearch(make_fake_env(constraint=constraint), rules=[UniformRank()]).learn(STEPS)


@pytest.mark.parametrize("far", [1, -0.1, math.nan, "0.5", None, True])
def test_far_is_a_share(far):
    with pytest.raises(ValueError, match=r"far must be a share in \[0, 1\), got"):
        ModelBasedSearch(far=far)


@pytest.mark.slow
def test_a_model_of_the_divergence_is_worth_having():
    for seed in range(2):
        random, planned = (
            make_fake_env(
                evaluator=Deaf(divergence=True),
                reward={"name": "divergence", "size_weight": 0},
                constraint={"name": constraint, "budget": 0.4},
            )
            for constraint in ("decrement", "check")
        )
        RandomSearch(random, seed=seed).learn(100 * STEPS)
        ModelBasedSearch(planned, seed=seed).learn(25 * STEPS)
        assert planned.problem.best.reward > random.problem.best.reward


def test_a_model_based_search_tries_everything_once():
    layers = (linear("first", 40, 30), linear("second", 50, 40))
    env = make_fake_env(evaluator=FakeEvaluator(layers), search_space={"name": "full", "count": 4})
    agent = ModelBasedSearch(env, imagined=200, seed=0).learn(10_000)
    # All but the original, which is known.
    assert agent.num_timesteps == 2 * env.problem.ledger.count == 2 * (5 * 5 - 1)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.02])
@pytest.mark.parametrize("resource", ["size", "macs"])
def test_a_model_based_search_plans_within_the_budget_and_uses_it_up(resource, share):
    problem = make_fake_env().problem
    cost, dense = getattr(problem.evaluator, {"size": "params", "macs": "macs"}[resource]), {}
    smallest = {layer.name: ranks[0] for layer, ranks in zip(problem.layers, problem.candidates, strict=True)}
    # Hardly any configuration drawn at random keeps to the second one.
    budget = (cost(smallest) + share * (cost(dense) - cost(smallest))) / cost(dense)
    env = make_fake_env(constraint={"name": "check", "budget": budget, "resource": resource})
    ModelBasedSearch(env, imagined=300, seed=0).learn(12 * STEPS)
    history = env.problem.history
    assert len(history) == 12
    assert all(trial.feasible for trial in history)
    largest = max(cost(trial.evaluation.ranks) for trial in history) / cost(dense)
    assert budget - 0.05 < largest <= budget


@pytest.mark.slow
def test_a_model_based_search_within_multiply_adds_leaves_an_embedding_dense():
    """Factored it would cost more: where hardly more than the cheapest is allowed, it must come up to dense."""
    evaluator = FakeEvaluator(lookups={"bridge": 2000})
    problem = make_fake_env(evaluator=evaluator).problem
    cheapest = {layer.name: ranks[0] for layer, ranks in zip(problem.layers, problem.candidates, strict=True)}
    cheapest["bridge"] = problem.candidates[[layer.name for layer in problem.layers].index("bridge")][-1]
    low, high = evaluator.macs(cheapest), evaluator.macs({})
    assert low < evaluator.macs({**cheapest, "bridge": 1})
    budget = (low + 0.2 * (high - low)) / high
    env = make_fake_env(evaluator=evaluator, constraint={"name": "check", "budget": budget, "resource": "macs"})
    ModelBasedSearch(env, imagined=300, seed=0).learn(12 * STEPS)
    assert [trial.feasible for trial in env.problem.history] == [True] * 12


def test_a_model_based_search_without_a_feasible_configuration_plays_the_smallest():
    env = make_fake_env(constraint={"name": "check", "budget": 1e-6})
    ModelBasedSearch(env, seed=0).learn(12 * STEPS)
    assert [trial.feasible for trial in env.problem.history] == [False]
