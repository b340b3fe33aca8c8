"""Data sets by name."""

from __future__ import annotations

import re
from pathlib import Path

from miclab.data.cifar import load_cifar_100
from miclab.data.dataset import DataError, DataSet
from miclab.data.folders import Progress, load_folder, load_mini_imagenet, load_omniglot, silent
from miclab.data.shipped import SHIPPED, SMALL, load_shipped
from miclab.errors import nearest

READERS = {
    "omniglot": load_omniglot,
    "mini-imagenet": load_mini_imagenet,
    "cifar-100": load_cifar_100,
    "folder": load_folder,
}
"""Readers of data that is not shipped; they take a name, a path, a side in pixels or None, and progress."""


def _parts(name: str) -> tuple[str, Path | None, int | None]:
    """Reader, folder and side in pixels that a name says; for what is shipped no reader and no folder.

    Raises:
        DataError: there is no such data set.
    """
    kind, _, rest = name.partition(":")
    if kind in READERS:
        resized = re.fullmatch(r"(.*)@([1-9][0-9]{0,3})", rest)
        path, side = resized.groups() if resized else (rest, None)
        if not path:
            raise DataError(f"{name!r} names no folder: write {kind}:PATH.")
        return kind, Path(path).expanduser(), int(side) if side else None
    known = [*SHIPPED, *(f"{reader}:PATH" for reader in READERS)]
    if name.removeprefix(SMALL) not in SHIPPED:
        raise DataError(f"{name!r} is no data set: {nearest(name, known)}.")
    return "", None, None


def is_there(name: str) -> bool:
    """Whether there is anything to read under a name.

    Raises:
        DataError: there is no such data set.
    """
    _, path, _ = _parts(name)
    return path is None or path.is_dir()


def load(name: str, *, progress: Progress = silent) -> DataSet:
    """A data set by its name:

        concepts.pictures, concepts.words, concepts.speech, glyphs: shipped; `small:` before the name gives 64 classes
        omniglot:PATH, mini-imagenet:PATH, cifar-100:PATH, folder:PATH: read from PATH; `@SIDE` after it resizes

    Class i of every `concepts.*` is the same concept, held out in all of them or in none.

    Raises:
        DataError: there is no such data set, or what lies at PATH cannot be used; nothing is half loaded.
        DamagedError: a shipped file is not the one that was made.
    """
    reader, path, side = _parts(name)
    return load_shipped(name) if path is None else READERS[reader](name, path, side, progress)
