import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

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
