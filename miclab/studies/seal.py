"""Seals row tables not written by `miclab study run`: digests in them, and the list beside them.

    python -m miclab.studies.seal [FOLDER ...]

FOLDER holds tables (rows/quick), or folders of tables. Sealing accepts these rows as intended. Two things are checked
first. Every row names the study and the preset of its place, and its run is the hash of its configuration.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from miclab import storage
from miclab.config import schema
from miclab.config.content import json_of
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, DamagedError, MiclabError, RunContentError
from miclab.studies import sealed_table
from miclab.studies.shipped import studies_directory


def check_rows(file: Path, frame: pl.DataFrame) -> None:
    """Checks that rows belong to the study and preset of their place, and to the runs that they name.

    Raises:
        RunContentError: a row is not.
    """
    for column, name in (("study", file.stem), ("profile", file.parent.name)):
        if column not in frame.columns or set(frame[column]) - {name}:
            problem = f"its rows do not all have {column} {name!r}, as its place says."
            raise RunContentError(file, problem, f"column {column}")
    for name in ("run", "config"):
        if frame.schema.get(name) != pl.String:
            raise RunContentError(file, "expected a column of texts", f"column {name}")
    for run, text in frame.select("run", "config").unique(maintain_order=True).iter_rows():
        place = f"config of the run {run}"
        try:
            config = schema.from_mapping(RunConfig, json_of(text or "", file, place).mapping())
        except ConfigError as error:
            raise RunContentError.of_field(file, error, place) from error
        if not schema.names_trajectory(run, config):
            raise RunContentError(file, "it is the configuration of another run", place)


def seal(file: Path) -> str:
    """Seals one table and returns a message.

    Raises:
        RunContentError: it cannot be read, it is damaged, or its rows are not those of its place.
    """
    if sealed_table.is_listed(file):
        with contextlib.suppress(MiclabError):
            sealed_table.read(file)
            return "is sealed already"
    try:
        content = storage.read_file(file)
    except OSError as error:
        raise storage.unreadable(file, error) from error
    frame, known = sealed_table.parsed(file, content), sealed_table.own_digest(file, content)
    if known and known != sealed_table.content_digest(frame):
        raise DamagedError(file, "Its rows are not those of the digest in it. Restore it, or make it again.")
    check_rows(file, frame)
    sealed_table.write(frame, file)
    what = "it had its digest, and the list named another table" if known else "it had no digest"
    return f"sealed, {frame.height:,} rows of {frame['run'].n_unique():,} runs; {what}"


def tables(folder: Path) -> Iterator[Path]:
    """The tables of a folder and of the folders in it."""
    return iter(sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith(".")))


def main(arguments: list[str]) -> int:
    """Seals the tables of folders; without any, those of the studies that come with miclab. Returns the exit status."""
    status = 0
    for name in arguments or [str(studies_directory() / "rows")]:
        folder = Path(name)
        found = list(tables(folder))
        for place in {file.parent for file in found}:
            if sealed_table.forget_damaged_list(place):
                print(f"{place / sealed_table.LIST} was damaged and is made anew from the digests in the tables.")
        if not found:
            print(f"{folder} has no tables.", file=sys.stderr)
            status = 2
        for file in found:
            try:
                print(f"{file}: {seal(file)}")
            except MiclabError as error:
                print(f"not sealed: {error}", file=sys.stderr)
                status = 2
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
