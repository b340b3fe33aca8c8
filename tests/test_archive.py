"""The archive of rows: it is whole, has the same bytes each time, and every column of every table is explained."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import polars as pl
from claims_rows import STUDIES
from pages_of_docs import ROOT

from miclab.config.axes import default_of
from miclab.errors import ConfigError
from scripts.archive_rows import content, write

TABLES = sorted(STUDIES.glob("rows/*/*.parquet"))
LINE = re.compile(r"^\| (`[^|]+`) \| (\S+) \|", re.M)


def explained() -> list[tuple[re.Pattern[str], str]]:
    """A pattern of names and a type for each column that the page explains."""
    found = []
    for names, kind in LINE.findall((ROOT / "docs/reference/rows.md").read_text()):
        for name in re.findall(r"`([^`]+)`", names):
            parts = [re.escape(part) for part in re.split(r"[A-Z]{2,}", name)]
            found.append((re.compile(r"[\w .:+-]+".join(parts)), kind))
    return found


@contextmanager
def suppress_whole(name: str) -> Iterator[None]:
    """Lets the refusal of a whole part of the configuration pass."""
    try:
        yield
    except ConfigError as error:
        if f"not {name} as a whole" not in str(error):
            raise


def test_every_column_of_every_table_is_explained_with_its_type():
    """Fails if a table has a column, or a type of one, that the page does not name."""
    patterns, unknown = explained(), set()
    assert len(patterns) > 20
    for file in TABLES:
        for name, kind in pl.read_parquet_schema(file).items():
            first = next((said for pattern, said in patterns if pattern.fullmatch(name)), "")
            sets = name.endswith((".sets", "_sets"))
            if not first or (first not in (str(kind), "any") and not sets) or (sets and str(kind) != "List(Float64)"):
                unknown.add((name, str(kind)))
            if first == "any" and not name.startswith(("parent.", "request.")):
                # A field of the configuration, or a part with fields of its own as JSON. All else is refused by name.
                with nullcontext() if kind != pl.String else suppress_whole(name):
                    default_of(name)
    assert unknown == set()


def test_the_archive_is_whole_and_has_the_same_bytes_each_time(tmp_path):
    """Fails if a table is missing or changed, or the bytes depend on the time or the order of files."""
    files = content()
    write(tmp_path / "a.zip", files)
    write(tmp_path / "b.zip", dict(reversed(files.items())))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        sums = archive.read("miclab-rows/SHA256SUMS").decode().splitlines()
        listed = {name: total for total, name in (line.split("  ") for line in sums)}
        assert {f"miclab-rows/{name}" for name in listed} | {"miclab-rows/SHA256SUMS"} == set(archive.namelist())
        for table in TABLES:
            name = str(table.relative_to(ROOT))
            read = archive.read(f"miclab-rows/{name}")
            assert read == table.read_bytes()
            assert listed[name] == hashlib.sha256(read).hexdigest()
