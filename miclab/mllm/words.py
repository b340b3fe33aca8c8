"""Invented names: two syllables at random. Only the context says what they stand for.

Some happen to be words (`bone`, `judo`, `tuna`), and some of those are words for a concept of the shipped data. They
are not left out: that would change what a seed draws, and with it the tasks whose figures are recorded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

WordPart = Literal["training", "held-out"]
"""Invented words that models may be trained on, or those that none may."""
CONSONANTS = "bdfgjklmnprstvwxyz"
VOWELS = "aeiou"
SYLLABLES = tuple(consonant + vowel for consonant in CONSONANTS for vowel in VOWELS)
HELD_OUT_SHARE = 5
"""One word in so many is held out."""


def is_held_out(word: str) -> bool:
    """Whether a word is kept from training: a rule that depends on the word alone."""
    return hashlib.sha256(word.encode()).digest()[0] % HELD_OUT_SHARE == 0


def invented_words(part: WordPart, generator: torch.Generator) -> Iterator[str]:
    """Two-syllable words of a part, drawn without end."""
    import torch

    while True:
        first, second = torch.randint(len(SYLLABLES), (2,), generator=generator).tolist()
        word = SYLLABLES[first] + SYLLABLES[second]
        if is_held_out(word) == (part == "held-out"):
            yield word


def distinct_words(count: int, part: WordPart, generator: torch.Generator) -> list[str]:
    """Words no two of which begin with the same syllable, so that they differ in the first token."""
    found: list[str] = []
    for word in invented_words(part, generator):
        if all(word[:2] != other[:2] for other in found):
            found.append(word)
        if len(found) == count:
            break
    return found
