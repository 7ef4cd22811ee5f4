import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from experiments.common.statistics import pareto_front
from experiments.studies.landscape import local_optima

values = arrays(np.float64, (3, 2, 3), elements=st.integers(0, 6).map(float))


def test_local_optima_by_hand():
    # 3 is the best of its row and column, and so is 2; 1 and 0 are not.
    assert local_optima(np.array([[3.0, 0.0], [1.0, 2.0]])) == 2


@given(values)
def test_local_optima_by_enumeration(values):
    count = 0
    for place in itertools.product(*map(range, values.shape)):
        neighbours = [
            values[(*place[:axis], other, *place[axis + 1 :])]
            for axis in range(values.ndim)
            for other in range(values.shape[axis])
        ]
        count += values[place] >= max(neighbours)
    assert local_optima(values) == count


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_the_front_is_what_nothing_dominates(points):
    wer, size = np.array(points, dtype=float).T
    front = {points[index] for index in pareto_front(wer, size)}
    dominated = {
        one for one in points for other in points if other != one and other[0] <= one[0] and other[1] <= one[1]
    }
    assert front == set(points) - dominated
    assert list(size[pareto_front(wer, size)]) == sorted(size[pareto_front(wer, size)])
