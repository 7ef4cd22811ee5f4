import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env.evaluation import word_edits

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
