"""The manifest of a run and its metric rows, checked field by field: a checksum does not say what a file means."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from miclab import storage
from miclab.config.content import Content, json_of
from miclab.errors import RunContentError
from miclab.runs.folder import OWN

FORMAT = 1
REFUSED = "The run cannot be trusted any more: delete it and train again."
STATES = ("new", "running", "stopped", "finished", "diverged")
WHOLE = ("config.json", "world.safetensors")
"""Files that every run has."""
SHA256 = re.compile(r"[0-9a-f]{64}")


def read_manifest(path: Path) -> dict[str, Any]:
    """The verified manifest of the run at `path`.

    Raises:
        RunContentError: there is no run or one of another format, or the manifest's checksum is right and its content
            wrong.
        DamagedError: the manifest is damaged.
    """
    file = f"{path}/manifest.json"
    try:
        manifest = storage.read_sealed(file, REFUSED)
    except RunContentError:
        if not os.path.exists(file):
            raise RunContentError(path, "it is not a run: it has no manifest.json. `miclab runs` lists them") from None
        raise
    found = Content(file, manifest)
    if found["format"].value != FORMAT:
        raise found["format"].fail(f"format {FORMAT}, which this version of miclab reads")
    _check(found)
    return manifest


def _check(found: Content) -> None:
    identity = found["hash"]
    if not SHA256.fullmatch(identity.text()):
        raise identity.fail("a SHA-256 in hexadecimal")
    found["status"].text(STATES)
    found["reason"].text()
    found["request"].mapping()
    found["environment"].mapping()
    for entry in found["timing"].entries():
        entry["step"].whole()
        if "seconds" in entry.mapping() and (seconds := entry["seconds"]).number() is None:
            raise seconds.fail("a number")
    files, names = found["files"], found["files"].mapping()
    for name, sha256 in names.items():
        if name not in WHOLE and not OWN.fullmatch(name):
            raise files.fail(f"names of files that miclab writes, not {name[:60]!r}")
        if type(sha256) is not str or not SHA256.fullmatch(sha256):
            raise files[name].fail("a SHA-256 in hexadecimal")
        if ".optimiser." in name and (weights := name.replace(".optimiser.", ".")) not in names:
            raise files.fail(f"{weights} beside {name}")
    for name in WHOLE:
        if name not in names:
            files[name].text()


def step_of(name: str) -> int:
    """The step of a file of a run."""
    return int(name.rpartition("/")[2].partition(".")[0])


def checkpoints_of(files: Iterable[str]) -> list[int]:
    """Steps whose parameters are among the files of a run, in order."""
    return sorted(step_of(name) for name in files if name.startswith("checkpoints/") and ".optimiser." not in name)


def rows_of(content: bytes, file: Path | str) -> list[dict[str, Any]]:
    """The metric rows of a segment.

    Raises:
        RunContentError: a row lacks fields.
    """
    return [_row(json_of(line, file, f"line {i}")) for i, line in enumerate(content.splitlines(), 1)]


def last_accuracies(content: bytes, file: str) -> dict[str, Any]:
    """Accuracies by split of a segment's last metric row; empty where it has no row.

    Raises:
        RunContentError: the row has none.
    """
    lines = content.splitlines()
    if not lines:
        return {}
    found = json_of(lines[-1], file, f"line {len(lines)}")["accuracy"]
    for _, value in found.fields():
        value.number()
    return found.value


def _row(found: Content) -> dict[str, Any]:
    found["step"].whole()
    found["loss"].number()
    for _, value in found["accuracy"].fields():
        value.number()
    if "measures" in found.value:
        for _, value in found["measures"].fields():
            for layer in value.entries():
                for head in layer.entries():
                    head.number()
    return found.value
