import json

import pytest
from experiments.common.resumable import results_of


def square(number):
    """For other processes: fails at 13."""
    if number == 13:
        raise ValueError("unlucky")
    return {"square": number**2}


def test_results_are_in_the_tasks_order_and_not_made_again(tmp_path):
    tasks = {tmp_path / f"{number}.json": number for number in (3, 1, 2)}
    (tmp_path / "1.json").write_text(json.dumps({"square": "known"}))
    expected = [{"square": 9}, {"square": "known"}, {"square": 4}]
    assert results_of(tasks, square, workers=2) == expected
    (tmp_path / "2.json").unlink()
    assert results_of(tasks, square) == expected


def test_what_was_made_beside_a_failure_stays(tmp_path):
    tasks = {tmp_path / f"{number}.json": number for number in (13, 4, 5)}
    with pytest.raises(ValueError, match="unlucky"):
        results_of(tasks, square)
    (tmp_path / "13.json").write_text("{}")
    assert results_of(tasks, square) == [{}, {"square": 16}, {"square": 25}]
