"""Long runs take no more memory than short ones; ``python -m tests.reliability.memory`` looks at longer ones."""

import itertools

import pytest

from tests.reliability.memory import episodes, evaluations, growth

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("make", "before", "count", "limit"),
    # Each of the 16,384 configurations of the table is remembered once it was asked for: 2 kB an episode at first.
    [(evaluations, 50, 150, 5e6), (episodes, 500, 4000, 13e6)],
    ids=["evaluations", "episodes"],
)
def test_nothing_is_kept(make, before, count, limit):
    assert growth(make, before, count) < limit


def leak(_):
    kept = []
    for number in itertools.count():
        kept.append(bytes([number % 256]) * 100_000)
        yield


def test_what_is_kept_is_noticed():
    assert growth(leak, 10, 100) > 8e6
