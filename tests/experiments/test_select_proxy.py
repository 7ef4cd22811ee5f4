from itertools import islice

import numpy as np
import pytest
from tqdm import tqdm

from experiments.select_proxy import ModelGroup, broad, fidelity, near, take
from shrinkml_env.space.formation import Explicit, Full
from tests.helpers.fake_evaluator import LAYERS

SPACE = Full(4)(LAYERS)
BAR = tqdm(disable=True)


def compressed(ranks):
    return sum(rank != layer.max_rank for rank, layer in zip(ranks.values(), SPACE.layers, strict=True))


def test_a_walk_stays_near_and_changes_one_layer_at_a_time():
    walk = list(islice(near(SPACE, np.random.default_rng(0), lambda ranks: compressed(ranks) <= 2), 60))
    original = {layer.name: layer.max_rank for layer in SPACE.layers}
    for before, after in zip([original, *walk], walk, strict=False):
        assert sum(before[name] != after[name] for name in before) == 1
        assert compressed(after) <= 2


def test_small_spaces_end_with_an_error():
    tiny = Explicit({"output": [3, 5]})(LAYERS)
    with pytest.raises(ValueError, match="no more than 3 configurations"):
        take(broad(tiny, np.random.default_rng(0)), 4, set(), BAR)
    assert len(take(broad(tiny, np.random.default_rng(0)), 3, set(), BAR)) == 3
    with pytest.raises(ValueError, match=r"no other configuration .* loses at most 5 points"):
        next(near(tiny, np.random.default_rng(0), lambda ranks: False))


@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")
def test_fidelity_by_hand(monkeypatch):
    monkeypatch.setattr("experiments.select_proxy.RESAMPLES", 50)  # Of the intervals, which do not matter here.
    words = np.array([10, 10, 20])
    edits = np.array([[0, 1, 9], [1, 1, 5], [3, 4, 0]])
    # On the first two utterances the WERs are 0.05, 0.1 and 0.35: ranked as dev ranks them, each 0.05 below.
    measured = ModelGroup(edits, np.array([0.1, 0.15, 0.4]))
    found = fidelity(words, measured, [[0, 1]], block=1, seed=0)
    assert found.kendall[0] == pytest.approx(1)
    assert found.spearman[0] == pytest.approx(1)
    assert found.error[0] == pytest.approx(0.05)
    # On the last the ranking is the other way round.
    assert fidelity(words, measured, [[2]], block=1, seed=0).kendall[0] == pytest.approx(-1)


@pytest.mark.slow
def test_blocks_of_neighbours_widen_the_interval(monkeypatch):
    """Ten models that are all alike count as one."""
    monkeypatch.setattr("experiments.select_proxy.RESAMPLES", 200)
    rng = np.random.default_rng(0)
    dev = np.repeat(rng.uniform(0.0, 0.5, 10), 10)
    noise = np.repeat(rng.normal(0, 0.1, 10), 10)
    edits = np.rint(1000 * (dev + noise)).astype(int)[:, None]
    alone, together = (
        fidelity(np.array([1000]), ModelGroup(edits, dev), [[0]], block, seed=0).error for block in (1, 10)
    )
    assert alone[0] == together[0]
    assert together[2] - together[1] > 1.5 * (alone[2] - alone[1])
