# ruff: noqa: RUF001 - look-alike letters are what is tested.
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env.asr.huggingface import HuggingFaceWhisper
from shrinkml_env.asr.text import characters, compose, words
from shrinkml_env.asr.tokenizer import normalise
from shrinkml_env.evaluation.wer import word_edits

# Letters of several scripts with their marks, invisible characters, apostrophes, and anything at all.
TEXTS = st.text(
    st.one_of(st.sampled_from("aIiſΣσéÉ'’ʼİı\u0301\u0307\u0323\u200d\u00ad कखि्ीै ที่กำ أَب 가각"), st.characters())
)


def whisper(text):
    """Normalise as a Whisper that hears another language than English."""
    model = HuggingFaceWhisper.__new__(HuggingFaceWhisper)
    model.__dict__["is_english"] = False
    return model.normalise(text)


NORMALISERS = pytest.mark.parametrize("normaliser", [words, normalise, whisper])


@NORMALISERS
@given(text=TEXTS)
def test_normalising_twice_changes_nothing(normaliser, text):
    assert normaliser(normaliser(text)) == normaliser(text)


@NORMALISERS
@given(text=TEXTS)
def test_composed_and_decomposed_spellings_agree(normaliser, text):
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert normaliser(composed) == normaliser(decomposed) == normaliser(text)


@given(TEXTS)
def test_marks_stay_where_they_are(text):
    for word in words(text).split():
        assert not unicodedata.category(word[0]).startswith("M")
        assert all(part.isalnum() or part == "'" or unicodedata.category(part).startswith("M") for part in word)
    assert "".join(characters(text)) == text


@NORMALISERS
@pytest.mark.parametrize("apostrophe", "’ʼ＇")
def test_typographic_apostrophes_are_apostrophes(normaliser, apostrophe):
    text = f"IT{apostrophe}S NINE O{apostrophe}CLOCK"
    assert normaliser(text) == normaliser(text.replace(apostrophe, "'"))


@pytest.mark.parametrize("normaliser", [words, normalise])
def test_an_apostrophe_is_inside_its_word(normaliser):
    assert normaliser("O’CLOCK, don’t") == "o'clock don't"


@pytest.mark.parametrize("normaliser", [words, whisper])
def test_words_of_other_scripts_are_whole(normaliser):
    assert normaliser("हिन्दी की किताब।") == "हिन्दी की किताब"
    assert normaliser("ที่นี่") == "ที่นี่"
    assert normaliser("مُحَمَّد") == "مُحَمَّد"
    assert normaliser("Cafe\u0301, ÇA") == "café ça"
    assert normaliser("İSTANBUL") == normaliser("I\u0307STANBUL") == normaliser("istanbul") == "istanbul"
    assert normaliser("می\u200cخواهم") == "میخواهم"
    assert normaliser("ΟΔΟΣ") == normaliser("οδος") == "οδος"


@pytest.mark.parametrize("normaliser", [words, whisper])
def test_wrong_vowel_signs_are_errors(normaliser):
    # कि किताब की against ku kutab ku: each of the three words has a vowel sign that differs.
    assert word_edits(normaliser("कि किताब की"), normaliser("कु कुताब कु")) == (3, 3)


def test_a_mark_on_nothing_is_no_word():
    assert words("\u0301 ! \u2764\ufe0f a") == "a"


def test_letters_with_marks_are_other_letters_than_a_to_z():
    assert normalise("CAFÉS") == normalise("CAFE\u0301S") == "caf s"
    assert normalise("q\u0301a") == "a"  # Has no composed form.
    assert normalise("İs co\u00adoperate") == "is cooperate"


def test_whisper_drops_remarks_and_apostrophes_outside_english():
    assert whisper("[Musik] L’AMOUR (lacht) Ⅳ <|de|> ﬁn") == "l amour iv fin"


def test_characters():
    assert characters(compose("e\u0301\u0323 कि'")) == ["\u1eb9\u0301", " ", "कि", "'"]
