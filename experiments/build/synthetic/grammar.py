"""Sentences of the synthetic corpus: voice-assistant commands and short dictation.

A template is text with these constructs: `{slot}` stands for one alternative of this entry of the lexicon, `(a|b)` for
one of the alternatives, `[a|b]` for one of them or nothing. Alternatives are equally likely and can be nested.
`{slot+s}` and `{slot's}` are the plural and the possessive of a word list's entry, and `@` is the indefinite article,
"a" or "an" depending on the next word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Final

from experiments.build.synthetic.lexicon import IRREGULAR_PLURALS, PHRASES, WORDS
from experiments.build.synthetic.patterns import TEMPLATES

__all__ = ["MAX_WORDS", "MIN_WORDS", "PATTERNS", "Pattern", "sentences", "vocabulary"]

MIN_WORDS: Final = 3
MAX_WORDS: Final = 16
_ATTEMPTS: Final = 2000  # draws before a pattern counts as exhausted

_TOKEN = re.compile(r"[{}()\[\]|]|[^{}()\[\]|\s]+")
_VOWEL_SOUND = re.compile(r"(?!one|once|useful|university)([aeiou]|hour|honest)")
_ARTICLE: Final = "@"


@dataclass(frozen=True, slots=True)
class _Slot:
    """A reference to an entry of the lexicon, with the suffix `+s` or `'s` for plural or possessive."""

    name: str


@dataclass(frozen=True, slots=True)
class _Choice:
    """Equally likely alternatives, each a sequence of words, slots and further choices."""

    options: tuple[tuple[str | _Slot | _Choice, ...], ...]


@cache
def _compiled(template: str) -> _Choice:
    """Parse a template into the tree of its alternatives.

    Raises:
        ValueError: Brackets are unbalanced, or the lexicon lacks a slot.
    """
    tokens = _TOKEN.findall(template)
    tokens.reverse()

    def alternatives(closing: str) -> _Choice:
        options: list[tuple[str | _Slot | _Choice, ...]] = []
        items: list[str | _Slot | _Choice] = []
        while tokens:
            token = tokens.pop()
            if token == "|" or token == closing:
                options.append(tuple(items))
                items = []
                if token == closing:
                    return _Choice((*options, ()) if closing == "]" else tuple(options))
            elif token in ("(", "["):
                items.append(alternatives({"(": ")", "[": "]"}[token]))
            elif token == "{" and len(tokens) > 1 and tokens[-2] == "}":
                items.append(_Slot(tokens.pop()))
                tokens.pop()
            elif token in "{})]":
                break
            else:
                items.append(token)
        raise ValueError(f"template {template!r}: unbalanced brackets; close every (, [ and {{")

    tokens.insert(0, ")")
    tree = alternatives(")")
    if tokens:
        raise ValueError(f"template {template!r}: unbalanced brackets; open every ), ] and }}")
    for slot in _slots(tree):
        if slot not in PHRASES and _inflection(slot)[0] not in WORDS:
            raise ValueError(f"template {template!r}: the lexicon has no {{{slot}}}; add it to WORDS or PHRASES")
    return tree


def _slots(tree: _Choice) -> Iterator[str]:
    """Yield the names of all slots in a tree."""
    for option in tree.options:
        for item in option:
            if isinstance(item, _Slot):
                yield item.name
            elif isinstance(item, _Choice):
                yield from _slots(item)


def _plural(word: str) -> str:
    """Return the plural of a noun."""
    if word in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[word]
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def _possessive(word: str) -> str:
    """Return the possessive of a singular noun."""
    return word + "'s"


def _inflection(slot: str) -> tuple[str, Callable[[str], str]]:
    """Return the name of a slot's word list, and the function that inflects a word as its suffix says."""
    for suffix, inflect in (("+s", _plural), ("'s", _possessive)):
        if slot.endswith(suffix):
            return slot.removesuffix(suffix), inflect
    return slot, str


@cache
def _entry(slot: str) -> _Choice:
    """Return the alternatives of one slot."""
    if slot in PHRASES:
        return _compiled(PHRASES[slot])
    name, inflect = _inflection(slot)
    terms = (term.split("_") for term in WORDS[name].split())
    return _Choice(tuple((*term[:-1], inflect(term[-1])) for term in terms))


def _expand(tree: _Choice, rng: Random) -> Iterator[str]:
    """Draw a sentence from a tree and yield its words."""
    # Only `random()` is documented to return the same numbers in every Python version.
    for item in tree.options[int(rng.random() * len(tree.options))]:
        if isinstance(item, str):
            yield item
        else:
            yield from _expand(_entry(item.name) if isinstance(item, _Slot) else item, rng)


def _with_articles(words: list[str]) -> Iterator[str]:
    """Yield the words with every article mark replaced by "a" or "an"."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word != _ARTICLE:
            yield word
        elif _VOWEL_SOUND.match(following):
            yield "an"
        else:
            yield "a"


@dataclass(frozen=True, slots=True)
class Pattern:
    """One sentence pattern.

    Attributes:
        name: Unique name.
        template: Template of the sentences, in the template language of this module.
    """

    name: str
    template: str

    def generate(self, rng: Random) -> str:
        """Draw one sentence, of any number of words."""
        return " ".join(_with_articles(list(_expand(_compiled(self.template), rng))))


PATTERNS: Final = tuple(Pattern(name, template) for name, template in TEMPLATES.items())


def sentences(count: int, seed: int, exclude: Collection[str] = ()) -> list[str]:
    """Draw distinct sentences from all patterns in turn, so that every prefix of the list is balanced over them.

    Args:
        count: Number of sentences, >= 0.
        seed: Seed; equal arguments give equal lists on any machine.
        exclude: Sentences that must not be drawn, for instance those of another set.

    Returns:
        `count` sentences of `MIN_WORDS` to `MAX_WORDS` words each.

    Raises:
        ValueError: A pattern has no new sentences left.
    """
    rng = Random(seed)
    taken = set(exclude)
    drawn: list[str] = []
    while len(drawn) < count:
        turn = sorted(PATTERNS, key=lambda _: rng.random())
        for pattern in turn[: count - len(drawn)]:
            sentence = _new_sentence(pattern, rng, taken)
            taken.add(sentence)
            drawn.append(sentence)
    return drawn


def _new_sentence(pattern: Pattern, rng: Random, taken: Collection[str]) -> str:
    """Draw a sentence of an allowed length that is not in `taken`."""
    for _ in range(_ATTEMPTS):
        sentence = pattern.generate(rng)
        if MIN_WORDS <= len(sentence.split()) <= MAX_WORDS and sentence not in taken:
            return sentence
    raise ValueError(f"pattern {pattern.name!r} has no new sentences left; ask for fewer, or widen it in patterns.py")


@cache
def vocabulary() -> frozenset[str]:
    """Return all words that can occur in sentences."""
    words: set[str] = set()
    seen: set[str] = set()
    trees = [_compiled(pattern.template) for pattern in PATTERNS]
    while trees:
        for item in (item for option in trees.pop().options for item in option):
            if isinstance(item, _Choice):
                trees.append(item)
            elif isinstance(item, str):
                words.update(("a", "an") if item == _ARTICLE else (item,))
            elif item.name not in seen:
                seen.add(item.name)
                trees.append(_entry(item.name))
    return frozenset(words)
