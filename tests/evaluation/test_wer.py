import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env import load_model
from shrinkml_env.compression import Hypothesis
from shrinkml_env.evaluation import Counts, count_errors, word_edits

WORDS = st.lists(st.sampled_from(["set", "an", "alarm", "alarms", "a"]), max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "edits"),
    [
        ("set an alarm", "set an alarm", 0),
        ("set an alarm", "set the alarm", 1),  # substitution
        ("set an alarm", "set alarm", 1),  # deletion
        ("set an alarm", "set an an alarm", 1),  # insertion
        ("set an alarm", "", 3),
        ("call", "call the call centre now please", 5),  # more edits than words
    ],
)
def test_edits_worked_out_by_hand(reference, hypothesis, edits):
    assert word_edits(reference, hypothesis) == (edits, len(reference.split()))


def test_a_reference_without_words():
    assert word_edits("", "two words") == (2, 0)


@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=6))
def test_the_sum_is_jiwers_corpus_wer(pairs):
    counts = [word_edits(*pair) for pair in pairs]
    ours = sum(edits for edits, _ in counts) / sum(words for _, words in counts)
    references, hypotheses = map(list, zip(*pairs, strict=True))
    assert ours == pytest.approx(jiwer.wer(references, hypotheses))


def test_the_errors_of_a_set_are_counted_after_normalisation():
    references = ["set an alarm", "call the centre"]
    transcripts = [Hypothesis("Set an alarm!"), Hypothesis("Call a CENTRE, now", capped=True)]
    counts = count_errors(load_model("las_small"), references, transcripts)
    assert counts == Counts(edits=(0, 2), words=(3, 3), capped=1)
    assert counts.wer == 2 / 6


def test_the_wer_is_the_corpuss_and_may_exceed_1():
    assert Counts(edits=(1, 0), words=(2, 8), capped=0).wer == 0.1  # the utterances' mean would be 0.25
    assert Counts(edits=(5,), words=(1,), capped=0).wer == 5.0
