"""Tests of agents/curves.py: the rule of LiteASR. The other curves are tested with all searchers."""

import pytest
import torch

from agents import LiteASR
from tests.helpers.fake_evaluator import FakeEvaluator, make_fake_env


def problem_of(**options):
    return make_fake_env(evaluator=FakeEvaluator(), search_space={"name": "full", "count": 1000}, **options).problem


def at(level, problem, **options):
    rule = LiteASR(**options)
    rule._prepare(problem)
    return rule._at(problem, level)


@pytest.mark.parametrize("lost", [0.5, 0.1, 0.01])
def test_ranks_are_the_smallest_multiples_that_explain_enough(lost):
    """Derived from the singular values alone, layer by layer."""
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


def test_sizes_are_kept():
    problem = problem_of()
    for size in (0.4, 0.6, 0.9):
        assert problem.size(LiteASR(multiple=1).ranks_of_size(problem, size)) <= size
    assert LiteASR().ranks_of_size(problem, 1.0) == problem.search_space.dense


def test_errors():
    with pytest.raises(ValueError, match="multiple must be"):
        LiteASR(multiple=0)
