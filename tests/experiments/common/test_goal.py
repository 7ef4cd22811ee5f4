"""The goal of `experiments.compress`: how it is given, and what is said of it in the end."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from experiments.common.goal import HALVINGS, goal, verdict


def asked(**options):
    return OmegaConf.create({"target_size": None, "max_wer_increase": None, "budget": 200, **options})


def found(size=0.4, value=0.0, low=0.0, high=0.0):
    return SimpleNamespace(size_ratio=size, wer_increase=SimpleNamespace(value=value, low=low, high=high))


def test_is_one_of_two():
    assert goal(asked(target_size=0.5)) == "target_size=0.5"
    assert goal(asked(max_wer_increase=1.0)) == "max_wer_increase=1"
    with pytest.raises(ValueError, match="neither is given"):
        goal(asked())
    with pytest.raises(ValueError, match=r"target_size=0\.5 and max_wer_increase=1 are given"):
        goal(asked(target_size=0.5, max_wer_increase=1.0))


def test_finding_the_size_takes_some_evaluations():
    assert goal(asked(max_wer_increase=1.0, budget=2 * HALVINGS))
    with pytest.raises(ValueError, match=f"budget must be at least {2 * HALVINGS} where the size is looked for"):
        goal(asked(max_wer_increase=1.0, budget=2 * HALVINGS - 1))
    assert goal(asked(target_size=0.5, budget=1))


@pytest.mark.parametrize(
    ("given", "result", "said"),
    [
        ({"target_size": 0.4}, found(size=0.4), "at most 0.4 of the size: reached."),
        ({"target_size": 0.4}, found(size=0.41), "at most 0.4 of the size: NOT REACHED."),
        (
            {"max_wer_increase": 1.0},
            found(value=0.005, low=-0.001, high=0.009),
            "increase of at most 1 points: reached on test,",
        ),
        ({"max_wer_increase": 1.0}, found(value=0.005, high=0.011), "reached on test, but not for certain"),
        ({"max_wer_increase": 1.0}, found(value=0.011, low=0.002, high=0.02), "NOT REACHED on test"),
    ],
)
def test_the_verdict(given, result, said):
    told = verdict(asked(**given), result)
    assert said in told
    assert ("[+0.20, +2.00]" in told) == (result.wer_increase.low == 0.002)
