"""A run's directory while a process writes to it: files that may be deleted, and checks that it was not moved."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from miclab import storage
from miclab.errors import RunError

PARTS = ("checkpoints", "rows", "analyses")
"""Directories of a run that training and analyses write to."""
OWN = re.compile(
    r"checkpoints/[0-9]{9,}(\.optimiser)?\.safetensors|rows/[0-9]{9,}\.jsonl|analyses/[0-9]{9,}\.[\w.-]+\.json"
)
"""The names of files that miclab writes there. Files of other names belong to the user."""


class Folder:
    """The directory of a run that this process holds.

    Arguments:
        path: the directory.
    """

    def __init__(self, path: Path):
        self.path = path
        self._identity = self._found()

    def check_inside(self) -> None:
        """Checks that files to be written and deleted lie in the run.

        Raises:
            RunError: a directory in it is a link that leads out of the run.
        """
        for part in PARTS:
            place = self.path / part
            if place.is_symlink() and not place.resolve().is_relative_to(self.path.resolve()):
                raise RunError(
                    f"{place} is a link that leads out of the run. It can be read, but nothing is written or deleted"
                    " there: put a directory in its place, or link the whole run."
                )

    def _found(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def check(self) -> None:
        """Checks that the directory is still the one that was opened.

        Raises:
            RunError: it was moved or removed.
        """
        if self._identity is None or self._found() != self._identity:
            raise RunError(
                f"{self.path} was moved or removed while this process wrote to it. What it had up to its last"
                " checkpoint went with it, and is good: go on from there with `miclab resume` and its new place."
            )

    def write(self, name: str, content: bytes) -> str:
        """Writes a file of the run; returns its SHA-256. A directory that was moved is not made again.

        Raises:
            RunError: the run was moved, or the file cannot be written.
        """
        self.check()
        path = self.path / name
        try:
            with storage.explained(path):
                path.parent.mkdir(exist_ok=True)
            return storage.replace_bytes(path, content)
        except RunError:
            self.check()
            raise

    def delete(self, name: str) -> None:
        """Deletes a file of the run, if it is there.

        Raises:
            RunError: the run was moved, or the file cannot be deleted.
        """
        self.check()
        with storage.explained(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    def leftovers(self, named: Collection[str]) -> Iterator[str]:
        """Names of half-written files, and of written files that are not among those named."""
        for folder in (self.path, *(self.path / part for part in PARTS)):
            if not folder.is_dir():
                continue
            for path in sorted(folder.iterdir()):
                name = path.relative_to(self.path).as_posix()
                if storage.is_temporary(path.name) or (OWN.fullmatch(name) and name not in named):
                    yield name
