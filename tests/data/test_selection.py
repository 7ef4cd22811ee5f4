import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from shrinkml_env.data.selection import SELECTIONS, Pool

RNG = np.random.default_rng(0)
MODELS, POOL = 30, 60
# Models of rising badness; only every third utterance notices.
BADNESS = np.linspace(0, 1, MODELS)
TELLING = np.arange(POOL) % 3 == 0
WORDS = RNG.integers(5, 12, POOL)
EDITS = np.where(TELLING, RNG.binomial(WORDS, BADNESS[:, None] * 0.5), RNG.binomial(WORDS, 0.25, (MODELS, POOL)))
VOICES = [f"voice{index % 4}" for index in range(POOL)]


def select(name, count, seed=0, edits=EDITS):
    return SELECTIONS[name](Pool(edits, WORDS, VOICES, BADNESS), count, seed)


@pytest.mark.parametrize("name", SELECTIONS)
@settings(deadline=None, max_examples=20)
@given(count=st.integers(1, POOL), seed=st.integers(0, 100))
def test_as_many_as_wanted_each_once_and_the_same_again(name, count, seed):
    chosen = select(name, count, seed)
    assert len(set(chosen)) == len(chosen) == count
    assert chosen == sorted(chosen)
    assert set(chosen) <= set(range(POOL))
    assert select(name, count, seed) == chosen


def fidelity(chosen):
    rates = EDITS[:, chosen].sum(1) / WORDS[chosen].sum()
    return kendalltau(rates, BADNESS).statistic


def test_ranking_finds_the_utterances_that_tell_models_apart():
    chosen = select("ranking", 12)
    assert TELLING[chosen].mean() > 0.8
    assert fidelity(chosen) > max(fidelity(select("random", 12, seed)) for seed in range(20))


def test_ranking_first_takes_the_best_single_utterance():
    (first,) = select("ranking", 1)

    def concordance(index):
        rates = EDITS[:, index] / WORDS[index]
        return sum(np.sign(rates[j] - rates[i]) for i in range(MODELS) for j in range(i + 1, MODELS))

    assert concordance(first) == max(map(concordance, range(POOL)))


def test_stratified_gives_every_voice_and_difficulty_its_share():
    edits = np.tile(np.arange(POOL) // 20, (2, 1)) * WORDS  # three thirds of equal size
    for seed in range(5):
        chosen = select("stratified", 12, seed, edits)
        assert [sum(VOICES[index] == f"voice{voice}" for index in chosen) for voice in range(4)] == [3, 3, 3, 3]
        assert all(3 <= sum(index // 20 == third for index in chosen) <= 5 for third in range(3))
    assert select("stratified", 12, 0, edits) != select("stratified", 12, 1, edits)
