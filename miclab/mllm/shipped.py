"""Models that come with miclab, each a folder with a manifest of its files' hashes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from miclab import storage

FILES = Path(__file__).parent / "files"
MODELS = {"tiny": "tiny-qwen2.5-vl", "tiny-marks": "tiny-qwen2.5-vl-marks"}
"""Folder of each by its short name."""
HERE = " or ".join(f"`{name}`" for name in MODELS)
"""The short names in words."""
MANIFEST = "manifest.json"
REMEDY = "Install miclab again, or make it again with scripts/make_tiny_mllm.py."


def write_manifest(folder: Path, made: Mapping[str, Any]) -> None:
    """Records the hash of every file of a folder, and how the model was made."""
    files = {p.name: storage.digest(p.read_bytes()) for p in sorted(folder.iterdir()) if p.name != MANIFEST}
    storage.write_bytes(folder / MANIFEST, storage.sealed({"files": files, "made": dict(made)}))


@cache
def shipped(name: str) -> Path:
    """The folder of a model by its short name, its files checked.

    Raises:
        DamagedError: a file was changed.
    """
    folder = FILES / MODELS[name]
    for file, sha256 in storage.read_sealed(folder / MANIFEST, REMEDY)["files"].items():
        storage.read_checked(folder / file, sha256, REMEDY)
    return folder
