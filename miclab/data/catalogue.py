"""Data sets by name. Importing this module registers the sources that come with miclab (see `miclab.data.registry`)."""

from __future__ import annotations

from dataclasses import replace

# Imported because they register sources.
import miclab.data.cifar
import miclab.data.folders
import miclab.data.shipped
import miclab.data.vectors  # noqa: F401
from miclab.data.dataset import DataError, DataSet
from miclab.data.registry import Progress, find, silent


def load(name: str, *, progress: Progress = silent) -> DataSet:
    """A data set by its name, `NAME` or `NAME:ARGUMENT` of a registered source (`miclab data list` shows all):

        concepts.pictures, concepts.words, concepts.speech, glyphs: shipped; `small:` before the name gives 64 classes
        omniglot:PATH, mini-imagenet:PATH, cifar-100:PATH, folder:PATH: pictures; `@SIDE` after the path resizes
        vectors:PATH: one's own embeddings

    Class i of every `concepts.*` is the same concept, held out in all of them or in none.

    Raises:
        DataError: there is no such source, or the data at PATH cannot be used. Nothing is half loaded.
        DamagedError: a shipped file was changed.
    """
    found, argument = find(name)
    data = found.read(name, argument, progress)
    if not isinstance(data, DataSet):
        raise DataError(f"{name}: the source {found.name!r} gave a {type(data).__name__}, and not a DataSet.")
    return data if data.name == name else replace(data, name=name)
