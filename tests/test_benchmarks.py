"""The references that the benchmarks compare with measure the same."""

import jiwer
import numpy as np
import pytest

from benchmarks.overhead import TIMED, microseconds_a_step
from benchmarks.reference import Careful, Straightforward, spell
from benchmarks.timing import Comparison, compare
from shrinkml_env import Evaluator, Utterance, compress, load_model, load_utterances
from tests.helpers.las import MODEL
from tests.helpers.models import tones
from tests.helpers.near_ties import margin, units_of

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


@pytest.fixture(scope="module")
def dev():
    return load_utterances("dev")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_the_embedded_models_transcripts_are_those_of_the_straightforward_way(dev, seed):
    """In batches of any size and order, unit by unit; only a near tie may fall the other way."""
    model = load_model("las_small")
    utterances = dev[seed::46]
    generator = np.random.default_rng(seed)
    # Half of the layers dense, so that most models are neither broken nor untouched.
    ranks = {
        layer.name: int(generator.integers(layer.break_even // 4, layer.break_even + 1))
        for layer in model.layers
        if generator.random() < 0.5
    }
    expected = units_of_each(Straightforward(model, utterances).compressed(ranks), utterances)
    compressed = compress(model, ranks)
    order = generator.permutation(len(utterances)).tolist()
    near_ties = set()
    for size in (1, 3, len(order)):
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            found = units_of(compressed, [utterances[index].waveform for index in batch])
            for index, units in zip(batch, found, strict=True):
                if units != expected[index]:
                    near_ties.add(index)
                    assert margin(compressed, utterances[index].waveform, units, expected[index]) <= 1e-4
    evaluation = Evaluator(model, utterances).evaluate(ranks)
    for index, (utterance, units) in enumerate(zip(utterances, expected, strict=True)):
        counted = jiwer.process_words(model.normalise(utterance.text), model.normalise(model.tokenizer.decode(units)))
        edits = counted.substitutions + counted.insertions + counted.deletions
        assert evaluation.edits[index] == edits or index in near_ties


def units_of_each(model, utterances):
    return [spell(model, [utterance.waveform])[0] for utterance in utterances]


@pytest.mark.parametrize("action", TIMED)
def test_steps_can_be_timed(action):
    assert 0 < microseconds_a_step(action, steps=3) < 1e6
