"""The references that the benchmarks compare with measure the same."""

import pytest

from benchmarks.reference import Careful, Straightforward
from benchmarks.timing import Comparison, compare
from shrinkml_env import Evaluator, Utterance
from tests.asr.test_las import MODEL
from tests.models import tones

TEXTS = ["set an alarm", "call martin", "play the fox", "jazz vow", "seven thirty"]
UTTERANCES = [Utterance(str(i), "s", wave, text) for i, (wave, text) in enumerate(zip(tones(5), TEXTS, strict=True))]


@pytest.mark.parametrize("ranks", [{}, {"encoder.0": 5, "encoder.1": 3}, {"decoder.lstm": 4, "decoder.output": 2}])
def test_all_ways_make_the_same_errors(ranks):
    evaluator = Evaluator(MODEL, UTTERANCES)
    expected = evaluator.evaluate(ranks).wer
    assert Careful(MODEL, UTTERANCES, evaluator.factorisation).wer(ranks) == pytest.approx(expected)
    assert Straightforward(MODEL, UTTERANCES).wer(ranks) == pytest.approx(expected)


def test_contenders_take_turns():
    order = []
    contenders = {name: lambda number, name=name: order.append((number, name)) for name in "abc"}
    comparison = compare(contenders, 2, "test")
    assert order == [(0, "a"), (0, "b"), (0, "c"), (1, "b"), (1, "c"), (1, "a"), (2, "c"), (2, "a"), (2, "b")]
    assert {len(seconds) for seconds in comparison.seconds.values()} == {2}


def test_ratios_are_paired():
    comparison = Comparison({"fast": [1.0, 2.0, 1.0], "slow": [3.0, 4.0, 5.0]})
    assert comparison.median("slow") == 4.0
    assert comparison.times_faster("fast", than="slow") == (3.0, 2.0, 5.0)
    assert comparison.per({"fast": 1, "slow": 2}).times_faster("fast", than="slow") == (1.5, 1.0, 2.5)
