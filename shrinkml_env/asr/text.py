"""Writing: what a text's characters are in any script, and how two spellings of one word meet."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["characters", "compose", "lower", "words"]

_APOSTROPHES = dict.fromkeys(map(ord, "\u2019\u02bc\uff07"), "'")

# They say how to hyphenate, join and order letters. A zero-width space (U+200B) is not among them: it separates words.
_INVISIBLE = re.compile("[\u00ad\u061c\u200c-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")


def compose(text: str) -> str:
    """Return a text in Unicode's composed form (NFC), its apostrophes typed as ', without invisible characters."""
    # Composing comes last, since a letter and its mark may stand on both sides of an invisible character.
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text).translate(_APOSTROPHES))


def lower(text: str) -> str:
    """Return a composed text in lower case, in which the Turkish capital with a dot, U+0130, is an i."""
    return unicodedata.normalize("NFC", re.sub("i\u0307+", "i", compose(text).lower()))


def characters(text: str) -> list[str]:
    """Split a text into letters with their marks and whatever else it holds; joined, they are the text.

    A combining mark (Unicode's category M: accents, the vowel signs of Indic scripts) belongs to what it stands on.
    """
    found: list[str] = []
    for character in text:
        if found and unicodedata.category(character).startswith("M"):
            found[-1] += character
        else:
            found.append(character)
    return found


def words(text: str, besides: str = "'") -> str:
    """Return the words of a text in lower case: letters and digits with their marks, separated by single spaces.

    Args:
        text: In any script.
        besides: Other characters that are parts of words.
    """
    kept = (part if part[0].isalnum() or part[0] in besides else " " for part in characters(lower(text)))
    return " ".join("".join(kept).split())
