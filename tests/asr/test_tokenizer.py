import json
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env.asr.tokenizer import Tokenizer, normalise

TEXTS = ["set an alarm for seven thirty", "call martin's sister", "play the quick brown fox", "jazz vow"] * 10
TOKENIZER = Tokenizer.train(TEXTS, 60)


def test_normalisation():
    assert normalise("  DON'T stop,\tMartin: 3 times! ") == "don't stop martin times"


def test_size_and_end():
    assert len(TOKENIZER) == 60
    assert TOKENIZER.eos not in TOKENIZER.encode("set an alarm")


@given(st.lists(st.sampled_from(sorted({word for text in TEXTS for word in text.split()})), max_size=12))
def test_decoding_inverts_encoding(words):
    text = " ".join(words)
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(
    words=st.lists(st.sampled_from(sorted({word for text in TEXTS for word in text.split()})), max_size=12),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_random_segmentations_spell_the_same(words, share, seed):
    text = " ".join(words)
    units = TOKENIZER.encode_at_random(text, share, torch.Generator().manual_seed(seed))
    assert TOKENIZER.decode(units) == text
    assert units == TOKENIZER.encode_at_random(text, share, torch.Generator().manual_seed(seed))
    if share == 0:
        assert units == TOKENIZER.encode(text)


def test_at_random_means_letters_at_the_end_and_every_length_on_the_way():
    text = "set an alarm for seven thirty"
    letters = TOKENIZER.encode_at_random(text, 1.0, torch.Generator().manual_seed(0))
    assert len(letters) == len(text) + 1  # each letter, and a space before each word
    lengths = [len(TOKENIZER.encode_at_random(text, 0.3, torch.Generator().manual_seed(seed))) for seed in range(100)]
    assert len(TOKENIZER.encode(text)) <= min(lengths) < max(lengths) < len(letters)


def test_survives_json_and_pickle():
    for copy in (
        Tokenizer.from_text(json.loads(json.dumps(TOKENIZER.to_text()))),
        pickle.loads(pickle.dumps(TOKENIZER)),
    ):
        assert copy.encode("call martin") == TOKENIZER.encode("call martin")


def test_rubbish_is_refused():
    with pytest.raises(ValueError, match="sentencepiece"):
        Tokenizer(b"not a model")


def test_too_few_units_for_the_letters():
    with pytest.raises(ValueError, match="no tokenizer of 10 units"):
        Tokenizer.train(TEXTS, 10)
