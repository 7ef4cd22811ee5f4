import itertools

import numpy as np
import pytest

from agents import ClosedForm
from shrinkml_env import Evaluator, SearchProblem
from shrinkml_env.compression import ActivationAwareSVD
from shrinkml_env.data import Utterance
from shrinkml_env.mdp.constraints import Budget
from shrinkml_env.mdp.rewards import Linear
from shrinkml_env.space import Prediction, allocate, choices_of, largest_within
from shrinkml_env.space.formation import Explicit
from shrinkml_env.space.prediction import predict_damage
from tests.helpers.fake_evaluator import make_fake_env
from tests.helpers.las import MODEL, noise

SPEECH = noise(9000, 14000)
CANDIDATES = {"encoder.1": [2, 5, 9], "decoder.lstm": [1, 3, 6], "decoder.readout": [2, 4]}


@pytest.fixture(scope="module")
def problem():
    utterances = [Utterance(str(index), "", waveform, "call martin") for index, waveform in enumerate(SPEECH)]
    evaluator = Evaluator(MODEL, utterances, factorisation=ActivationAwareSVD(MODEL, SPEECH, form="pivoting"))
    return SearchProblem(evaluator, Explicit(CANDIDATES)(evaluator.layers), Linear())


@pytest.fixture
def agent(problem):
    return ClosedForm(calibration=problem.evaluator.utterances, draws=2, seed=5)


def test_the_least_predict_for_for_a_size(agent, problem):
    """Among all configurations; its own cost is where a Lagrange multiplier finds exactly that."""
    prediction = predict_damage(MODEL, problem.evaluator.factorisation, SPEECH, draws=2, seed=5)

    def damage(ranks):
        return sum(prediction.of(layer, ranks[layer.name]) for layer in problem.layers)

    everything = list(problem.search_space.configurations())
    sizes = np.array([problem.size(ranks) for ranks in everything])
    damages = np.array([damage(ranks) for ranks in everything])
    for size in np.linspace(sizes.min(), 1.0, 7):
        found = agent.ranks_of_size(problem, size)
        assert problem.size(found) <= size
        # Nothing that is as small does less harm by a single step.
        for name, rank in itertools.chain.from_iterable(
            ((name, rank) for rank in (*ranks, problem.search_space.dense[name])) for name, ranks in CANDIDATES.items()
        ):
            other = {**found, name: rank}
            assert problem.size(other) > size or damage(other) >= damage(found)
    assert agent.ranks_of_size(problem, 1.0) == problem.search_space.dense
    best = damages[sizes <= 0.9].min()
    assert damage(agent.ranks_of_size(problem, 0.9)) <= max(2 * best, best + 1e-4)


def test_nothing_is_measured_for_a_size(agent, problem, monkeypatch):
    monkeypatch.setattr(type(problem.evaluator), "evaluate_many", lambda *_: pytest.fail("measured"))
    agent.ranks_of_size(problem, 0.8)


def test_gradients_are_taken_once(agent, problem, monkeypatch):
    agent.ranks_of_size(problem, 0.8)
    monkeypatch.setattr("agents.closed_form.predict_for", lambda *_: pytest.fail("taken again"))
    agent.ranks_of_size(problem, 0.85)


def test_the_second_round_takes_the_gradients_of_the_first_ones_model(agent, problem):
    evaluator, space = problem.evaluator, problem.search_space
    first = agent.ranks_of_size(problem, 0.9)
    rounds = [
        predict_damage(MODEL, evaluator.factorisation, SPEECH, 2, 5, at=at)
        for at in (None, evaluator.matrix_ranks(first))
    ]
    spared = evaluator.params(space.dense) - largest_within(0.9, evaluator.params(space.dense))
    params = sum(layer.parameters(layer.max_rank) for layer in space.layers) - spared
    expected = space.ranks(allocate(choices_of(space, Prediction.mean(rounds)), params))
    found = ClosedForm(calibration=evaluator.utterances, draws=2, seed=5, rounds=2).ranks_of_size(problem, 0.9)
    assert found == expected
    assert found != first


def test_rounds_must_be_at_least_one():
    with pytest.raises(ValueError, match="rounds must be a whole number of at least 1, got 0"):
        ClosedForm(rounds=0)


def test_a_search_goes_through_the_sizes(agent, problem):
    proposals = agent.search(problem)
    sizes = [problem.size(next(proposals)) for _ in range(4)]
    assert sizes[0] == 1.0
    assert sizes[2] >= sizes[1] >= sizes[3]


def test_a_size_limit_is_where_it_begins(agent, problem):
    limited = SearchProblem(
        problem.evaluator,
        problem.search_space,
        problem.reward_function,
        Budget(problem.evaluator, problem.search_space, budget=0.9),
    )
    first = next(agent.search(limited))
    assert first == agent.ranks_of_size(problem, 0.9)
    assert 0.85 < limited.size(first) <= 0.9


def test_without_a_model():
    with pytest.raises(ValueError, match="agent closed_form needs a model, whose gradients it takes"):
        ClosedForm(make_fake_env()).learn(5)


def test_draws_are_checked_before_anything_is_measured():
    with pytest.raises(ValueError, match="draws must be a whole number of at least 1, got 0"):
        ClosedForm(draws=0)


def test_a_size_may_be_above_the_constraints(agent, problem):
    """A rule answers for the size that it is asked for; only the search keeps to the constraint."""
    budget = Budget(problem.evaluator, problem.search_space, budget=0.85)
    limited = SearchProblem(problem.evaluator, problem.search_space, Linear(), budget)
    assert agent.ranks_of_size(limited, 0.95) == agent.ranks_of_size(problem, 0.95)
    assert 0.85 < problem.size(agent.ranks_of_size(limited, 0.95)) <= 0.95
    assert max(problem.size(next(agent.search(limited))) for _ in range(3)) <= 0.85
