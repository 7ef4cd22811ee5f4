"""The sentences of the synthetic corpus."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.build.synthetic import grammar
from experiments.build.synthetic.grammar import MAX_WORDS, MIN_WORDS, PATTERNS, Pattern, sentences, vocabulary
from experiments.build.synthetic.lexicon import PHRASES, WORDS

_LARGE = 16_000


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return sentences(_LARGE, seed=0)


def _digest(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def test_there_are_many_patterns_with_names_of_their_own() -> None:
    assert len(PATTERNS) >= 100
    assert (
        len({pattern.name for pattern in PATTERNS}) == len({pattern.template for pattern in PATTERNS}) == len(PATTERNS)
    )


def test_the_vocabulary_is_large_and_really_occurs(corpus: list[str]) -> None:
    assert len({word for sentence in corpus[:2000] for word in sentence.split()}) >= 1400
    counts = Counter(word for sentence in corpus[:12_000] for word in sentence.split())
    assert len(vocabulary()) >= 1800
    assert sum(counts[word] >= 3 for word in vocabulary()) >= 0.99 * len(vocabulary())


def test_a_large_corpus_is_distinct_and_in_the_vocabulary(corpus: list[str]) -> None:
    assert len(corpus) == len(set(corpus)) == _LARGE
    assert {word for sentence in corpus for word in sentence.split()} <= vocabulary()


def test_words_per_sentence(corpus: list[str]) -> None:
    lengths = [len(sentence.split()) for sentence in corpus]
    assert min(lengths) >= MIN_WORDS
    assert max(lengths) <= MAX_WORDS
    assert 8 <= sum(lengths) / len(lengths) <= 10


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**63), count=st.integers(0, 300))
def test_form_holds_for_every_seed(seed: int, count: int) -> None:
    texts = sentences(count, seed)
    assert len(texts) == len(set(texts)) == count
    for text in texts:
        assert re.fullmatch(r"[a-z]+('[a-z]+)?( [a-z]+('[a-z]+)?)*", text)
        assert MIN_WORDS <= len(text.split()) <= MAX_WORDS
        assert vocabulary().issuperset(text.split())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 400), rest=st.integers(0, 200))
def test_excluded_sentences_are_not_drawn(seed: int, count: int, rest: int) -> None:
    held_out = sentences(count, seed)
    # The same seed would draw exactly the excluded sentences first.
    assert not set(sentences(count + rest, seed, exclude=held_out)) & set(held_out)


def test_a_shorter_list_is_the_beginning_of_a_longer_one() -> None:
    assert sentences(1000, seed=4)[:321] == sentences(321, seed=4)
    assert sentences(300, seed=4) != sentences(300, seed=5)


def test_every_prefix_is_balanced_over_the_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    generate = Pattern.generate

    def remember(pattern: Pattern, rng: Random) -> str:
        drawn.append(pattern.name)
        return generate(pattern, rng)

    monkeypatch.setattr(Pattern, "generate", remember)
    sentences(3 * len(PATTERNS), seed=9)
    # A sentence that was drawn anew names its pattern several times in a row.
    turns = [name for name, following in pairwise([*drawn, ""]) if name != following]
    for start in range(0, 3 * len(PATTERNS), len(PATTERNS)):
        assert len(set(turns[start : start + len(PATTERNS)])) >= len(PATTERNS) - 1


@pytest.mark.slow
def test_another_process_with_another_hash_seed_makes_the_same_list(corpus: list[str]) -> None:
    script = (
        "import hashlib; from experiments.build.synthetic.grammar import sentences;"
        "print(hashlib.sha256('\\n'.join(sentences(2000, 0, {'call anna', 'call paul'})).encode()).hexdigest())"
    )
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": other, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == _digest(sentences(2000, 0, ("call anna", "call paul")))


@pytest.mark.parametrize(
    ("template", "allowed"),
    [
        ("play (rock|pop)", {"play rock", "play pop"}),
        ("play [some|loud] rock", {"play rock", "play some rock", "play loud rock"}),
        ("[set (one|two)] now", {"now", "set one now", "set two now"}),
        (
            "@ (orange|hour|useful cat|one) and @ dog",
            {f"{x} and a dog" for x in ("an orange", "an hour", "a useful cat", "a one")},
        ),
    ],
)
def test_template_constructs(template: str, allowed: set[str]) -> None:
    rng = Random(0)
    assert {Pattern("test", template).generate(rng) for _ in range(200)} == allowed


def test_slots_stand_for_terms_plurals_and_possessives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORDS, "test_kind", "ice_cream fox puppy monkey wolf")
    rng = Random(0)

    def all_of(template: str) -> set[str]:
        return {Pattern("test", template).generate(rng) for _ in range(200)}

    assert all_of("{test_kind}") == {"ice cream", "fox", "puppy", "monkey", "wolf"}
    assert all_of("{test_kind+s}") == {"ice creams", "foxes", "puppies", "monkeys", "wolves"}
    assert all_of("{test_kind's}") == {"ice cream's", "fox's", "puppy's", "monkey's", "wolf's"}


@pytest.mark.parametrize(
    "template", ["call (anna", "call anna)", "call [anna", "call {first_name", "call }anna", "(a]"]
)
def test_unbalanced_brackets_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match="unbalanced brackets"):
        Pattern("test", template).generate(Random(0))


@pytest.mark.parametrize("slot", ["nobody", "nobody+s", "nobody's", "time+s"])
def test_unknown_slots_are_refused(slot: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{{{slot}}}")):
        Pattern("test", f"call {{{slot}}}").generate(Random(0))


def test_an_exhausted_pattern_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "PATTERNS", (Pattern("narrow", "play some (rock|pop)"),))
    assert sorted(sentences(2, seed=0)) == ["play some pop", "play some rock"]
    with pytest.raises(ValueError, match="'narrow'"):
        sentences(3, seed=0)


def test_the_lexicon_is_used_and_unambiguous() -> None:
    templates = " ".join((*PHRASES.values(), *(pattern.template for pattern in PATTERNS)))
    used = {re.sub(r"\+s$|'s$", "", slot) for slot in re.findall(r"{([^}]*)}", templates)}
    assert used == {*WORDS, *PHRASES}
    assert not set(WORDS) & set(PHRASES)
    for kind, words in WORDS.items():
        assert len(words.split()) == len(set(words.split())), f"{kind} lists a word twice"


def test_no_word_has_two_pronunciations_or_a_rival_in_spelling() -> None:
    heteronyms = (
        "read lead live close tear wind wound bow bass row use record present object desert polish minute dove sow"
    )
    assert not vocabulary() & set(heteronyms.split())
    rivals = """their/there weather/whether no/know new/knew right/write hour/our son/sun aunt/ant meat/meet week/weak
        plane/plain sea/see flower/flour dessert/desert pair/pear tail/tale sail/sale mail/male night/knight ring/wring
        brake/break steal/steel role/roll sum/some wood/would wear/where witch/which hear/here its/it's whose/who's
        medal/metal rider/writer tailor/taylor hire/higher piece/peace passed/past threw/through beet/beat won/one
        ate/eight too/two bye/by red/read blew/blue caught/court chilly/chili colour/color grey/gray metre/meter"""
    for pair in rivals.split():
        assert len(vocabulary() & set(pair.split("/"))) <= 1, pair
