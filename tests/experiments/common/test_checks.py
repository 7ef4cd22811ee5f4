import pytest
from omegaconf import OmegaConf

from experiments.common.checks import require_choice, require_shares, require_whole

CONFIG = OmegaConf.create({"one": 1, "zero": 0, "half": 0.5, "two": 2, "yes": True, "word": "abc", "sizes": [0.5, 1]})


def test_what_is_right_passes():
    require_whole(CONFIG, "one", "two")
    require_whole(CONFIG, "zero", least=0)
    require_shares(CONFIG, "one", "half", "sizes")
    require_choice(CONFIG, "word", ["abc", "def"])


@pytest.mark.parametrize("option", ["zero", "half", "yes", "word"])
def test_numbers_are_whole(option):
    with pytest.raises(ValueError, match=f"{option} must be a whole number of at least 1, got"):
        require_whole(CONFIG, "one", option)


@pytest.mark.parametrize("value", [0, 1.5, True, "half", None, [], [0.5, 2], ["a"]])
def test_shares_lie_between_0_and_1(value):
    with pytest.raises(ValueError, match=r"x must be .* above 0 and at most 1, got"):
        require_shares(OmegaConf.create({"x": value}), "x")


def test_choices_are_listed():
    with pytest.raises(ValueError, match="word must be one of show, prune, got 'abc'"):
        require_choice(CONFIG, "word", ["show", "prune"])
