import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkml_env import Utterance, compress
from shrinkml_env.compression import PredictiveModel
from shrinkml_env.evaluation import EvaluationCache, Evaluator, mean_divergence
from shrinkml_env.evaluation.divergence import DivergenceMeasurer
from tests.helpers.las import make_model
from tests.helpers.models import TinyCTC, tones

MODEL = make_model()
UTTERANCES = [Utterance(str(number), "s", waveform, "call me") for number, waveform in enumerate(tones(5))]
EVALUATOR = Evaluator(MODEL, UTTERANCES, divergence=True)
RANKS = {layer.name: max(1, layer.break_even // 2) for layer in MODEL.layers}


def distributions(*rows):
    return torch.tensor(rows).log()


def test_by_hand():
    original = [distributions([0.5, 0.5], [0.25, 0.75]), distributions([0.1, 0.9])]
    compressed = [distributions([0.25, 0.75], [0.25, 0.75]), distributions([0.2, 0.8])]
    first = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    third = 0.1 * math.log(0.5) + 0.9 * math.log(0.9 / 0.8)
    assert mean_divergence(original, compressed) == pytest.approx((first + third) / 3)


logits = st.lists(st.floats(-20, 20), min_size=4, max_size=4)


@given(st.lists(st.tuples(logits, logits), min_size=1, max_size=5))
def test_never_negative_and_nothing_for_equals(pairs):
    one, other = (torch.tensor(rows).log_softmax(1) for rows in zip(*pairs, strict=True))
    assert mean_divergence([one], [other]) >= 0
    assert mean_divergence([one], [one]) == 0


def test_the_original_diverges_from_nothing():
    assert EVALUATOR.baseline.divergence == 0
    assert EVALUATOR.evaluate({layer.name: layer.max_rank for layer in MODEL.layers}).divergence == 0
    assert Evaluator(MODEL, UTTERANCES).baseline.divergence is None


def test_as_the_training_pass_says_utterance_by_utterance():
    """Told what the original writes; computed without batches, and from the definition."""
    smaller, total, units = compress(MODEL, RANKS, EVALUATOR.factorisation), 0.0, 0
    for utterance in UTTERANCES:
        written = MODEL.tokenizer.encode(MODEL.transcribe([utterance.waveform])[0])
        previous = torch.tensor([[MODEL.tokenizer.eos, *written]])
        features, lengths = MODEL.features([utterance.waveform])
        with torch.inference_mode():
            p, q = (model(features, lengths, previous)[0][0].double().softmax(1) for model in (MODEL, smaller))
        total += float((p * (p / q).log()).sum())
        units += len(written) + 1
    assert EVALUATOR.evaluate(RANKS).divergence == pytest.approx(total / units, rel=1e-3)
    assert total > 0


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    st.fixed_dictionaries({}, optional={layer.name: st.integers(1, layer.max_rank) for layer in MODEL.layers}),
    st.sampled_from([0, 20_000]),
)
def test_changes_no_word_and_sharing_does_not_change_it(ranks, memory):
    expected = EVALUATOR.evaluate(ranks)
    assert Evaluator(MODEL, UTTERANCES, memory=memory, divergence=True).evaluate(ranks) == expected
    assert Evaluator(MODEL, UTTERANCES).evaluate(ranks).edits == expected.edits


def test_kept_apart_in_caches_and_ledgers(tmp_path):
    cache = EvaluationCache(tmp_path / "cache.sqlite")
    words, both = (Evaluator(MODEL, UTTERANCES, cache=cache, divergence=flag) for flag in (False, True))
    assert words.key != both.key
    assert words.evaluate(RANKS).divergence is None
    expected = EVALUATOR.evaluate(RANKS)
    for _ in range(2):  # measured, then remembered
        assert Evaluator(MODEL, UTTERANCES, cache=cache, divergence=True).evaluate(RANKS) == expected


def test_on_other_utterances():
    other = EVALUATOR.on(UTTERANCES[:2])
    assert len(other.utterances) == 2
    assert 0 < other.evaluate(RANKS).divergence != EVALUATOR.evaluate(RANKS).divergence
    assert (other.layers, other.factorisation, other.divergence) == (EVALUATOR.layers, EVALUATOR.factorisation, True)


def test_which_models_can():
    assert isinstance(MODEL, PredictiveModel)
    texts = [Utterance("0", "s", tones(1)[0], "call")]
    with pytest.raises(ValueError, match=r"a TinyCTC does not predict distributions .* lacks the method `predict`"):
        Evaluator(TinyCTC(), texts, divergence=True)


def test_a_unit_that_is_never_written_adds_nothing():
    original, compressed = distributions([0.0, 0.5, 0.5]), distributions([0.0, 0.25, 0.75])
    expected = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    assert mean_divergence([original], [compressed]) == pytest.approx(expected)
    # What only the compressed model writes counts as what it takes from the others.
    assert mean_divergence([original], [distributions([0.2, 0.4, 0.4])]) == pytest.approx(math.log(0.5 / 0.4))


def test_probabilities_that_are_not_numbers_are_an_error(monkeypatch):
    """They must not count as the best divergence that there is."""
    broken = torch.full((2, 3), math.nan)
    assert math.isnan(mean_divergence([distributions([0.2, 0.4, 0.4], [0.2, 0.4, 0.4])], [broken]))
    evaluator = Evaluator(MODEL, UTTERANCES, divergence=True)
    evaluator.evaluate({})
    predict = type(MODEL).predict
    monkeypatch.setattr(type(MODEL), "predict", lambda *given: [p * math.nan for p in predict(*given)])
    with pytest.raises(ValueError, match=r"returned log-probabilities that are NaN, at the ranks \{'encoder"):
        evaluator.evaluate(RANKS)
    measurer = DivergenceMeasurer(MODEL, UTTERANCES)
    with pytest.raises(ValueError, match="log-probabilities that are NaN"):
        measurer.by_utterance({})
