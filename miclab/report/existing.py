"""Checks whether a report may replace an existing file. It may replace an earlier report on the same subject."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from miclab.errors import MiclabError
from miclab.report.html import GENERATOR

HEAD = 8192
"""Bytes at the beginning of a page that name its subject."""
_META = re.compile(r'<meta name="(generator|miclab-subject)" content="([^"]*)">')


def subject_at(path: Path) -> str | None:
    """The subject of the report at `path`; None if the file is no report of miclab."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD).decode("utf-8", "replace")
    except OSError:
        return None
    found = {name: unescape(value) for name, value in _META.findall(head)}
    return found.get("miclab-subject") if found.get("generator") == GENERATOR else None


def check_replaceable(path: Path, subject: str, overwrite: bool = False) -> None:
    """Checks that writing a report destroys nothing else. An earlier report on the same runs in the same order, or on
    the same study and preset, may be replaced.

    Arguments:
        path: of the report.
        subject: of the report.
        overwrite: replace any existing file.

    Raises:
        MiclabError: another file is there.
    """
    if overwrite or not path.exists():
        return
    there = subject_at(path)
    if there is not None and there == subject:
        return
    what = "no report of miclab" if there is None else "a report on something else"
    raise MiclabError(
        f"--output {path}: a file is there already, and it is {what}. Give another --output, or replace it with"
        " --overwrite."
    )
