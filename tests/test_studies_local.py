"""Studies on this machine by real processes, from the command line; killed, stopped, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from tiny_study import REQUEST, Here, carry_out, contents, planned, tiny_study, write_study

from miclab.cli import main, usage
from miclab.runs.find import list_runs, open_run
from miclab.studies import mode, sealed_table, state
from miclab.studies.lease import started
from miclab.studies.rows import study_rows, table_file

LONG = {**REQUEST, "steps": 500, "evaluate_every": 50, "checkpoint_every": 250}
"""So long that no run ends before its process notices, within a second or two, what happened to the engine."""
PROFILES = {"quick": {"seeds": [0], "request": LONG}}


def start(file: Path, root: Path, *more: str) -> subprocess.Popen:
    """`miclab study run` in a process of its own."""
    requested = ("--runs", str(root), "--workers", "1", *more)
    command = [sys.executable, "-m", "miclab", "study", "run", str(file), *requested]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def steps(root: Path) -> int:
    """Steps of all runs together."""
    return sum(max(0, open_run(path).step) for path in list_runs(root))


@pytest.mark.slow
def test_a_study_whose_processes_are_killed_and_stopped_ends_with_the_bits_of_one_left_alone(tmp_path):
    """The engine is killed, then one of its workers, then the engine gets a SIGTERM; nothing is lost or repeated."""
    study = tiny_study(tmp_path, 2, profiles=PROFILES, probes=["ablation"])
    root = tmp_path / "runs"
    engine = start(study.file, root)
    wait_for(lambda: steps(root) >= 16)
    workers = [owner.process for owner in state.held(root).values()]
    engine.kill()
    engine.communicate()
    # Its workers notice, save a checkpoint, and end.
    wait_for(lambda: not any(started(worker) for worker in workers))
    before = steps(root)
    assert before >= 16
    assert all(open_run(path).verify() == [] for path in list_runs(root))

    engine = start(study.file, root)
    wait_for(lambda: state.held(root))
    os.kill(next(iter(state.held(root).values())).process, signal.SIGKILL)
    wait_for(lambda: steps(root) > before)
    engine.send_signal(signal.SIGTERM)
    _, message = engine.communicate(timeout=120)
    assert engine.returncode == 1, message
    assert "Traceback" not in message
    assert state.held(root) == {}

    engine = start(study.file, root, "--json")
    message, errors = engine.communicate(timeout=240)
    assert engine.returncode == 0, errors
    counts = {"done": 2, "failed": 0, "begun": 0, "new": 0}
    found = json.loads(message)["studies"]
    assert {name: sum(group[name] for group in found.values()) for name in counts} == counts
    carry_out(planned(study), tmp_path / "alone")
    assert contents(root) == contents(tmp_path / "alone")
    table = tmp_path / "rows/quick/tiny.parquet"
    assert sealed_table.read(table).equals(study_rows(study, planned(study), root))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A directory with a study of which one run is done and one failed, one is missing, and `one`, which is done."""
    folder = tmp_path_factory.mktemp("done")
    carry_out(planned(tiny_study(folder, name="one", profiles={"quick": {"seeds": [0]}})), folder / "runs")
    study = tiny_study(folder, profiles={"quick": {"seeds": [0, 1, 2]}})
    state.mark_failure(folder / "runs", list(planned(study).runs)[1], "no room")
    return folder


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main(["study", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_status_says_what_is_done_failed_and_left(done, capsys):
    common = (done / "tiny.yaml", done / "one.yaml", "--runs", done / "runs")
    status, out, _ = run(capsys, "status", *common)
    assert status == 0
    assert out.splitlines()[0] == "tiny: 3 runs: 1 done, 1 failed, 1 new"
    assert out.splitlines()[1] == "one: 1 runs: 1 done"
    assert out.splitlines()[2].endswith(": no room")
    message = json.loads(run(capsys, "status", *common, "--json")[1])
    assert message["studies"]["tiny"] == {"runs": 3, "done": 1, "failed": 1, "begun": 0, "new": 1, "running": 0,
                                       "in_committed_rows": 0}  # fmt: skip
    assert [failure["reason"] for failure in message["failures"]] == ["no room"]
    assert message["running"] == {}


def states_in(text: str) -> list[str]:
    """The states in the table of a plan, above the counts."""
    table = text[: text.index("tiny: ")]
    return [word for word in table.split() if word in ("done", "failed", "new")]


def test_plan_lists_the_runs_in_order_and_writes_nothing(done, capsys):
    before = sorted(done.rglob("*"))
    status, out, _ = run(capsys, "plan", done / "tiny.yaml", "--runs", done / "runs")
    assert status == 0
    assert states_in(out) == ["done", "failed", "new"]
    message = json.loads(run(capsys, "plan", done / "tiny.yaml", "--runs", done / "runs", "--json")[1])
    assert [(r["seed"], r["status"], r["step"], r["steps"]) for r in message] == [
        (0, "done", 4, 4), (1, "failed", -1, 4), (2, "new", -1, 4),
    ]  # fmt: skip
    status, out, _ = run(capsys, "plan", done / "tiny.yaml", "--runs", done / "runs", "--seeds", "0", "2")
    assert states_in(out) == ["done", "new"]
    assert "2 runs: 1 done, 1 new" in out
    _, out, _ = run(capsys, "status", done / "tiny.yaml", "--runs", done / "runs", "--seeds", "1")
    assert out.splitlines()[0] == "tiny: 1 runs: 1 failed"
    assert run(capsys, "plan", done / "tiny.yaml", "--runs", done / "none")[0] == 0
    assert sorted(done.rglob("*")) == before


def test_rows_go_to_the_screen_to_files_and_come_from_a_table_where_there_are_no_runs(done, capsys, tmp_path):
    common = ("rows", done / "tiny.yaml")
    status, out, _ = run(capsys, *common, "--runs", done / "runs")
    assert status == 0
    assert "finished" in out
    assert "failed" in out
    for ending, read in ((".parquet", pl.read_parquet), (".csv", pl.read_csv)):
        file = tmp_path / f"table{ending}"
        assert run(capsys, *common, "--runs", done / "runs", "--output", file)[0] == 0
        assert read(file)["step"].to_list() == [0, 1, 2, 4, None]
    message = json.loads(run(capsys, *common, "--runs", done / "runs", "--json")[1])
    assert [row["step"] for row in message] == [0, 1, 2, 4, None]
    status, _, errors = run(capsys, *common, "--runs", tmp_path / "none")
    assert status == 2
    assert "`miclab study run" in errors
    stored = done / "rows/quick/tiny.parquet"
    stored.parent.mkdir(parents=True)
    stored.write_bytes((tmp_path / "table.parquet").read_bytes())
    for more in (("--runs", tmp_path / "none"), ("--runs", done / "runs", "--stored")):
        assert json.loads(run(capsys, *common, "--json", *more)[1]) == message


def test_what_the_command_line_gets_wrong_is_said_without_a_traceback(done, capsys):
    assert run(capsys)[0] == 2
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert "run,status,plan,rows" in out
    assert "study" in usage()
    for arguments, message in (
        (("runs",), "did you mean 'run'?"),
        (("status",), "Name at least one study file"),
        (("run", done / "none.yaml"), "none.yaml"),
        (("plan", done / "tiny.yaml", "--preset", "paper"), "one that the study has: quick"),
    ):
        status, _, errors = run(capsys, *arguments)
        assert status == 2
        assert message in errors


def test_a_finished_study_needs_no_worker_and_a_failed_one_exits_with_1(done, capsys):
    status, out, _ = run(capsys, "run", done / "one.yaml", "--runs", done / "runs")
    assert (status, out) == (0, "one: 1 runs: 1 done\n")
    lonely = write_study(done, name="lonely", profiles={"quick": {"seeds": [1]}})
    status, out, _ = run(capsys, "run", lonely, "--runs", done / "runs")
    assert status == 1
    assert "failed: unimodal-rope-" in out


def test_the_seeds_that_are_requested_are_trained_and_the_table_keeps_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("miclab.cli.study._launcher", lambda options, root: Here())
    study = tiny_study(tmp_path, 2)
    for folder, seed, expected in (("one", "1", [1]), ("one", "0", [0, 1]), ("two", "1", [0, 1])):
        root = str(tmp_path / folder)
        assert main(["study", "run", str(study.file), "--runs", root, "--seeds", seed]) == 0
        assert "tiny: 1 runs: 1 done" in capsys.readouterr().out
        assert sorted(sealed_table.read(table_file(study))["seed"].unique()) == expected
    assert len(list_runs(tmp_path / "two")) == 2
    assert main(["study", "run", str(study.file), "--runs", root, "--seeds", "7"]) == 2
    assert "0, 1" in capsys.readouterr().err


def test_the_numeric_mode_is_found_out_once_for_a_directory_of_runs(tmp_path, monkeypatch):
    from miclab.training import numerics

    requested: list[int] = []
    monkeypatch.setattr(numerics, "why_not_compiled", lambda: requested.append(1) or "no compiler")
    assert [mode.long_mode(tmp_path), mode.long_mode(tmp_path)] == ["eager", "eager"]
    assert len(requested) == 1
    monkeypatch.setattr(mode, "_fingerprint", lambda: ["another compiler"])
    monkeypatch.setattr(numerics, "why_not_compiled", lambda: "")
    assert mode.long_mode(tmp_path) == "compiled"
