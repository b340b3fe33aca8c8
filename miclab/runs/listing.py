"""Runs as a listing shows them. Only what it shows is read, so that a directory may hold tens of thousands of runs.

What is read of a run: manifest, label, the last metric rows, the bytes of the configuration, and whether its world is
there.
`Run.verify` reads all of it, and `open_run` checks what the configuration means.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miclab import storage
from miclab.config.content import uncollected
from miclab.config.extensions import check_fingerprints
from miclab.errors import ConfigError, DamagedError, MiclabError
from miclab.runs.find import look_over, own_manifest
from miclab.runs.label import Label, read_label
from miclab.runs.manifest import REFUSED, checkpoints_of, last_accuracies

DAMAGED, LACKING = "damaged", "needs plugin"
"""States of runs that cannot be opened."""
NO_PLUGINS = b'"plugins": []'
"""Stands in the configuration of a run that needs no plugin, which then is not parsed."""


@dataclass(slots=True)
class Entry:
    """A run in a listing.

    Arguments:
        path: its directory.
        status: as `Run.status`; `damaged`; or `needs plugin`, where a plugin that it uses was not named.
        note: why it has this status, in words.
        step: its last checkpoint; None where it cannot be read.
        label: name and tags.
        accuracy: last accuracies, by split.
        warnings: what of it is damaged, though it can be used.
    """

    path: Path
    status: str
    note: str
    step: int | None = None
    label: Label = field(default_factory=Label)
    accuracy: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def opens(self) -> bool:
        """Whether the run can be opened, as far as the listing knows."""
        return self.status not in (DAMAGED, LACKING)

    def as_json(self) -> dict[str, Any]:
        """It as plain data."""
        # A killed process leaves its run so. Taking the lock to find out would disturb one that is alive.
        status = "running, or killed" if self.status == "running" else self.status
        return {"run": self.path.name, "name": self.label.name, "tags": list(self.label.tags), "status": status,
                "step": self.step, "accuracy": self.accuracy, "note": self.note}  # fmt: skip


def entries(root: Path | str) -> list[Entry]:
    """The runs under `root`, sorted by name, those among them that cannot be opened.

    Raises:
        RunError: `root` is a file, or cannot be read.
    """
    paths, broken = look_over(root)
    with uncollected():
        found = [*map(entry, paths), *(Entry(path, DAMAGED, why) for path, why in broken.items())]
    return sorted(found, key=lambda one: one.path.name)


def entry(path: Path) -> Entry:
    """The run at a path, which has a manifest."""
    try:
        return _entry(path)
    except ConfigError as error:
        return Entry(path, LACKING, str(error), label=read_label(path, []))
    except MiclabError as error:
        return Entry(path, DAMAGED, str(error))


def _entry(path: Path) -> Entry:
    manifest = own_manifest(path)
    files, warnings = manifest["files"], []
    config = storage.read_checked(f"{path}/config.json", files["config.json"], REFUSED)
    if NO_PLUGINS not in config:
        check_fingerprints(_plugins(config))
    _check_world(f"{path}/world.safetensors")
    label = read_label(path, warnings)
    step = max(checkpoints_of(files), default=-1)
    accuracy = _last_accuracies(path, files, warnings)
    return Entry(path, manifest["status"], manifest["reason"], step, label, accuracy, warnings)


def _plugins(config: bytes) -> list[str]:
    try:
        found = json.loads(config)["plugins"]
    except (ValueError, KeyError, TypeError, RecursionError):
        # Older than plugins, or wrong, which opening the run reports.
        return []
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else []


def _check_world(file: str) -> None:
    try:
        there = storage.check_regular(file) > 0
    except FileNotFoundError:
        there = False
    except OSError as error:
        raise storage.unreadable(file, error) from error
    if not there:
        raise DamagedError(file, REFUSED)


def _last_accuracies(path: Path, files: dict[str, str], warnings: list[str]) -> dict[str, Any]:
    """Accuracies of the last metric row whose file is good."""
    for name in sorted((name for name in files if name.startswith("rows/")), reverse=True):
        try:
            content = storage.read_checked(f"{path}/{name}", files[name], "The rows before it are used.")
        except DamagedError as error:
            warnings.append(str(error))
            continue
        if found := last_accuracies(content, f"{path}/{name}"):
            return found
    return {}
