"""Unicode text processing: characters of any script, and equal encodings of equal words."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["characters", "compose", "lower", "words"]

_APOSTROPHES = dict.fromkeys(map(ord, "\u2019\u02bc\uff07"), "'")

# Characters that control hyphenation, joining and direction; not the zero-width space (U+200B), which separates words.
_INVISIBLE = re.compile("[\u00ad\u061c\u200c-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")


def compose(text: str) -> str:
    """Return a text in Unicode's composed form (NFC), with ' for all apostrophes and without invisible characters."""
    # Composing comes last, since an invisible character may separate a letter from its mark.
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text).translate(_APOSTROPHES))


def lower(text: str) -> str:
    """Return a text composed and in lower case; the Turkish dotted capital I, U+0130, becomes i."""
    return unicodedata.normalize("NFC", re.sub("i\u0307+", "i", compose(text).lower()))


def characters(text: str) -> list[str]:
    """Split a text into characters, each with its combining marks; joined, they are the text.

    Combining marks are those of Unicode's category M: accents, the vowel signs of Indic scripts.
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
        text: A text in any script.
        besides: Other characters that are kept as parts of words.
    """
    kept = (part if part[0].isalnum() or part[0] in besides else " " for part in characters(lower(text)))
    return " ".join("".join(kept).split())
