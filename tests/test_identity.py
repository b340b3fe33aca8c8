"""A run is the one that its name, its hash and its configuration say; what is written and deleted lies in it."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_config

from miclab import storage
from miclab.config import schema
from miclab.config.parts import ParentConfig
from miclab.config.request import Request
from miclab.errors import MistakenError, RunError
from miclab.runs import find as runs
from miclab.runs.folder import OWN, PARTS
from miclab.studies import state
from miclab.studies.plan import PlannedRun
from miclab.studies.task import read_task, tasks_folder, write_task
from miclab.training.lineage import Lineage
from miclab.training.loop import prepared, train, train_config
from miclab.worlds.world import draw_world

REQUEST = Request(steps=6, evaluate_every=2, checkpoint_every=2, sequences=4, novel_sets=1)
COUNT = 6


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> list[runs.Run]:
    """Runs that differ in the seed alone."""
    root = tmp_path_factory.mktemp("several")
    configs = [tiny_config(seed=seed) for seed in range(COUNT)]
    return [runs.create(root, config, draw_world(config).tensors()) for config in configs]


def planned(run: runs.Run) -> PlannedRun:
    return PlannedRun(hash=run.hash, name=run.path.name, seed=run.config.seed, parent="", point=run.config,
                      request=REQUEST)  # fmt: skip


def child_of(run: runs.Run):
    return replace(tiny_config(2), parent=ParentConfig(run=run.hash, step=2))


DOORS = {
    "path": lambda root, run: runs.open_run(root / run.path.name),
    "reference": lambda root, run: runs.find(str(root / run.path.name)),
    "name": lambda root, run: runs.find(run.path.name, root),
    "hash": lambda root, run: runs.find(run.hash, root),
    "start of a hash": lambda root, run: runs.find(run.hash[:8], root),
    "glance": lambda root, run: runs.glance(root, run.path.name, run.config),
    "making": lambda root, run: runs.create(root, run.config, {}),
    "lineage": lambda root, run: Lineage.resolve(child_of(run), root),
}
"""Every way to open a run that is meant."""


def test_a_directory_under_the_name_of_another_run_is_never_taken_for_it(several, tmp_path):
    """Every ordered pair of runs, by every door."""
    for one, other in itertools.permutations(several, 2):
        shutil.copytree(one.path, tmp_path / other.path.name)
        for door in DOORS.values():
            with pytest.raises(MistakenError, match=f"{one.hash}, and not {other.path.name}"):
                door(tmp_path, other)
        assert state.look(planned(other), tmp_path).status == "failed"
        shutil.rmtree(tmp_path / other.path.name)


def test_a_run_whose_configuration_is_that_of_another_is_refused(several, tmp_path):
    """Also where every checksum is right."""
    for one, other in itertools.permutations(several, 2):
        place = Path(shutil.copytree(one.path, tmp_path / "copy"))
        manifest = storage.read_sealed(place / "manifest.json", "")
        manifest["files"]["config.json"] = storage.write_bytes(
            place / "config.json", (other.path / "config.json").read_bytes()
        )
        storage.write_bytes(place / "manifest.json", storage.sealed(manifest))
        with pytest.raises(MistakenError, match=f"{other.hash}, and not {one.hash}"):
            runs.open_run(place)
        shutil.rmtree(place)


def test_a_copy_under_a_name_that_says_nothing_opens(several, tmp_path):
    one = several[0]
    shutil.copytree(one.path, tmp_path / "copy")
    (tmp_path / "link").symlink_to(one.path)
    assert [runs.open_run(tmp_path / name).hash for name in ("copy", "link")] == [one.hash, one.hash]


def test_tasks_and_marks_of_another_run_are_not_taken(several, tmp_path):
    for one, other in itertools.pairwise(several):
        file = write_task(tmp_path, planned(one), "engine")
        assert read_task(str(file))[1].config == one.config
        moved = file.rename(tasks_folder(tmp_path) / f"{other.hash}.engine.json")
        with pytest.raises(MistakenError):
            read_task(str(moved))
        state.mark_failure(tmp_path, planned(one), "no luck")
        state.failure_file(tmp_path, one.hash).rename(state.failure_file(tmp_path, other.hash))
        assert "another run" in state.failure_reason(tmp_path, other.hash)


NAMES = [
    "notes.safetensors", "1.safetensors", "00000002.safetensors", "000000002.safetensors.bak", "best.safetensors",
    "000000002.jsonl", "log.jsonl", "000000002.jsonl.gz", "x.json", "000000002.json", ".cache.tmp", ".hidden.0.tmp",
    ".000000002.safetensors.zzzzzzzzzzzz.tmp", "000000002.optimizer.safetensors", "model-00001-of-2.safetensors",
]  # fmt: skip


def strangers(run: Path) -> list[Path]:
    """Files of others: every name that is none of ours in every directory of a run."""
    found = [run / part / name for part in ("", "other", *PARTS) for name in NAMES]
    return [path for path in found if not OWN.fullmatch(path.relative_to(run).as_posix())]


def test_only_names_that_are_written_here_are_deleted(tmp_path):
    """Fails if a file of somebody else is deleted, or one of ours that the manifest does not name is left."""
    run, _ = train_config(tiny_config(), REQUEST, tmp_path)
    theirs = strangers(run.path)
    own = [run.path / name for name in (
        "checkpoints/000000009.safetensors", "checkpoints/000000009.optimiser.safetensors", "rows/000000009.jsonl",
        "analyses/000000009.context.8.3x2.json", ".manifest.json.0123456789ab.tmp",
        "rows/.000000009.jsonl.0123456789ab.tmp",
    )]  # fmt: skip
    for path in (*theirs, *own):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert len(theirs) > 60
    train(runs.open_run(run.path), replace(REQUEST, steps=8))
    assert [path for path in theirs if not path.exists()] == []
    assert [path for path in own if path.exists()] == []


@pytest.mark.parametrize("part", PARTS)
def test_nothing_is_written_or_deleted_through_a_directory_that_leads_out(part, tmp_path):
    run, _ = train_config(tiny_config(), REQUEST, tmp_path / "runs")
    outside = tmp_path / "outside"
    if (run.path / part).exists():
        shutil.move(run.path / part, outside)
    outside.mkdir(exist_ok=True)
    for name in ("000000009.safetensors", "000000009.jsonl", "000000009.a.json", ".a.0123456789ab.tmp", *NAMES):
        (outside / name).write_bytes(b"x")
    (run.path / part).symlink_to(outside)
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    left = runs.open_run(run.path)
    assert left.rows() == run.rows()
    with pytest.raises(RunError, match=f"{part} is a link that leads out of the run"):
        train(left, replace(REQUEST, steps=8))
    with pytest.raises(RunError, match="leads out"):
        left.save_analysis(6, "a", {})
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == before


def test_a_run_that_is_moved_while_it_is_trained_goes_on_from_its_new_place_with_the_same_bits(tmp_path):
    """Before, at and after a checkpoint; what took its place is not touched, and nothing is made there again."""
    whole, _ = train_config(tiny_config(), REQUEST, tmp_path / "whole")
    for step, replaced in ((1, False), (2, False), (3, True), (5, False)):
        root = tmp_path / f"{step}-{replaced}"
        run = prepared(tiny_config(), root / "runs").run
        moved = root / "elsewhere"

        def move(progress, at=step, run=run, moved=moved, replaced=replaced) -> None:
            if progress.step == at:
                run.path.rename(moved)
                if replaced:
                    run.path.mkdir()

        with pytest.raises(RunError, match=r"was moved or removed while.*go on from there with `miclab resume`"):
            train(run, REQUEST, move)
        assert list(run.path.iterdir()) == [] if replaced else not run.path.exists()
        found = runs.open_run(moved)
        assert train(found, REQUEST).status == "finished"
        found = runs.open_run(moved)
        assert json.dumps(found.rows()) == json.dumps(whole.rows())
        wanted = whole.parameters()[1]
        assert all(value.equal(wanted[name]) for name, value in found.parameters()[1].items())


def test_the_hash_of_an_earlier_meaning_names_its_configuration(monkeypatch):
    config = tiny_config()
    old = schema.trajectory_hash(config)
    monkeypatch.setattr(schema, "SEMANTICS", schema.SEMANTICS + 1)
    assert schema.trajectory_hash(config) != old
    assert schema.names_trajectory(old, config)
    assert not schema.names_trajectory(old, tiny_config(seed=1))
