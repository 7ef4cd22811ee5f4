import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.common.pareto import hypervolume, hypervolumes, pareto_front


def test_the_front_by_hand():
    wer, size = [3.0, 4.0, 2.0, 2.0, 9.0, 9.5, 2.0], [0.5, 0.4, 0.5, 0.6, 0.3, 0.35, 0.5]
    assert pareto_front(wer, size).tolist() == [4, 1, 2]  # of equal points the first
    assert pareto_front([], []).tolist() == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_the_front_is_what_nothing_dominates(points):
    wer, size = np.array(points, dtype=float).T
    front = {points[index] for index in pareto_front(wer, size)}
    dominated = {
        one for one in points for other in points if other != one and other[0] <= one[0] and other[1] <= one[1]
    }
    assert front == set(points) - dominated
    assert list(size[pareto_front(wer, size)]) == sorted(size[pareto_front(wer, size)])


def test_hypervolume_by_hand():
    # Up to a WER of 0.5: 0.4 wide and 0.1 high from size 0.2 to 0.6, then 0.4 high up to 1.
    wer, size = [0.4, 0.1, 0.3, 0.6, 0.05], [0.2, 0.6, 0.7, 0.1, 1.0]
    assert hypervolume(wer, size, 0.5) == pytest.approx(0.4 * 0.1 + 0.4 * 0.4)
    assert hypervolumes(wer, size, 6, 0.5) == pytest.approx([0.8 * 0.1, *[0.2] * 5])
    assert hypervolume([0.6], [0.5], 0.5) == hypervolume([], [], 0.5) == 0


points = st.tuples(st.integers(0, 20), st.integers(0, 20))


@given(st.lists(points, max_size=12))
def test_hypervolume_counts_the_cells_that_are_dominated(chosen):
    cells = sum(any(e <= x and s <= y for e, s in chosen) for x in range(20) for y in range(20))
    wer, size = ([point[axis] / 20 for point in chosen] for axis in (0, 1))
    assert hypervolume(wer, size, 1.0) == pytest.approx(cells / 400)
