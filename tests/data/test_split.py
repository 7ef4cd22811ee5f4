from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env.data.split import SHARES, split, spread

SPEAKERS = st.lists(st.sampled_from("abcdefgh"), min_size=3, max_size=60)


@given(SPEAKERS, st.integers(0, 3))
def test_every_utterance_is_in_one_part(speakers, seed):
    parts = split(speakers, seed)
    assert list(parts) == ["proxy", "dev", "test"]
    assert sorted(index for indices in parts.values() for index in indices) == list(range(len(speakers)))
    assert all(indices == sorted(indices) and indices for indices in parts.values())
    voices = [{speakers[index] for index in indices} for indices in parts.values()]
    if len(set(speakers)) >= 3:
        assert sum(map(len, voices)) == len(set(speakers))
    assert parts == split(speakers, seed)


def test_the_shares_are_kept_as_far_as_whole_speakers_allow():
    speakers = [name for name in "abcdefghij" for _ in range(10)]
    assert {part: len(indices) for part, indices in split(speakers).items()} == {"proxy": 30, "dev": 20, "test": 50}
    assert split(speakers, 1) != split(speakers, 0)


def test_few_speakers():
    parts = split("aaaaabbbbbbb")
    assert parts == {"proxy": [0, 1, 2], "dev": [3, 4], "test": [5, 6, 7, 8, 9, 10, 11]}
    assert {part: len(indices) for part, indices in split("a" * 20).items()} == {"proxy": 6, "dev": 4, "test": 10}
    # One utterance cannot be cut in two parts.
    assert all(split("aaaab").values())
    with pytest.raises(ValueError, match="2 utterances cannot be split in 3 parts"):
        split("ab")
    assert sum(SHARES.values()) == pytest.approx(1)


@given(SPEAKERS, st.integers(1, 70))
def test_spread_takes_equally_from_all(speakers, limit):
    indices = [index for index in range(len(speakers)) if index % 3]
    taken = spread(indices, speakers, limit)
    assert len(taken) == min(limit, len(indices))
    assert taken == sorted(set(taken) & set(indices))
    have, drawn = Counter(speakers[i] for i in indices), Counter(speakers[i] for i in taken)
    # Nobody is passed over while another has two more.
    most = max(drawn.values())
    assert all(drawn[name] >= min(most - 1, have[name]) for name in have)


def test_spread_is_random_within_a_speaker():
    assert spread(range(100), "a" * 100, 10, seed=0) != spread(range(100), "a" * 100, 10, seed=1)
    assert spread(range(100), "a" * 100, 10) != list(range(10))
