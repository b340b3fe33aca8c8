"""Whether a report may take the place of a file that is there: of an earlier report on the same subject, yes."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from miclab.errors import MiclabError
from miclab.report.html import GENERATOR

HEAD = 8192
"""Bytes at the beginning of a page that say what it is about."""
_META = re.compile(r'<meta name="(generator|miclab-subject)" content="([^"]*)">')


def subject_at(path: Path) -> str | None:
    """What the report at `path` is about; None where the file is no report of miclab."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD).decode("utf-8", "replace")
    except OSError:
        return None
    found = {name: unescape(value) for name, value in _META.findall(head)}
    return found.get("miclab-subject") if found.get("generator") == GENERATOR else None


def check_replaceable(path: Path, subject: str, overwrite: bool = False) -> None:
    """Makes sure that writing a report destroys nothing else. A report may be made again: one on the same runs, in
    their order, or on the same study and its preset, is replaced.

    Arguments:
        path: where the report goes.
        subject: what it is about.
        overwrite: replace whatever is there.

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
