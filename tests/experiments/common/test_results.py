import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.common.results import Cell, append_result, read_results, results_of
from experiments.common.study import study_results


def square(number):
    """For other processes: fails at 13."""
    if number == 13:
        raise ValueError("unlucky")
    return {"square": number**2}


def cells(*numbers):
    return [Cell(number, {"number": number}, {"name": f"number {number}"}) for number in numbers]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.jsonl"


@pytest.mark.slow
def test_results_are_in_the_order_of_the_cells_and_not_made_again(path):
    append_result(path, cells(1)[0], {"square": "known"})
    expected = [{"square": 9}, {"square": "known"}, {"square": 4}]
    assert results_of(cells(3, 1, 2), square, path, workers=2) == expected
    lines = path.read_bytes()
    assert results_of(cells(3, 1, 2), square, path) == expected
    assert path.read_bytes() == lines
    first = json.loads(lines.splitlines()[0])
    assert first["cell"]["name"] == "number 1"
    assert first["versions"]["torch"] == version("torch")  # for people: the key does not depend on it


def test_what_is_known_elsewhere_is_not_made(path):
    (cell,) = cells(13)
    assert results_of([cell], square, path, known={cell.key: {"square": 169}}) == [{"square": 169}]
    assert not path.exists()


@pytest.mark.slow
def test_what_was_made_beside_a_failure_stays(path):
    with pytest.raises(ValueError, match="name=number 13: unlucky"):
        results_of(cells(4, 13, 5), square, path)
    assert not list(path.parent.glob("*.jsonl.*.lock"))
    assert cells(4)[0].key in read_results(path)
    append_result(path, cells(13)[0], {})
    assert results_of(cells(13, 4, 5), square, path) == [{}, {"square": 16}, {"square": 25}]


def test_a_line_that_a_kill_has_torn_is_made_again(path):
    one, other = cells(1, 2)
    append_result(path, one, {"square": 1})
    whole = path.read_bytes()
    append_result(path, other, {"square": 4})
    both = path.read_bytes()
    for end in range(len(whole), len(both)):
        path.write_bytes(both[:end])
        assert list(read_results(path)) == [one.key]
        append_result(path, other, {"square": 4})
        assert path.read_bytes() == both


@pytest.mark.parametrize("line", ["nonsense", '{"key": 3}', "[]", '{"key": "a", "result": 3}'])
def test_a_damaged_line_is_named(path, line):
    append_result(path, cells(1)[0], {})
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=r"results\.jsonl, line 2 is damaged"):
        read_results(path)


def slowly(number):
    """For other processes: takes as long as another needs to ask for the same."""
    Path(f"made-{number}-{os.getpid()}").touch()
    time.sleep(0.5)
    return {"square": number**2}


@pytest.mark.slow
def test_two_studies_in_one_folder_make_everything_once(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with ThreadPoolExecutor(2) as both:
        found = list(both.map(lambda _: results_of(cells(2, 3), slowly, path), range(2)))
    assert found == [[{"square": 4}, {"square": 9}]] * 2
    assert len(read_results(path)) == len(path.read_text().splitlines()) == 2
    assert len(list(path.parent.glob("made-*"))) == 2
    assert not list(path.parent.glob("results.jsonl.*[0-9a-f].lock"))


def test_a_worn_line_is_named(tmp_path, monkeypatch):
    config = OmegaConf.create({"outputs": str(tmp_path), "workers": 1, "reuse": False})
    both = cells(1, 2)
    append_result(tmp_path / "results.jsonl", both[0], {"square": 1})
    append_result(tmp_path / "results.jsonl", both[1], {"root": 4})
    assert study_results("x", config, both[:1], square, lambda result: result["square"]) == [1]
    with pytest.raises(ValueError, match=r"results\.jsonl, line 2 holds no result of this study \('square'\)"):
        study_results("x", config, both, square, lambda result: result["square"])
