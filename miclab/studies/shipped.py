"""Where the study files lie that come with miclab, and their rows: in a clone beside the package, in an installed
package inside it."""

from __future__ import annotations

import shutil
from pathlib import Path

from miclab import storage
from miclab.errors import MiclabError

PACKAGE = Path(__file__).parents[1]


def studies_directory(named: str = "") -> Path:
    """The directory of studies that an option names; empty: that of miclab itself.

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
    """The directory of studies in which new rows are written. Of an installed package the files are copied to
    `studies` in the working directory first: nothing is written into the package.

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
