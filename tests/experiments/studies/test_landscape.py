import itertools
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from experiments.common.compose import compose_config
from experiments.studies import landscape
from experiments.studies.landscape import local_optima, wer_and_size
from tests.helpers.fake_table import TABLE

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


def test_the_command_describes_a_table_of_a_file(tmp_path, capsys, panels):
    replace(TABLE, edits={**TABLE.edits, "dev": TABLE.edits["proxy"]}).save(tmp_path / "table.npz")
    overrides = [f"table={tmp_path / 'table.npz'}", f"outputs={tmp_path}"]
    landscape.main.__wrapped__(compose_config("landscape", overrides))
    printed = capsys.readouterr().out
    wer, size = wer_and_size(TABLE)
    rewards = wer[-1] - wer - 0.2 * size
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("linear ")]
    assert row[1:4] == [f"{rewards.max():.4f}", f"{size[rewards.argmax()]:.3f}", f"{100 * wer[rewards.argmax()]:.2f}"]
    assert f"{len(wer)} configurations" in printed
    assert list(tmp_path.glob("landscape-*/landscape.png"))
    assert min(panels) > 1
