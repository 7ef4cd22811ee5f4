"""Tests of agents/lite_asr.py; what curves have in common is tested with all searchers."""

import pytest
import torch

from agents import LiteASR
from shrinkml_env import EvaluationCache, Evaluator, SearchProblem, Utterance
from shrinkml_env.compression import ActivationAwareSVD, output_variances
from shrinkml_env.mdp.rewards import Linear
from shrinkml_env.space.formation import Full
from tests.helpers.fake_evaluator import FakeEvaluator, make_fake_env
from tests.helpers.las import MODEL, noise
from tests.helpers.predicted import do_without_a_model


@pytest.fixture
def without_a_model(monkeypatch):
    do_without_a_model(monkeypatch)


def problem_of(**options):
    return make_fake_env(evaluator=FakeEvaluator(), search_space={"name": "full", "count": 1000}, **options).problem


def at(level, problem, **options):
    rule = LiteASR(**options)
    rule._prepare(problem)
    return rule._at(problem, level)


@pytest.mark.usefixtures("without_a_model")
@pytest.mark.parametrize("lost", [0.5, 0.1, 0.01])
def test_ranks_are_the_smallest_multiples_that_explain_enough(lost):
    """Derived from the standard deviations alone, layer by layer."""
    problem = problem_of()
    ranks = at(1 - lost, problem, attention="encoder.1", lenience=4.0, multiple=4)
    for layer in problem.layers:
        allowed = 4 * lost if layer.name == "encoder.1" else lost
        spectra = [problem.evaluator.singular_values[matrix.name].square() for matrix in layer.matrices]
        kept = [
            sum(float(spectrum[:rank].sum() / spectrum.sum()) for spectrum in spectra) / len(spectra)
            for rank in range(layer.break_even + 1)
        ]
        enough = [rank for rank in range(4, layer.break_even + 1, 4) if kept[rank] > 1 - allowed]
        assert ranks[layer.name] == min(enough, default=layer.max_rank), layer.name


@pytest.mark.usefixtures("without_a_model")
def test_one_matrix_by_hand():
    """Variances 16, 4, 4, 1, ... of 25 + rest: two triplets explain 20 / 26 of it, three 24 / 26."""
    problem = problem_of()
    layer = problem.layers[0]
    for matrix in layer.matrices:
        values = torch.zeros(matrix.max_rank, dtype=torch.float64)
        values[:5] = torch.tensor([4.0, 2.0, 2.0, 1.0, 1.0])
        problem.evaluator.singular_values[matrix.name] = values
    for threshold, rank in [(19 / 26, 2), (21 / 26, 3), (23.9 / 26, 3), (24.1 / 26, 4), (25.1 / 26, 5)]:
        assert at(threshold, problem, multiple=1)[layer.name] == rank
    assert at(19 / 26, problem, multiple=2)[layer.name] == 2
    assert at(21 / 26, problem, multiple=2)[layer.name] == 4


@pytest.mark.usefixtures("without_a_model")
def test_a_multiple_that_is_no_candidate_is_raised_to_the_next_one():
    every, few = (
        problem_of(),
        make_fake_env(evaluator=FakeEvaluator(), search_space={"name": "full", "count": 5}).problem,
    )
    for level in (0.3, 0.7, 0.95):
        wanted, ranks = (at(level, problem, multiple=4) for problem in (every, few))
        for layer, candidates in zip(few.layers, few.candidates, strict=True):
            assert ranks[layer.name] == min(rank for rank in candidates if rank >= wanted[layer.name])


@pytest.mark.usefixtures("without_a_model")
def test_sizes_are_kept():
    problem = problem_of()
    for size in (0.4, 0.6, 0.9):
        assert problem.size(LiteASR(multiple=1).ranks_of_size(problem, size)) <= size
    assert LiteASR().ranks_of_size(problem, 1.0) == problem.search_space.dense


def test_errors():
    with pytest.raises(ValueError, match="multiple must be"):
        LiteASR(multiple=0)
    with pytest.raises(ValueError, match="lenience must be"):
        LiteASR(lenience=0)


def test_the_variance_is_that_of_the_outputs(tmp_path, monkeypatch):
    """Of a real model, once: the cache keeps it."""
    waveforms = noise(9000, 14000)
    speech = [Utterance(str(index), "", waveform, "call martin") for index, waveform in enumerate(waveforms)]
    factors = ActivationAwareSVD(MODEL, waveforms)
    evaluator = Evaluator(MODEL, speech, "matrix", EvaluationCache(tmp_path / "cache.sqlite"), factors)
    problem = SearchProblem(evaluator, Full(1000)(evaluator.layers), Linear())
    variances = output_variances(MODEL, waveforms, problem.layers)
    for _ in range(2):
        ranks = at(0.9, problem, attention="", multiple=2, calibration=speech)
        for layer in problem.layers:
            (matrix,) = layer.matrices
            share = variances[matrix.name].cumsum(0) / variances[matrix.name].sum()
            enough = [rank for rank in range(2, layer.break_even + 1, 2) if share[rank - 1] > 0.9]
            assert ranks[layer.name] == min(enough, default=layer.max_rank), layer.name
        monkeypatch.setattr("shrinkml_env.compression.variances._computed", lambda *_: pytest.fail("again"))


def test_without_a_model():
    with pytest.raises(ValueError, match="agent lite_asr needs a model, whose outputs it looks at"):
        LiteASR(make_fake_env()).learn(5)
