"""Studies whose runs are trained as lanes: how they are put into groups, and that each is a run like any other."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_api import tiny_fields
from tiny_study import Here, carry_out, contents, tiny_study, write_study

import miclab
from benchmarks import lanes
from miclab.cli import main
from miclab.errors import ConfigError, RunError
from miclab.studies import state
from miclab.studies.group import Grouping, write_group
from miclab.studies.launchers import local
from miclab.studies.lease import reserve
from miclab.studies.mode import study_mode
from miclab.studies.plan import Plan
from miclab.studies.points import mode_of
from miclab.studies.task import is_group, perform, write_task
from miclab.training import numerics
from miclab.training.loop import train_config

ANY = {"config": {"numerics": {"mode": "auto"}, "decoder": {"layers": 1}}}


def grouped(path: str) -> int:
    """Runs of a task."""
    with open(path) as file:
        return len(json.load(file)["tasks"]) if is_group(path) else 1


class Counting(Here):
    """Notes how many runs each task has."""

    def __init__(self, work=perform):
        self.sizes: list[int] = []
        super().__init__(lambda path: (self.sizes.append(grouped(path)), work(path))[1])


def test_runs_of_equal_shapes_are_trained_as_groups_and_are_those_trained_by_hand(tmp_path):
    """Fails if points of other shapes share a group, a group is wider than said, or a run of it is another run."""
    grid = [{"product": {"modalities.m1.classes": [16, 32]}}, {"product": {"decoder.layers": [2]}}]
    study = tiny_study(tmp_path, grid=grid, **ANY)
    plan = Plan([study], study_mode(tmp_path, "3"))
    assert {(r.point.numerics.mode, r.point.numerics.lanes) for r in plan.runs.values()} == {("lanes", 3)}
    launcher = Counting()
    tally = carry_out(plan, tmp_path / "runs", launcher)
    assert {found.status for found in tally.states.values()} == {"done"}
    assert sorted(launcher.sizes) == [1, 2, 3]
    assert Plan([study], mode_of(next(iter(plan.runs.values())).point.numerics)).runs.keys() == plan.runs.keys()
    one = next(iter(plan.runs.values()))
    alone, _ = train_config(one.config, one.request, tmp_path / "alone")
    assert contents(tmp_path / "alone" / alone.path.name) == contents(tmp_path / "runs" / one.name)
    assert not list(state.leases_folder(tmp_path / "runs").iterdir())
    assert not list((tmp_path / "runs" / state.FOLDER / "tasks").iterdir())
    assert carry_out(plan, tmp_path / "runs", Counting()).steps == 0


def test_a_stage_two_run_grows_from_a_lane(tmp_path):
    """Fails if stage 1 of a study with lanes is no group, or its checkpoints do not serve."""
    plan = Plan([tiny_study(tmp_path, 2, **ANY)], study_mode(tmp_path, "auto"))
    launcher = Counting()
    tally = carry_out(plan, tmp_path / "runs", launcher)
    assert {found.status for found in tally.states.values()} == {"done"}
    assert launcher.sizes == [2, 2]
    assert {run.point.numerics.lanes for run in plan.runs.values()} == {8}
    assert [bool(run.parent) for run in plan.runs.values()].count(True) == 2


def test_a_run_that_fails_or_that_others_hold_leaves_the_rest_of_its_group_alone(tmp_path):
    """Fails if one run's mark, lease or divergence becomes that of its group."""
    wild = {"product": {"optimiser.learning_rate": [0.01, 1e38], "optimiser.name": ["sgd"]}}
    plan = Plan([tiny_study(tmp_path, grid=[wild], **ANY)], study_mode(tmp_path, "4"))
    root = (tmp_path / "runs").resolve()
    root.mkdir()
    runs = list(plan.runs.values())
    held = reserve(state.leases_folder(root), runs[0].hash)
    assert held is not None
    path = write_group(root, [str(write_task(root, run, "test")) for run in runs], "test")
    found = {one["run"]: one["status"] for one in json.loads(perform(path))}
    rates = {run.hash: run.point.optimiser.learning_rate for run in runs}
    assert found.pop(runs[0].hash) == "busy"
    assert found == {run.hash: "failed" if rates[run.hash] > 1 else "done" for run in runs[1:]}
    held.release()
    tally = carry_out(plan, root)
    assert [found.status for found in tally.states.values()].count("done") == 2


def test_what_may_be_one_group_and_what_lanes_are_refused(tmp_path):
    """Fails if runs of mode `eager` are grouped, or a number that is none is taken."""
    (run,) = Plan([tiny_study(tmp_path, profiles={"quick": {"seeds": [0]}})], "eager").runs.values()
    assert Grouping().key(run) is None
    lane = replace(run, point=replace(run.point, numerics=replace(run.point.numerics, mode="lanes", lanes=2)))
    other = replace(lane, seed=5)
    grouping = Grouping()
    assert grouping.key(lane) == grouping.key(other) is not None
    for number in ("0", "many", "-1", "1e3", "99999"):
        with pytest.raises(ConfigError, match=r"lanes = .*off, auto .*or 1 to 4096"):
            study_mode(tmp_path, number)


