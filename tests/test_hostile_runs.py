"""Runs and studies' state of others: right checksums and wrong content are refused in words, and named in listings."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from mutations import IRREGULAR, mutated, survived
from tiny import tiny_config, tiny_mapping

from miclab import storage
from miclab.cli import main
from miclab.config import schema
from miclab.config.request import Request
from miclab.errors import ContentError, MiclabError
from miclab.runs.find import open_run
from miclab.runs.label import read_label
from miclab.runs.listing import entry
from miclab.runs.manifest import read_manifest
from miclab.studies import sealed_table, state
from miclab.studies.analyses import analysis_columns
from miclab.studies.lease import machine
from miclab.studies.plan import Plan, PlannedAnalysis
from miclab.studies.seal import check_rows
from miclab.studies.study import load_study
from miclab.studies.task import read_task, write_task
from miclab.training.loop import train_config

REQUEST = Request(steps=4, evaluate_every=2, checkpoint_every=2, sequences=4, novel_sets=1)
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two runs; the first is attacked, the other has to be listed all the same."""
    found = tmp_path_factory.mktemp("others")
    for seed in SEEDS:
        train_config(tiny_config(seed=seed), REQUEST, found)
    return found


def _first(root: Path) -> Path:
    return next(p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith("."))


def _attacked(root: Path, number: int) -> str:
    """Puts wrong content into the first run, with right checksums; what was done, in words."""
    source, run = random.Random(number), _first(root)
    manifest = json.loads((run / "manifest.json").read_bytes())["manifest"]
    rows = sorted(n for n in manifest["files"] if n.startswith("rows/"))[-1]
    name = source.choice(["manifest.json", "manifest.json", "config.json", rows, rows, "label.json", "weights"])
    if name == "manifest.json":
        manifest = mutated(manifest, source)
    elif name == "label.json":
        content = storage.json_bytes({"manifest": mutated({"name": "a", "tags": ["b"]}, source)})
        (run / name).write_bytes(content)
    else:
        if name == "weights":
            name = sorted(n for n in manifest["files"] if n.endswith(".safetensors"))[source.randrange(3)]
            content = bytearray((run / name).read_bytes())
            content[source.randrange(min(len(content), 300))] ^= 1 << source.randrange(8)
        elif name == "config.json":
            content = json.dumps(mutated(json.loads((run / name).read_bytes()), source)).encode()
        else:
            lines = (run / name).read_bytes().splitlines()
            content = json.dumps(mutated(json.loads(lines[-1]), source)).encode() + b"\n"
        (run / name).write_bytes(bytes(content))
        manifest["files"][name] = storage.digest(bytes(content))
    body = json.dumps(manifest, sort_keys=True) + "\n"
    sealed = {"manifest": manifest, "sha256": storage.digest(body.encode())}
    (run / "manifest.json").write_text(json.dumps(sealed, sort_keys=True) + "\n")
    return f"{number} {name}"


