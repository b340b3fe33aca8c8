"""A run's directory: found by name or hash, written whole or not at all, and refused where it cannot be trusted."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_config

from miclab import storage
from miclab.config import schema
from miclab.config.request import Request
from miclab.errors import ConfigError, DamagedError, RunError
from miclab.runs import find as runs
from miclab.training.loop import prepared, train, train_config
from miclab.worlds.world import draw_world

CONFIG = tiny_config()
REQUEST = Request(steps=6, evaluate_every=2, checkpoint_every=2, sequences=4, novel_sets=1)


def created(root: Path) -> runs.Run:
    return runs.create(root, CONFIG, draw_world(CONFIG).tensors())


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_run_is_found_by_path_name_and_their_starts(tmp_path):
    """The ways in which the command line may name a run mean the same one."""
    run = created(tmp_path)
    for reference in (str(run.path), run.path.name, run.path.name[:-3], "uni", run.hash, run.hash[:5]):
        assert runs.find(reference, tmp_path).path == run.path
    assert runs.list_runs(tmp_path) == [run.path]


def test_a_name_is_its_own_run_though_another_name_begins_so(tmp_path):
    """A directory may have been given a name by hand."""
    run = created(tmp_path)
    short = run.path.rename(tmp_path / "first")
    longer = created(tmp_path).path.rename(tmp_path / "first-again")
    assert [runs.find(name, tmp_path).path for name in ("first", "first-", "first-again")] == [short, longer, longer]


def test_a_reference_that_names_no_run_or_several_is_refused(tmp_path):
    """The message says which are meant, at most five of them."""
    with pytest.raises(RunError, match=r"'unimodal' names no run: there is none yet .*`miclab train` makes one"):
        runs.find("unimodal", tmp_path)
    first = created(tmp_path)
    with pytest.raises(RunError, match=rf"names no run under .*Did you mean {first.path.name}\?"):
        runs.find(first.path.name + "x", tmp_path)
    for seed in range(1, 7):
        other = replace(CONFIG, seed=seed)
        runs.create(tmp_path, other, draw_world(other).tensors())
    for reference, shown in (("unimodal-", "of 7 runs"), ("", "names no run"), ("nothing", "names no run")):
        with pytest.raises(RunError, match=shown) as caught:
            runs.find(reference, tmp_path)
        assert str(caught.value).count("unimodal-rope-") == runs.CANDIDATES
        assert "and 2 more" in str(caught.value)


def test_two_creations_at_once_give_one_directory(tmp_path):
    """Whoever comes second takes the first one's directory, and nothing half-written stays."""
    tensors, start, made, failed = draw_world(CONFIG).tensors(), threading.Barrier(8), [], []

    def work() -> None:
        start.wait()
        try:
            made.append(runs.create(tmp_path, CONFIG, tensors).hash)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert made == [schema.trajectory_hash(CONFIG)] * 8
    assert [path.name for path in tmp_path.iterdir()] == [runs.run_name(CONFIG)]


def test_a_creation_that_was_killed_leaves_nothing_once_the_run_is_made(tmp_path):
    """The next process cannot know the name that the killed one had chosen."""
    leftover = tmp_path / f".{runs.run_name(CONFIG)}.new" / "0123456789ab"
    leftover.mkdir(parents=True)
    (leftover / "world.safetensors").write_bytes(b"half")
    created(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [runs.run_name(CONFIG)]


def test_making_a_run_lists_no_directory_of_runs(tmp_path, monkeypatch):
    """Fails if the cost of a run grows with the number of the others."""
    listed: list[str] = []
    for name in ("listdir", "scandir"):
        old = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path=".", old=old: listed.append(str(path)) or old(path))
    created(tmp_path)
    assert str(tmp_path) not in listed


def test_half_written_files_go_and_other_peoples_files_stay(tmp_path):
    """Users put notes and reports beside a run's files; only names that are ours are cleared away."""
    run = created(tmp_path)
    ours = [run.path / "checkpoints" / "000000009.safetensors", run.path / ".manifest.json.0123456789ab.tmp"]
    theirs = [run.path / "report.html", run.path / "notes" / "rows.txt"]
    for file in (*ours, *theirs):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"content")
    with run.locked():
        assert [file.exists() for file in ours] == [False, False]
    assert [file.exists() for file in theirs] == [True, True]


def test_a_running_run_is_refused_to_a_second_one(tmp_path):
    """The lock is requested through another handle, as another process would."""
    run = created(tmp_path)
    before = contents(run.path)
    with run.locked(), pytest.raises(RunError, match="is being trained by another process"):
        train(runs.open_run(run.path), REQUEST)
    assert {**contents(run.path), "lock": b""} == {**before, "lock": b""}
    with runs.open_run(run.path).locked():
        pass


@pytest.mark.parametrize("name", ["config.json", "world.safetensors", "manifest.json"])
def test_a_run_without_a_whole_base_is_refused_and_the_file_is_named(tmp_path, name):
    """Flipped bytes are tried in tests/test_resume.py; here the file has lost its end."""
    path = created(tmp_path).path
    (path / name).write_bytes((path / name).read_bytes()[:-1])
    with pytest.raises(DamagedError, match=rf"{path / name} is damaged.*delete it and train again"):
        runs.open_run(path)


