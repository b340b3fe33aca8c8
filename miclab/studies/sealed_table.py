"""Row tables on disk: parquet files that carry a digest of their content, and beside them a sealed list.

    rows/quick/noise.parquet     rows; `miclab.content` in its metadata is the digest of their content
    rows/quick/tables.json       for each table of the folder the SHA-256 of its bytes; it carries its own checksum

A table that the list names is read only if its bytes are those of the list. Nothing of another file is parsed. A table
that travels without its list is judged by its own digest. One that has neither is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from miclab import storage
from miclab.errors import DamagedError, RunContentError

LIST = "tables.json"
"""Name of the list beside the tables."""
KEY = "miclab.content"
"""Name of the digest in the metadata of a parquet file."""
SLICE = 1000
"""Texts of a column that are joined at a time."""
GROUP = 4096
"""Rows that are compressed together: the writer needs twice their memory."""
LOOKS = 3
"""Attempts to read a table and its list while a writer is between the two."""


def seal_command(folder: Path) -> str:
    """The command that seals the tables of a folder, in a sentence."""
    return f"If these rows are the ones that you want, `python -m miclab.studies.seal {folder}` seals them."


def content_digest(frame: pl.DataFrame) -> str:
    """SHA-256 of a table's content: names, types and values in their order, independent of the file's encoding."""
    found = hashlib.sha256(json.dumps([frame.height, [[n, str(t)] for n, t in frame.schema.items()]]).encode())
    for series in frame:
        _digest_values(found, series)
    return found.hexdigest()


def _digest_values(found: hashlib._Hash, series: pl.Series) -> None:
    """Adds a column: a mask of existing values, then the values in order, texts and lists after their lengths."""
    there = series.is_not_null()
    found.update(there.to_numpy().tobytes())
    values = series.filter(there)
    if series.dtype == pl.String:
        found.update(values.str.len_bytes().to_numpy().astype("<i8").tobytes())
        for start in range(0, len(values), SLICE):
            found.update((values.slice(start, SLICE).str.join("").item() or "").encode())
    elif series.dtype == pl.List:
        lengths = values.list.len()
        found.update(lengths.to_numpy().astype("<i8").tobytes())
        _digest_values(found, values.filter(lengths > 0).explode())
    elif series.dtype == pl.Float64:
        found.update(values.to_numpy().astype("<f8").tobytes())
    elif series.dtype == pl.Int64:
        found.update(values.to_numpy().astype("<i8").tobytes())
    else:
        found.update(json.dumps(values.to_list(), default=str).encode())


def table_bytes(frame: pl.DataFrame) -> bytes:
    """A table as a parquet file that carries the digest of its content."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", row_group_size=GROUP, metadata={KEY: content_digest(frame)})
    return buffer.getvalue()


def write(frame: pl.DataFrame, file: Path) -> None:
    """Writes a table and enters it in the list beside it. After a crash the table is the old one or the new one.

    Raises:
        RunError: it cannot be written.
        DamagedError: the list is damaged.
    """
    content = table_bytes(frame)
    with storage.explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(file.parent):
        _enter(file, content)