def _tables(root: Path, number: int, study: Path, plan: Plan) -> Iterator[Callable[[], Any]]:
    """Readers of what lies beside runs, each of wrong content: a stored analysis, a task, a sealed table."""
    source, run = random.Random(number), plan.runs[plan.members["t"][0]]
    task = Path(write_task(root, run, "x"))
    task.write_text(json.dumps(mutated(json.loads(task.read_bytes()), source)))
    yield lambda: read_task(str(task))
    folder = root / "rows" / "quick"
    folder.mkdir(parents=True)
    names = {"study": "t", "profile": "quick", "run": run.hash, "status": "finished", "reason": "", "config": "{}"}
    changed = mutated(names, source)
    columns = {name: [value] for name, value in (changed if isinstance(changed, dict) else names).items()}
    with contextlib.suppress(TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        sealed_table.write(pl.DataFrame(columns, strict=False), folder / "t.parquet")
        yield lambda: check_rows(folder / "t.parquet", sealed_table.read_rows(folder / "t.parquet"))


def _readers(root: Path) -> Iterator[Callable[[], Any]]:
    """Everything that reads the first run."""
    path = _first(root)
    yield lambda: read_manifest(path)
    for name in ("rows", "verify", "parameters", "world_tensors"):
        yield lambda name=name: getattr(open_run(path), name)()
    yield lambda: open_run(path).resume_state(lambda step: True)
    yield lambda: analysis_columns([PlannedAnalysis("ablation", 4, 4, 1)], open_run(path))
    yield lambda: entry(path)
    yield lambda: read_label(path, [])


@pytest.mark.parametrize("start", range(0, 200, 100))
def test_every_reader_raises_the_one_family(start, root, tmp_path):
    """Fails if a reader of a run, a task or a table raises anything but an error that names file and expectation."""
    study = load_study(_study(tmp_path), "quick")
    plan = Plan([study], "eager")
    stored = {"probe": "ablation", "step": 4, "values": {"": {"accuracy": 0.5, "sets": [0.5]}}}

    def cases() -> Iterator:
        for number in range(start, start + 100):
            here = tmp_path / str(number)
            shutil.copytree(root, here, ignore=shutil.ignore_patterns(".*"))
            source = random.Random(number)
            content = mutated(stored, source) if number % 2 else stored
            if isinstance(content, dict):
                open_run(_first(here)).save_analysis(4, "ablation.4x1", content)
            name = _attacked(here, number) if number % 4 != 1 else f"{number} analysis"
            for place, reader in enumerate((*_readers(here), *_tables(here, number, study, plan))):
                yield f"{name} {place}", reader
            shutil.rmtree(here)

    count, broken = survived(cases(), ContentError)
    assert not broken, f"{len(broken)} of {count}:\n" + "\n".join(broken)


def _commands(root: Path, study: Path) -> list[list[str]]:
    run = str(_first(root))
    place = ["--runs", str(root)]
    return [["runs", *place], ["show", run], ["evaluate", run, "--sequences", "4"],
            ["study", "status", str(study), *place]]  # fmt: skip


def _study(folder: Path) -> Path:
    data = {"title": "t", "stage": "unimodal", "config": tiny_mapping(1),
            "grid": [{"product": {"decoder.heads": [1, 2]}}],
            "profiles": {"quick": {"seeds": list(SEEDS), "request": schema.to_mapping(REQUEST)}}}  # fmt: skip
    (folder / "t.yaml").write_text(yaml.safe_dump(data))
    return folder / "t.yaml"


def _checked(arguments: list[str], capsys, listed: str = "") -> None:
    """Fails if a command raised, or gave another exit status, or left the good run out of a list."""
    status = main(arguments)
    printed = capsys.readouterr()
    assert status in (0, 1, 2), arguments
    assert "Traceback" not in printed.err
    if arguments[0] == "runs":
        assert status < 2
        assert listed in printed.out.replace("\n", "")


@pytest.mark.parametrize("start", range(0, 60, 30))
def test_wrong_content_with_right_checksums_is_refused_in_words(start, root, tmp_path, capsys):
    """Fails if a run of others breaks `runs` for all, or a command ends in a traceback."""
    study, good = _study(tmp_path), sorted(p.name for p in root.iterdir() if not p.name.startswith("."))[1]

    def cases() -> Iterator:
        for number in range(start, start + 30):
            here = tmp_path / str(number)
            shutil.copytree(root, here, ignore=shutil.ignore_patterns(".*"))
            name = _attacked(here, number)
            for command in _commands(here, study)[: 4 if number % 15 == 0 else 2]:
                yield f"{name} {command[0]}", lambda command=command: _checked(command, capsys, good[:20])
            shutil.rmtree(here)

    count, broken = survived(cases(), MiclabError)
    assert not broken, f"{len(broken)} of {count}:\n" + "\n".join(broken)


@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("file", ["manifest.json", "config.json", "rows", "label.json", "run"])
def test_what_is_no_file_is_refused_and_named(kind, file, root, tmp_path, capsys):
    """Fails if a fifo blocks, a device is read, a loop is followed, or a run that cannot be opened is not listed."""
    here = tmp_path / "runs"
    shutil.copytree(root, here, ignore=shutil.ignore_patterns(".*"))
    run = _first(here)
    target = run if file == "run" else sorted((run / file).iterdir())[-1] if file == "rows" else run / file
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    IRREGULAR[kind](target)
    status = main(["runs", "--runs", str(here), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in rows] == sorted(p.name for p in here.iterdir())
    assert rows[1]["status"] == "finished"
    if file not in ("label.json", "rows"):
        assert (status, rows[0]["status"]) == (1, "damaged")
        assert run.name in rows[0]["note"]


def test_a_run_without_its_manifest_is_listed_as_damaged(root, tmp_path, capsys):
    here = tmp_path / "runs"
    shutil.copytree(root, here, ignore=shutil.ignore_patterns(".*"))
    (_first(here) / "manifest.json").unlink()
    (here / "notes").mkdir()
    assert main(["runs", "--runs", str(here), "--json"]) == 1
    assert [row["status"] for row in json.loads(capsys.readouterr().out)] == ["damaged", "finished"]


def test_a_directory_that_may_not_be_read_is_not_called_empty(monkeypatch, tmp_path, capsys):
    """Fails if `runs` or `study status` says that there is nothing, or ends in a traceback."""
    import os

    names = os.listdir
    here, study = tmp_path / "runs", _study(tmp_path)
    here.mkdir()

    def refuse(path="."):
        if Path(path) == here:
            raise PermissionError(13, "Permission denied", str(path))
        return names(path)

    monkeypatch.setattr(os, "listdir", refuse)
    for command in (["runs", "--runs", str(here)], ["study", "status", str(study), "--runs", str(here)]):
        assert main(command) == 2
        assert f"Cannot read {here}: Permission denied" in capsys.readouterr().err


def test_the_state_of_a_study_is_checked(root, tmp_path, capsys):
    """Fails if a lease, a mark of failure or a mode of others ends `study status` or `study plan` in a traceback."""
    study = _study(tmp_path)
    hashes = [json.loads((p / "manifest.json").read_bytes())["manifest"]["hash"] for p in sorted(root.iterdir())
              if not p.name.startswith(".")]  # fmt: skip
    contents = {
        "claims/{}.0": {"machine": machine(), "process": 1, "started": "1", "token": "t"},
        "failures/{}.json": {"run": hashes[0], "reason": "r", "traceback": "", "time": "t"},
        "mode.json": {"here": [], "mode": "eager"},
    }

    def cases() -> Iterator:
        for number in range(40):
            source = random.Random(number)
            here = tmp_path / str(number) / "runs"
            name = source.choice(list(contents))
            file = here / state.FOLDER / name.format(source.choice([hashes[0], "x", hashes[1]]))
            file.parent.mkdir(parents=True)
            if source.random() < 0.2:
                IRREGULAR[source.choice(list(IRREGULAR))](file)
            else:
                file.write_text(json.dumps(mutated(contents[name], source)))
            if source.random() < 0.3:
                (file.parent / source.choice(["a.b.c", "x.", "odd", f"{hashes[0]}.x", ".0"])).write_text("{")
            for words in ("status", "plan"):
                command = ["study", words, str(study), "--runs", str(here)]
                yield f"{number} {name} {words}", lambda command=command: _checked(command, capsys)

    count, broken = survived(cases(), MiclabError)
    assert not broken, f"{len(broken)} of {count}:\n" + "\n".join(broken)
