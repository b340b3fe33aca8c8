"""Full disks, places that may not be written and working directories that are gone, for every command that writes."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from test_hostile_runs import REQUEST, _study
from tiny import tiny_config

from miclab.cli import main
from miclab.config import schema
from miclab.training.loop import train_config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of files and /proc")
STUDIES = Path(__file__).parents[1] / "studies"
REFUSED = Path("/proc/miclab-refuses")
"""Nobody makes a directory here, not even who may do everything else."""


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes: as a full disk, wherever the file is and whoever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("places")
    (root / "c.yaml").write_text(yaml.safe_dump(schema.to_mapping(tiny_config(1))))
    _study(root)
    return train_config(tiny_config(1), REQUEST, root / "runs")[0].path


def command(name: str, run: Path, output: str) -> list[str]:
    root = run.parent.parent
    few = ["--request.steps", "4", "--request.sequences", "4", "--request.novel-sets", "1", "--seed", "7"]
    return {
        "train": ["train", "unimodal", "--config", str(root / "c.yaml"), *few, "--runs", output],
        "study run": ["study", "run", str(root / "t.yaml"), "--workers", "1", "--runs", output],
        "study rows": ["study", "rows", str(STUDIES / "noise.yaml"), "--stored", "--output", f"{output}/r.csv"],
        "report": ["report", str(run), "--output", f"{output}/r.html"],
        "figure": ["figure", "U1", "--output", output],
        "data show": ["data", "show", "glyphs", "--classes", "1", "--exemplars", "1", "--output", f"{output}/s.png"],
        "make-episodes": ["mllm", "make-episodes", f"{output}/task", "--data", "glyphs", "--episodes", "2"],
    }[name]


WRITERS = ("train", "study rows", "report", "figure", "data show", "make-episodes")


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


SIZES = [*((name, 0) for name in WRITERS), ("train", 200), ("train", 5000), ("data show", 200), ("make-episodes", 100)]


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_a_full_disk_ends_every_command_with_a_message(name, size, run, tmp_path, capsys):
    """Fails if a command raises, gives another status, says nothing, or leaves a file that is not whole."""
    before = files_below(run)
    with limited(size):
        status = main(command(name, run, str(tmp_path)))
    message = capsys.readouterr().err
    assert status == 2, message
    assert "File too large" in message
    left = [file for file in files_below(tmp_path) if not file.endswith("/lock")]
    assert all(0 < (tmp_path / file).stat().st_size <= size for file in left), left
    assert not [file for file in left if ".tmp" in file or "making" in file]
    assert [file for file in files_below(run) if "lock" not in file] == [file for file in before if "lock" not in file]


@pytest.mark.parametrize("name", [*WRITERS, "study run"])
def test_a_place_that_refuses_is_named(name, run, capsys):
    """Fails if a command raises, or does not name the place."""
    assert main(command(name, run, str(REFUSED))) == 2
    assert str(REFUSED) in capsys.readouterr().err


@pytest.mark.parametrize("name", [*WRITERS, "study run"])
def test_a_working_directory_that_is_gone_is_refused(name, run, tmp_path, monkeypatch, capsys):
    """Fails if a command ends in a traceback where no relative path can be resolved."""
    here = os.getcwd()
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    try:
        gone.rmdir()
        status = main(command(name, run, "out"))
    finally:
        os.chdir(here)
    assert status == 2
    assert capsys.readouterr().err.startswith("miclab: ")
    assert not gone.exists()
