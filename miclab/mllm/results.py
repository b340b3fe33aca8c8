"""What a command writes: a folder of parquet tables and a page, with a manifest that says whether it is whole."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import polars as pl

from miclab import __version__, storage
from miclab.errors import MiclabError, RunError
from miclab.mllm.errors import ModelError, TaskError

MANIFEST = "manifest.json"
REMEDY = "Run the command again that made it."


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    import peft
    import torch
    import transformers

    return {
        "miclab": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


class Results:
    """A folder of results. Until `finish` its manifest says `partial`, so what is left of a killed command is marked;
    an error that leaves its `with` block is noted as the reason.

    Arguments:
        folder: made if it is not there.
        command: name of the subcommand.
        told: what was asked for, plain data.
    """

    def __init__(self, folder: Path, command: str, told: Mapping[str, Any]):
        self.folder = folder
        self.body: dict[str, Any] = {
            "command": command,
            "status": "partial",
            "reason": "it has not finished",
            "asked": dict(told),
            "versions": versions(),
            "files": {},
        }
        with storage.explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            told = str(error) if isinstance(error, MiclabError) else f"it was stopped by {type(error).__name__}"
            self.finish(told)

    def _write(self) -> None:
        storage.write_bytes(self.folder / MANIFEST, storage.sealed(self.body))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes rows as a parquet file."""
        import io

        content = io.BytesIO()
        pl.DataFrame(list(rows), infer_schema_length=None).write_parquet(content)
        self.file(name, content.getvalue())

    def file(self, name: str, content: bytes) -> None:
        """Writes a file and notes its hash."""
        self.body["files"][name] = storage.write_bytes(self.folder / name, content)
        self._write()

    def note(self, **values: Any) -> None:
        """Adds plain data to the manifest."""
        self.body |= values
        self._write()

    def finish(self, problem: str = "") -> None:
        """Marks the results as whole; with a problem they stay partial, and it is said why."""
        self.body |= {"status": "partial" if problem else "complete", "reason": problem}
        self._write()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of results.

    Raises:
        TaskError: it is no such folder.
        DamagedError: the manifest is not what was written.
    """
    if not (folder / MANIFEST).is_file():
        raise TaskError(f"{folder} holds no results of `miclab mllm`: it has no {MANIFEST}.")
    return storage.read_sealed(folder / MANIFEST, REMEDY)


def read_table(folder: Path, name: str) -> pl.DataFrame:
    """A table of a folder of results, checked against the manifest.

    Raises:
        ModelError: the command that made the folder writes no such table, or stopped before it.
        DamagedError: the file is not what was written.
    """
    manifest = read_manifest(folder)
    if name not in manifest["files"]:
        raise ModelError(
            f"{folder} was made by `miclab mllm {manifest['command']}` ({manifest['status']}) and has no {name}."
        )
    import io

    try:
        return pl.read_parquet(io.BytesIO(storage.read_checked(folder / name, manifest["files"][name], REMEDY)))
    except pl.exceptions.PolarsError as error:
        raise RunError(f"{folder / name} cannot be read: {error}. {REMEDY}") from error
