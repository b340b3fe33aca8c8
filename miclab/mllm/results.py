"""The output of a command: a folder of parquet tables and a page, with a manifest that says whether it is complete."""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import polars as pl

from miclab import __version__, storage
from miclab.config.content import Content
from miclab.errors import MiclabError, RunError
from miclab.mllm.errors import TaskContentError

MANIFEST = "manifest.json"
IMMATERIAL = ("batch", "json", "output", "offline", "name", "save_attention", "save_episodes", "save_limit")
"""Options that affect no result, but for rounding; `model` has the information of `name`."""
ADDED = {
    "background": "white", "eight_bit": False, "device_map": "none", "revision": "", "base": "", "ways": 0,
    "judge": "exact", "shown": 2, "baseline": "uniform",
}  # fmt: skip
"""Options that results of earlier versions lack, with their values then."""
REMEDY = "Run the command again that made it."


def versions() -> dict[str, str]:
    """Versions of packages that affect a result."""
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


def differences(before: Mapping[str, Any], now: Mapping[str, Any], but: Collection[str] = ()) -> str:
    """The entries in which two mappings differ, as text; empty if they are equal.

    Arguments:
        but: names that may differ.
    """
    before = {name: value for name, value in ADDED.items() if name in now} | dict(before)
    names = sorted({*before, *now} - {*but})
    return ", ".join(
        f"{name} ({before.get(name)!r}, now {now.get(name)!r})" for name in names if before.get(name) != now.get(name)
    )


class Results:
    """A folder of results. Its `with` block is the work. Until it ends the manifest says `partial`, so results of a
    killed command are marked. An error that leaves the block is recorded as the reason. Complete earlier results stay
    until the first new file is written.

    Arguments:
        folder: made when the work begins.
        command: name of the subcommand.
        requested: the command's options, plain data.
        extends: names of options that may differ from those of finished results.

    Raises:
        RunError: the folder is a file, or holds other complete results, or files not made by `miclab mllm`.
        DamagedError: it holds results whose manifest is damaged.
    """

    def __init__(self, folder: Path, command: str, requested: Mapping[str, Any], extends: Collection[str] = ()):
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file. Give a folder as --output.")
        before, now = _whole(folder), json.loads(storage.json_bytes({**requested, "command": command}))
        differ = differences(before, now, {*IMMATERIAL, *extends}) if before else ""
        if differ:
            raise RunError(
                f"{folder} holds finished results that differ in {differ}. Give another --output, or delete the folder."
            )
        self.untouched = bool(before) and not differences(before, now, IMMATERIAL)
        """Whether the folder already holds complete results of the same request, and nothing new has been written."""
        self.body: dict[str, Any] = {
            "command": command,
            "status": "partial",
            "reason": "it has not finished",
            "asked": dict(requested),
            "versions": versions(),
            "files": {},
        }

    def __enter__(self) -> Self:
        if not self.untouched:
            self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            problem = str(error) if isinstance(error, MiclabError) else f"it was stopped by {type(error).__name__}"
            if not self.untouched:
                self.finish(problem)

    def _write(self) -> None:
        self.untouched = False
        storage.write_bytes(self.folder / MANIFEST, storage.sealed(self.body))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes rows as a parquet file."""
        import io

        content = io.BytesIO()
        pl.DataFrame(list(rows), infer_schema_length=None).write_parquet(content)
        self.file(name, content.getvalue())

    def file(self, name: str, content: bytes) -> None:
        """Writes a file and records its hash."""
        if self.untouched:
            self._write()
        self.body["files"][name] = storage.write_bytes(self.folder / name, content)
        self._write()

    def note(self, **values: Any) -> None:
        """Adds plain data to the manifest."""
        self.body |= values
        self._write()

    def finish(self, problem: str = "") -> None:
        """Marks the results as complete. With a problem they stay partial, and the reason is recorded."""
        self.body |= {"status": "partial" if problem else "complete", "reason": problem}
        self._write()


def _whole(folder: Path) -> dict[str, Any]:
    """The options of the finished results in a folder, with the command; empty if there are none.

    Raises:
        DamagedError: the manifest is not what was written.
        RunError: it cannot be read, or is not that of results.
    """
    if not (folder / MANIFEST).is_file():
        return {}
    remedy = "Give another --output, or delete the folder."
    found = storage.read_sealed(folder / MANIFEST, remedy)
    if "asked" in found:
        _checked(found, folder / MANIFEST)
    else:
        raise TaskContentError(folder / MANIFEST, f"it is not that of results of `miclab mllm`. {remedy}")
    return found["asked"] | {"command": found["command"]} if found["status"] == "complete" else {}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of results.

    Raises:
        TaskContentError: it is no such folder.
        DamagedError: the manifest is not what was written.
    """
    if not (folder / MANIFEST).is_file():
        raise TaskContentError(folder, f"it holds no results of `miclab mllm`: it has no {MANIFEST}.")
    return _checked(storage.read_sealed(folder / MANIFEST, REMEDY), folder / MANIFEST)


def _checked(manifest: dict[str, Any], file: Path) -> dict[str, Any]:
    """A manifest of results whose fields have the right types.

    Raises:
        RunContentError: a field has a wrong type.
    """
    found = Content(str(file), manifest)
    for name in ("command", "status", "reason"):
        found[name].text()
    for name in ("asked", "versions"):
        found[name].mapping()
    for _, sha256 in found["files"].fields():
        sha256.text()
    return manifest


def read_table(folder: Path, name: str) -> pl.DataFrame:
    """A table of a folder of results, checked against the manifest.

    Raises:
        TaskContentError: it is no such table, or the command that made the folder writes none or did not finish.
        DamagedError: the file is not what was written.
    """
    manifest = read_manifest(folder)
    if manifest["status"] != "complete":
        raise TaskContentError(
            folder, f"it holds partial results of `miclab mllm {manifest['command']}`: {manifest['reason']}. {REMEDY}"
        )
    if name not in manifest["files"]:
        raise TaskContentError(
            folder, f"it was made by `miclab mllm {manifest['command']}` ({manifest['status']}) and has no {name}."
        )
    import io

    try:
        return pl.read_parquet(io.BytesIO(storage.read_checked(folder / name, manifest["files"][name], REMEDY)))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise TaskContentError(folder / name, f"it cannot be read: {error}. {REMEDY}") from error
