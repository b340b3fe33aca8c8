"""The place of miclab's own study files and rows: beside the package in a clone, inside it once installed."""

from __future__ import annotations

import shutil
from pathlib import Path

from miclab import storage
from miclab.errors import MiclabError

PACKAGE = Path(__file__).parents[1]


def studies_directory(named: str = "") -> Path:
    """The directory of studies that an option names; empty: miclab's own.

    Raises:
        MiclabError: there is no such directory.
    """
    if named:
        if not Path(named).is_dir():
            raise MiclabError(f"There is no directory {named!r} of studies: name it with --studies.")
        return Path(named)
    for directory in (PACKAGE / "study_files", PACKAGE.parent / "studies"):
        if directory.is_dir():
            return directory
    raise MiclabError("This installation holds no study files: name a directory of studies with --studies.")


def writable_studies(named: str = "") -> Path:
    """The directory of studies for new rows. An installed package's files are first copied to `studies` in the working
    directory, so that the package is never written to.

    Raises:
        MiclabError: there is no such directory, or it cannot be copied.
    """
    directory = studies_directory(named)
    if named or directory.parent != PACKAGE:
        return directory
    copy = Path("studies")
    if not copy.exists():
        with storage.explained(copy):
            shutil.copytree(directory, copy)
    return copy
