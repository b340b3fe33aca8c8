"""Rows are the ones that were sealed: a flipped bit, another table or none of the seals is noticed where rows are read.
So it is for the data that come with miclab."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import polars as pl
import pytest

from miclab import storage
from miclab.claims.evidence import Evidence
from miclab.data.shipped import FILES, Folder
from miclab.errors import DamagedError, MiclabError
from miclab.studies import seal, sealed_table
from miclab.worlds import source_facts

STUDIES = Path(__file__).parents[1] / "studies"
TABLES = sorted((STUDIES / "rows").glob("*/*.parquet"))


@pytest.fixture
def studies(tmp_path) -> Path:
    """A copy of the studies with their rows."""
    for file in STUDIES.glob("*.yaml"):
        shutil.copy(file, tmp_path)
    return Path(shutil.copytree(STUDIES / "rows", tmp_path / "rows")).parent


def flipped(content: bytes, chance: random.Random) -> bytes:
    """With one bit turned."""
    found = bytearray(content)
    found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    return bytes(found)


def test_every_committed_table_is_sealed(studies):
    """Fails if a table was replaced and not sealed: `python -m scripts.seal` does it."""
    for file in TABLES:
        assert sealed_table.is_listed(file), f"{file} is not sealed: python -m scripts.seal"
        frame = sealed_table.read_rows(file)
        (studies / "rows" / file.parent.name / sealed_table.LIST).unlink(missing_ok=True)
        seal.check_rows(file, frame)
    # Each also stands without its list.
    for file in TABLES[::7]:
        assert sealed_table.read(studies / "rows" / file.parent.name / file.name).equals(sealed_table.read(file))


def test_a_flipped_bit_of_a_table_or_its_list_is_noticed(studies):
    """In tables with their list, and in those that travel alone, where a flip is either noticed or changes no value."""
    chance = random.Random(0)
    for _ in range(100):
        source = chance.choice(TABLES)
        file = studies / source.relative_to(STUDIES)
        file.write_bytes(flipped(source.read_bytes(), chance))
        with pytest.raises(DamagedError, match=file.name):
            Evidence(studies, file.parent.name).rows(file.stem)
        shutil.copy(source, file)
    small = min(TABLES, key=lambda path: path.stat().st_size)
    wanted = sealed_table.read(small)
    alone = studies / small.name
    changed = 0
    for _ in range(120):
        alone.write_bytes(flipped(small.read_bytes(), chance))
        try:
            assert sealed_table.read(alone).equals(wanted)
        except MiclabError:
            changed += 1
    assert changed > 60
    listed = studies / "rows" / "quick" / sealed_table.LIST
    content = listed.read_bytes()
    for _ in range(50):
        listed.write_bytes(flipped(content, chance))
        with pytest.raises(DamagedError, match=r"tables\.json"):
            Evidence(studies, "quick").rows("noise")


def test_a_table_in_the_place_of_another_is_noticed(studies):
    """Every table in the place of two others: with the list, and without it by the study that its rows name."""
    quick = [path for path in TABLES if path.parent.name == "quick"]
    for listed in (True, False):
        if not listed:
            (studies / "rows/quick" / sealed_table.LIST).unlink()
        for place in quick[::32]:
            for other in quick:
                if other != place:
                    shutil.copy(other, studies / "rows/quick" / place.name)
                    with pytest.raises(MiclabError, match=place.name):
                        Evidence(studies, "quick").rows(place.stem)
            shutil.copy(place, studies / "rows/quick" / place.name)


def test_a_table_without_a_digest_is_refused_with_the_command_that_seals_it(studies):
    """As an older writer leaves it; sealed, its rows are read."""
    file = studies / "rows/quick/noise.parquet"
    frame = sealed_table.read(file)
    for listed in (True, False):
        frame.write_parquet(file, compression="zstd")
        if not listed:
            (file.parent / sealed_table.LIST).unlink()
        with pytest.raises(MiclabError, match=r"python -m miclab\.studies\.seal"):
            Evidence(studies, "quick").rows("noise")
        assert seal.main([str(studies / "rows")]) == 0
        assert sealed_table.read_rows(file).equals(frame)
        assert seal.seal(file) == "is sealed already"


def test_what_cannot_be_right_is_not_sealed(studies, capsys):
    """Rows of another study, of a run that has another configuration, of a table that is damaged."""
    file, other = (studies / "rows/quick" / f"{name}.parquet" for name in ("noise", "zipf"))
    frame = sealed_table.read(file)
    swapped = frame.with_columns(run=pl.col("run").reverse())
    for content in (other.read_bytes(), sealed_table.table_bytes(swapped), b"", b"PAR1" * 9):
        file.write_bytes(content)
        assert seal.main([str(file.parent)]) == 2
        assert "noise.parquet" in capsys.readouterr().err
        with pytest.raises(MiclabError):
            sealed_table.read(file)


def test_a_writer_that_is_killed_leaves_a_table_that_can_be_read(tmp_path, monkeypatch):
    """After any of its three writings."""
    first, second = pl.DataFrame({"a": [1, 2]}), pl.DataFrame({"a": [3]})
    file = tmp_path / "t.parquet"
    real = storage.write_bytes
    for last in range(4):
        sealed_table.write(first, file)
        written = 0

        def write(path, content, last=last):
            nonlocal written
            if written == last:
                raise KeyboardInterrupt
            written += 1
            return real(path, content)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "write_bytes", write)
            if last < 3:
                with pytest.raises(KeyboardInterrupt):
                    sealed_table.write(second, file)
            else:
                sealed_table.write(second, file)
        assert sealed_table.read(file).equals(first if last < 2 else second)


@pytest.mark.parametrize(
    "values",
    [[1.0, 2.0], [1.0, None], [1, 2], ["a", "bc"], ["ab", "c"], ["", "abc"], [None, "abc"], [True, False], [None, None],
     [[1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0]], [[], [1.0, 2.0, 3.0]], [None, [1.0, 2.0, 3.0]], [[None], [1.0]],
     [[1.0], [None]], [float("nan"), 1.0], [0.0, 1.0], [-0.0, 1.0]],
)  # fmt: skip
def test_different_content_has_another_digest(values):
    """Values that lie alike in a row of bytes, but belong to other rows, are different content."""
    known = test_different_content_has_another_digest.__dict__.setdefault("known", {})
    found = sealed_table.content_digest(pl.DataFrame({"x": values}))
    assert known.setdefault(found, repr(values)) == repr(values)
    stored = sealed_table.parsed(Path("x"), sealed_table.table_bytes(pl.DataFrame({"x": values})))
    assert sealed_table.content_digest(stored) == found


def test_a_flipped_bit_of_what_comes_with_miclab_is_noticed(tmp_path, monkeypatch):
    """Facts of the sources, manifests, and every other shipped file."""
    chance = random.Random(1)
    facts = source_facts.FACTS.read_bytes()
    monkeypatch.setattr(source_facts, "FACTS", tmp_path / "sources.json")
    for _ in range(120):
        (tmp_path / "sources.json").write_bytes(flipped(facts, chance))
        with pytest.raises(DamagedError, match=r"sources\.json"):
            source_facts._written.__wrapped__()
    for name in ("concepts", "glyphs"):
        shutil.copytree(FILES / name, tmp_path / name)
        for file in sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()):
            content = file.read_bytes()
            for _ in range(3):
                file.write_bytes(flipped(content, chance))
                with pytest.raises(DamagedError, match=file.name):
                    Folder(tmp_path / name).read(file.relative_to(tmp_path / name).as_posix())
            file.write_bytes(content)
        assert Folder(tmp_path / name).damaged() == []