def test_another_format_is_refused(tmp_path):
    """A manifest that is whole but of a later version says so, instead of being called damaged."""
    path = created(tmp_path).path
    manifest = json.loads((path / "manifest.json").read_bytes())["manifest"]
    (path / "manifest.json").write_bytes(storage.sealed({**manifest, "format": 99}))
    with pytest.raises(RunError, match="format: expected format 1, which this version of miclab reads, found 99"):
        runs.open_run(path)


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    """The allowed values of --step."""
    run, _ = train_config(CONFIG, REQUEST, tmp_path)
    assert run.checkpoints == [0, 1, 2, 4, 6]
    with pytest.raises(ConfigError, match=r"step = 3 is not possible.*\[0, 1, 2, 4, 6\]"):
        run.parameters(3)


@pytest.mark.parametrize("at", [1, 3, 5, 7])
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, at):
    """The disk is full at the n-th sync of the third checkpoint: weights, optimiser, rows and manifest, two each."""
    reference, _ = train_config(CONFIG, REQUEST, tmp_path / "reference")
    run = prepared(CONFIG, tmp_path / "full").run
    save, sync, calls = runs.Run.save_checkpoint, os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    def save_on_full_disk(self, step, *arguments):
        if step == 2:
            monkeypatch.setattr(os, "fsync", full)
        save(self, step, *arguments)

    monkeypatch.setattr(runs.Run, "save_checkpoint", save_on_full_disk)
    with pytest.raises(RunError, match=r"Cannot write .*No space left on device.*Free some space.*miclab resume"):
        train(run, REQUEST)
    monkeypatch.undo()
    left = runs.open_run(run.path)
    assert left.verify() == []
    assert left.checkpoints == [0, 1]
    assert not list(run.path.rglob(storage.TEMPORARY))
    assert train(left, REQUEST).status == "finished"
    assert _same(left.path, reference.path)


def _same(one: Path, other: Path) -> bool:
    """Whether two runs are equal but for the times in their manifests."""
    files = [{n: c for n, c in contents(path).items() if n not in ("manifest.json", "lock")} for path in (one, other)]
    return files[0] == files[1]


def test_a_disk_that_is_really_full_loses_nothing(tmp_path):
    """The same on a file system of 48 kB, where one can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        with pytest.raises(RunError, match="No space left on device"):
            train_config(CONFIG, REQUEST, disk)
        run = runs.open_run(disk / runs.run_name(CONFIG))
        assert run.verify() == []
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert train(run, REQUEST).status == "finished"
        assert _same(run.path, train_config(CONFIG, REQUEST, tmp_path / "reference")[0].path)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_directory_below_a_file_is_refused(tmp_path):
    """The system's word for it, and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Cannot write .*Not a directory\. Choose another directory with --runs"):
        created(tmp_path / "file")


def test_a_directory_without_permission_is_refused(tmp_path, monkeypatch):
    """Tests may run as root, whom no permission stops: the refusal is the system's, simulated."""

    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match=r"Cannot write .*Permission denied\. Choose a directory that you may write to"):
        created(tmp_path)


def test_a_file_that_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch):
    """Or else a lost permission would make training forget good checkpoints."""
    run, _ = train_config(CONFIG, REQUEST, tmp_path)
    before, read = contents(run.path), storage.read_file

    def refuse(self: Path | str) -> bytes:
        if Path(self).name == "000000006.safetensors":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return read(self)

    monkeypatch.setattr(storage, "read_file", refuse)
    with pytest.raises(RunError, match=r"000000006\.safetensors: expected .* \(Permission denied\)") as caught:
        train(run, REQUEST)
    assert not isinstance(caught.value, DamagedError)
    monkeypatch.undo()
    assert contents(run.path) == before


def _names(file: Path) -> set[str]:
    """What a module imports, reaches through a dot, or gives as a keyword."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
        elif isinstance(node, ast.keyword) and ast.unparse(node) != "allow_pickle=False":
            names.add(str(node.arg))
    return names


def test_no_pickle_is_read_or_written(tmp_path):
    """A pickle runs code when it is read; safetensors and JSON do not."""
    forbidden = re.compile(
        r"(torch\.(load|save)|c?pickle|_pickle|dill|shelve|marshal|joblib\.load|np\.load|allow_pickle)\b"
    )
    example = tmp_path / "example.py"
    for line in ("import pickle", "from torch import load", "torch.load(file)", "read(file, allow_pickle=True)"):
        example.write_text(line)
        assert any(forbidden.match(name) for name in _names(example)), line
    sources = [*Path(runs.__file__).parents[1].rglob("*.py")]
    assert len(sources) > 30
    found = [(f.name, name) for f in sources for name in _names(f) if forbidden.match(name)]
    # One place reads NumPy's files, and each of its calls says that pickles are refused.
    [reader] = [f for f in sources if f.name == "vector_files.py"]
    calls = [n for n in ast.walk(ast.parse(reader.read_text())) if isinstance(n, ast.Call)]
    loads = [ast.unparse(n) for n in calls if ast.unparse(n.func) == "np.load"]
    assert loads
    assert all("allow_pickle=False" in load for load in loads)
    assert [one for one in found if one != ("vector_files.py", "np.load")] == []
