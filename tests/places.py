"""Places that cannot be written: a full disk, one that refuses, and a working directory that is gone."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REFUSED = Path("/proc/miclab-refuses")
"""Nobody makes a directory here, not even who may do everything else."""


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes: as a full disk, wherever the file is and whoever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def gone(folder: Path) -> Iterator[None]:
    """The working directory is one below `folder` that no longer exists."""
    here, place = os.getcwd(), folder / "gone"
    place.mkdir()
    os.chdir(place)
    try:
        place.rmdir()
        yield
    finally:
        os.chdir(here)
