"""Definitions and synonyms of nouns from the files of WordNet 3.1."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sense:
    """One meaning of a noun: the words that have it, its definition without examples, and the words for the next wider
    and narrower meanings."""

    lemmas: tuple[str, ...]
    definition: str
    relatives: tuple[str, ...]


class WordNet:
    """Meanings of nouns.

    The files are described in WordNet's manual pages wndb(5) and wninput(5): a line of `index.noun` ends in the byte
    offsets of the meanings in `data.noun`, the most frequent first.
    """

    def __init__(self, folder: Path):
        self._data = (folder / "dict" / "data.noun").read_bytes()
        self._offsets: dict[str, list[int]] = {}
        for line in (folder / "dict" / "index.noun").read_text().splitlines():
            if not line.startswith(" "):
                fields = line.split()
                self._offsets[fields[0]] = [int(offset) for offset in fields[-int(fields[2]) :]]

    def _line(self, offset: int) -> tuple[list[str], int, str]:
        """Fields of a meaning, how many words it has, and its gloss."""
        fields, gloss = self._data[offset : self._data.index(b"\n", offset)].decode().split(" | ", 1)
        parts = fields.split()
        return parts, int(parts[3], 16), gloss

    def _lemmas(self, offset: int) -> tuple[str, ...]:
        parts, count, _ = self._line(offset)
        return tuple(parts[4 + 2 * i].replace("_", " ") for i in range(count))

    def senses(self, name: str) -> list[Sense]:
        """The meanings of a name, none if it is not there."""
        found = []
        for offset in self._offsets.get(name.lower().replace(" ", "_"), []):
            parts, count, gloss = self._line(offset)
            pointers = parts[5 + 2 * count :]
            near = [int(pointers[i + 1]) for i in range(0, len(pointers), 4) if pointers[i][0] in "@~"]
            relatives = tuple(lemma for other in near for lemma in self._lemmas(other))
            found.append(Sense(self._lemmas(offset), re.split(r';\s*"', gloss)[0].strip(), relatives))
        return found
