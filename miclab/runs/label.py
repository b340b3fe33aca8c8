"""Name and tags of a run. Its owner gives them and may change them; they are no part of what is trained."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from miclab import storage
from miclab.errors import ConfigError, RunError

FILE = "label.json"
"""The label's file in the directory of a run. The manifest does not name it, so it may change while the run trains."""
LONGEST_NAME, LONGEST_TAG, MOST_TAGS = 60, 30, 12
RESERVED = "/\\@,"
"""Characters that names and tags may not have, since RUN@STEP, lists of tags and paths need them."""


@dataclass(frozen=True)
class Label:
    """What a run is called.

    Arguments:
        name: empty: that of its directory.
        tags: words by which runs are grouped.

    Raises:
        ConfigError: a name or a tag is too long, or has letters that it may not have.
    """

    name: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self):
        if self.name:
            _check("name", self.name, LONGEST_NAME)
        for tag in self.tags:
            _check("tags", tag, LONGEST_TAG)
        if len(self.tags) > MOST_TAGS:
            raise ConfigError("tags", len(self.tags), f"at most {MOST_TAGS}")
        if len(set(self.tags)) < len(self.tags):
            raise ConfigError("tags", ",".join(self.tags), "each tag once")


def _check(field: str, text: str, longest: int) -> None:
    if not 0 < len(text) <= longest:
        raise ConfigError(field, text, f"1 to {longest} letters")
    # C: control characters and those without a glyph, which could hide or reverse other text. Zl, Zp: line ends.
    unseen = [letter for letter in text if unicodedata.category(letter)[0] == "C" or letter in "\u2028\u2029"]
    if unseen:
        raise ConfigError(field, text, "letters that can be seen: no line ends and no control characters")
    if text != text.strip() or text.startswith("-"):
        raise ConfigError(field, text, "a text without spaces at its ends, which does not begin with `-`")
    if any(letter in RESERVED for letter in text):
        raise ConfigError(field, text, f"a text without {' '.join(RESERVED)}")


def tags_of(text: str) -> tuple[str, ...]:
    """The tags of a list that is separated by commas; an empty text is no tag."""
    return tuple(tag.strip() for tag in text.split(",")) if text.strip() else ()


def read_label(folder: Path, warnings: list[str]) -> Label:
    """The label of the run in a directory. If its file is damaged, `warnings` says so and the run has no label."""
    file = f"{folder}/{FILE}"
    if not os.path.isfile(file):
        return Label()
    remedy = "The run is called by its directory; `miclab runs --rename RUN NAME` writes the label anew."
    try:
        content = storage.read_sealed(file, remedy)
        return Label(_text(content["name"]), tuple(map(_text, content["tags"])))
    except RunError as error:
        warnings.append(str(error))
    except (ConfigError, KeyError, TypeError):
        warnings.append(f"{file} is no label of a run. {remedy}")
    return Label()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def write_label(folder: Path, label: Label) -> None:
    """Gives the run in a directory another label.

    Raises:
        RunError: it cannot be written.
    """
    storage.write_bytes(folder / FILE, storage.sealed(asdict(label)))


def called(name: str, folders: Iterable[Path]) -> list[Path]:
    """The directories whose run has this name."""
    return [folder for folder in folders if read_label(folder, []).name == name]