def _enter(file: Path, content: bytes) -> None:
    """Replaces a table's file and its entry in the list. Until the new file stands, the list has both."""
    listed = _listed(file.parent)
    sha256 = storage.digest(content)
    _write_list(file.parent, {**listed, file.name: [*listed.get(file.name, [])[-1:], sha256]})
    storage.write_bytes(file, content)
    _write_list(file.parent, {**listed, file.name: [sha256]})


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Waits until no other process of this machine changes the list of a folder."""
    with storage.explained(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        # A file system without locks is assumed to have one writer.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write_list(folder: Path, tables: dict[str, list[str]]) -> None:
    storage.write_bytes(folder / LIST, storage.sealed({"tables": tables}))


def _listed(folder: Path) -> dict[str, list[str]]:
    """SHA-256 of the bytes that each listed table may have; empty where there is no list.

    Raises:
        DamagedError: the list is not what was written.
    """
    if not (folder / LIST).exists():
        return {}
    remedy = f"It is the list of the tables beside it: restore it. {seal_command(folder)}"
    found = storage.read_sealed(folder / LIST, remedy).get("tables")
    if not isinstance(found, dict) or not all(isinstance(sums, list) for sums in found.values()):
        raise DamagedError(folder / LIST, remedy)
    return found


def is_listed(file: Path) -> bool:
    """Whether the list beside a table names it. Raises DamagedError."""
    return file.name in _listed(file.parent)


def forget_damaged_list(folder: Path) -> bool:
    """Removes a damaged list, and returns whether there was one."""
    try:
        _listed(folder)
    except DamagedError:
        (folder / LIST).unlink()
        return True
    return False


def read(file: Path) -> pl.DataFrame:
    """A table that `write` wrote, checked.

    Raises:
        RunContentError: there is none, or it is not sealed.
        DamagedError: it is not what was written, or it is no table at all.
    """
    for look in range(LOOKS):
        allowed = _listed(file.parent).get(file.name)
        try:
            content = storage.read_file(file)
        except OSError as error:
            problem = f"expected a table that can be read ({error.strerror or error}). `miclab study run` writes it."
            raise RunContentError(file, problem) from error
        if allowed is None:
            return _judged_by_itself(file, content)
        if storage.digest(content) in allowed:
            return parsed(file, content)
        # A writer may have been between the list and the table.
        if look + 1 < LOOKS and _listed(file.parent).get(file.name) == allowed:
            break
    raise DamagedError(
        file,
        f"It is not the table that {LIST} beside it names. Restore it from the repository, or make it again with"
        f" `miclab study run`. {seal_command(file.parent)}",
    )


def _judged_by_itself(file: Path, content: bytes) -> pl.DataFrame:
    """A table that no list names."""
    frame, known = parsed(file, content), own_digest(file, content)
    if not known:
        problem = f"it has no digest of its content: it is not checked. {seal_command(file.parent)}"
        raise RunContentError(file, problem)
    if content_digest(frame) != known:
        raise DamagedError(file, f"Its rows are not those of the digest in it. {seal_command(file.parent)}")
    return frame


def parsed(file: Path, content: bytes) -> pl.DataFrame:
    """A parquet file's table, unchecked.

    Raises:
        DamagedError: it is no parquet file, or breaks the reader.
    """
    with _parsing(file):
        return pl.read_parquet(io.BytesIO(content))


def own_digest(file: Path, content: bytes) -> str:
    """The digest that a parquet file carries; empty where it has none. Raises DamagedError as `parsed`."""
    with _parsing(file):
        return pl.read_parquet_metadata(io.BytesIO(content)).get(KEY, "")


@contextlib.contextmanager
def _parsing(file: Path) -> Iterator[None]:
    """Turns exceptions of polars, its panics included, into a DamagedError."""
    try:
        yield
    except (OSError, ValueError, MemoryError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).partition("\n")[0][:200]
        raise DamagedError(file, f"It cannot be read as a table ({reason}). {seal_command(file.parent)}") from error


def read_rows(file: Path) -> pl.DataFrame:
    """The rows of a study, from `.../rows/PRESET/STUDY.parquet`, checked.

    Raises:
        RunContentError: there are none, they are damaged or not sealed, or they are those of another study or preset.
    """
    frame = read(file)
    for column, name, what in (("study", file.stem, "study"), ("profile", file.parent.name, "preset")):
        found = frame[column].unique().drop_nulls() if column in frame.columns else ()
        others = sorted({str(one) for one in found} - {name})
        if others:
            raise RunContentError(
                file,
                f"it holds rows of the {what} {', '.join(map(repr, others))}, and its place says {name!r}. Move it to"
                " where it belongs.",
                f"column {column}",
            )
    return frame