# -- commands -----------------------------------------------------------------------------------------------------
def test_a_study_of_device_auto_plans_the_runs_that_it_trains(tmp_path, monkeypatch):
    """Fails if the plan holds the word `auto`, which is in the hash of no run, so that no run is ever done."""
    study = tiny_study(tmp_path, config={"numerics": {"mode": "auto", "device": "auto"}, "decoder": {"layers": 1}})
    for mode in ("eager", "lanes:2"):
        plan = Plan([study], mode)
        assert {run.config.numerics.device for run in plan.runs.values()} == {"cpu"}
        tally = carry_out(plan, tmp_path / mode.partition(":")[0])
        assert {found.status for found in tally.states.values()} == {"done"}
    monkeypatch.setattr(numerics, "devices", lambda: ("cuda:0", "cpu"))
    assert {run.config.numerics.device for run in Plan([study], "eager").runs.values()} == {"cuda"}


def test_lanes_that_cannot_be_one_group_leave_nothing_behind(tmp_path):
    """Fails if what a user gives wrongly ends in a traceback, in directories of runs, or in words about another
    process."""
    fields = tiny_fields(1)
    for given, error, words in (
        ([0, 1], ConfigError, "a list of at least one mapping"),
        ({"seed": 0}, ConfigError, "a list of at least one mapping"),
        ([{"seed": 1}, {"seed": 2}, {"seed": 1}], RunError, "Lanes 0 and 2 are the same run"),
        ([{"seed": 0}, {"decoder.layers": 3}], RunError, "same shapes"),
    ):
        with pytest.raises(error, match=words):
            miclab.train_lanes(given, steps=1, runs=tmp_path / "runs", fields=fields)  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()


def test_a_study_runs_in_lanes_from_the_command_line(tmp_path, monkeypatch, capsys):
    """Fails if `--lanes` plans other runs in one command than in another, or a device that is here is refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "LocalLauncher", lambda workers: Here())
    write_study(tmp_path, **ANY)
    assert main(["study", "run", "tiny.yaml", "--lanes", "4"]) == 0
    capsys.readouterr()
    assert main(["study", "status", "tiny.yaml", "--lanes", "4", "--json"]) == 0
    (counts,) = json.loads(capsys.readouterr().out)["studies"].values()
    assert (counts["runs"], counts["done"]) == (2, 2)
    assert main(["study", "status", "tiny.yaml", "--json"]) == 0
    (counts,) = json.loads(capsys.readouterr().out)["studies"].values()
    assert (counts["runs"], counts["done"]) == (2, 0)
    few = {"steps": 1, "evaluate-every": 1, "checkpoint-every": 1, "sequences": 2, "novel-sets": 1}
    small = {f"request.{name}": value for name, value in few.items()}
    small |= {"modalities.m1.classes": 64, "decoder.layers": 1, "optimiser.batch-size": 4, "numerics.device": "auto"}
    options = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    assert main(["train", "unimodal", *options]) == 0


def test_lanes_in_python_are_runs_that_grow(tmp_path):
    """Fails if the function trains other runs than a study with lanes would, or stage 2 does not start from them."""
    fields = tiny_fields(1, numerics={"sampler": "device"})
    seen: list[tuple[int, int, int]] = []
    first = miclab.train_lanes(
        [{"seed": 1}, {"seed": 2, "modalities.m1.classes": 64}],
        steps=2, width=3, runs=tmp_path, fields=fields, on_progress=lambda *progress: seen.append(progress),
    )  # fmt: skip
    assert [(run.config.seed, run.config.numerics.lanes, run.step) for run in first] == [(1, 3, 2), (2, 3, 2)]
    assert sorted(seen) == [(place, step, 2) for place in range(2) for step in (1, 2)]
    grown = {"modalities.m2.classes": 16, "modalities.m2.labels": 4, "optimiser.batch_size": 4, "request.sequences": 2}
    second = miclab.train_lanes([{}, {}], "multimodal", steps=2, stage_one=first, runs=tmp_path, fields=grown)
    assert [run.config.parent.run for run in second] == [run.hash for run in first]
    with pytest.raises(ConfigError, match=r"stage_one.*one run for each lane"):
        miclab.train_lanes([{}], stage_one=first, runs=tmp_path)


def test_the_measurement_for_a_gpu_runs_on_a_cpu_and_goes_on_where_it_ended(tmp_path, capsys):
    """Fails if `make gpu` cannot run, or measures a cell again that it has."""
    output = tmp_path / "lanes.json"
    for numbers in (["1"], ["1", "2"]):
        arguments = ["--device", "cpu", "--seconds", "0.01", "--output", str(output), "--step", "eager"]
        arguments += ["--decoder", "rope", "--lanes", *numbers]
        assert lanes.main(arguments) == 0
    printed = capsys.readouterr().out
    assert (printed.count("1 lanes"), printed.count("2 lanes")) == (1, 1)
    for cell in json.loads(output.read_text())["cells"]:
        assert min(cell["run-steps per second"], cell["with drawing"]) > 0
        assert min(cell["share of arithmetic"], cell["share of memory"]) > 0
