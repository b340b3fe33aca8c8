"""The registry of data: a source of real items is a function that is registered under a name.

    @source("rows", argument="FILE", words="rows of a CSV file")
    def rows(name: str, argument: str, progress: Progress) -> DataSet: ...

A configuration finds it as `modalities.NAME.source: rows:FILE`. `miclab data list`, the messages about unknown names
and the help texts read the same table, so that a new source touches one file. A package of others, or a file given
with `--plugin`, only has to be imported.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from miclab.config.registry import Registry
from miclab.data.dataset import DataContentError, DataError, DataSet
from miclab.errors import nearest

Progress = Callable[[int, int], None]
"""Takes the number of items read and their total."""
Reader = Callable[[str, str, Progress], DataSet]
"""Takes the source's whole name, as the configuration has it, its argument, and progress."""


class MissingDataError(DataContentError):
    """The argument of a source points to nothing."""


ENDINGS = (".npy", ".npz", ".safetensors", ".parquet")
"""Endings of files of embeddings."""


def silent(done: int, total: int) -> None:
    """Progress that is not shown."""


@dataclass(frozen=True)
class Source:
    """A registered source.

    Arguments:
        name: before the colon.
        argument: the word after the colon, in capitals, as in `PATH`; empty: the source takes no argument.
        words: its content, in a few words.
        read: loads it.
    """

    name: str
    argument: str
    words: str
    read: Reader

    @property
    def usage(self) -> str:
        """Its form in a configuration."""
        return f"{self.name}:{self.argument}" if self.argument else self.name


SOURCES: Registry[Source] = Registry("source", "modalities.NAME.source")
"""The function that the decorator registers."""


def source(name: str, *, argument: str = "", words: str = "") -> Callable[[Reader], Reader]:
    """Registers a function as the source `name`. The function itself is unchanged.

    Arguments:
        name: lower-case letters, digits, `.`, `-` and `_`.
        argument: the word that the user writes after `name:`, in capitals; empty: none.
        words: the content of the source, for `miclab data list` and help texts.

    Raises:
        MiclabError: the name cannot be used, or another file has registered it.
    """

    def register(read: Reader) -> Reader:
        SOURCES.register(name, origin=read)(Source(name, argument, words, read))
        return read

    return register


def registered() -> tuple[Source, ...]:
    """All sources: those without an argument in the order of their registration, then the others by name."""
    plain = [known for known in SOURCES.values() if not known.argument]
    return (*plain, *sorted((known for known in SOURCES.values() if known.argument), key=lambda known: known.name))


def find(name: str) -> tuple[Source, str]:
    """The source of a name as a configuration has it, and its argument.

    Raises:
        DataError: there is no such source, its argument is missing, or it takes none.
    """
    kind, _, argument = name.partition(":")
    found = SOURCES.get(kind)
    if found is None:
        place = Path(name).expanduser()
        if place.exists() or (not argument and place.suffix in ENDINGS):
            raise DataError(
                f"{name!r} is no data set: did you mean {'folder' if place.is_dir() else 'vectors'}:{name}?"
                " `miclab data list` shows all sources."
            )
        known = nearest(kind, (one.usage for one in SOURCES.values()))
        raise DataError(f"{name!r} is no data set: {known}. A source of your own needs --plugin FILE.py.")
    if bool(argument) != bool(found.argument):
        lack = f"lacks its {found.argument}" if found.argument else "takes nothing after its name"
        raise DataError(f"{name!r} {lack}: write {found.usage}.")
    return found, argument


def existing(name: str, argument: str, how: str) -> Path:
    """The path that an argument names; `~` is the home directory.

    Arguments:
        how: end of the message, with a correct argument.

    Raises:
        MissingDataError: there is nothing at the path.
    """
    path = Path(argument).expanduser()
    if not path.exists():
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.8)
        hint = f"; did you mean {path.with_name(close[0])}?" if close else "."
        raise MissingDataError(name, f"there is nothing at {path}{hint} {how}")
    return path
