"""Lanes, device and sampler of a study's runs, given beside its file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from claims_rows import studies_directory
from test_studies_lanes import Counting
from tiny_study import Here, carry_out, tiny_study, write_study

import miclab
from miclab.claims.evidence import identity_of
from miclab.cli import main
from miclab.cli.study_options import RunOptions
from miclab.cli.terminal import parse
from miclab.config import schema
from miclab.errors import ConfigError
from miclab.studies import state
from miclab.studies.launchers import local
from miclab.studies.mode import study_mode
from miclab.studies.numerics import StudyNumerics, check_devices, replaced_rows
from miclab.studies.plan import Plan
from miclab.studies.rows import table_file
from miclab.training import numerics

AUTO = {"config": {"numerics": {"mode": "auto"}, "decoder": {"layers": 1}}}
DEVICE_SAMPLER = StudyNumerics(lanes="2", sampler="device")


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """A launcher of one worker that counts the runs of its tasks, and a study in the current directory."""
    launcher = Counting()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "LocalLauncher", lambda workers: launcher)
    write_study(tmp_path, **AUTO)
    return launcher


def counts(capsys, *words: str) -> tuple[int, int]:
    """Runs of the study `tiny`, and how many of them are done."""
    capsys.readouterr()
    assert main(["study", "status", "tiny.yaml", "--json", *words]) == 0
    (found,) = json.loads(capsys.readouterr().out)["studies"].values()
    return found["runs"], found["done"]


def test_options_plan_the_runs_that_an_edited_file_would(tmp_path):
    """Fails if stage 1, a block or a parent with numerics of its own keeps another sampler."""
    own = {"grid": [{"config": {"numerics": {"sampler": "host", "threads": 2}}}, {}]}
    own["parent"] = {"config": {"numerics": {"sampler": "host"}}}  # type: ignore[assignment]
    edited = {"grid": [{"config": {"numerics": {"threads": 2}}}, {}]}
    config = {"numerics": {"mode": "auto", "sampler": "device"}, "decoder": {"layers": 1}}
    wanted = Plan([tiny_study(tmp_path, 2, "edited", config=config, **edited)], "lanes:2")
    given = Plan([DEVICE_SAMPLER.of(tiny_study(tmp_path, 2, **AUTO, **own))], DEVICE_SAMPLER.mode(tmp_path))
    assert given.runs.keys() == wanted.runs.keys()
    assert {run.point.numerics.sampler for run in given.runs.values()} == {"device"}
    assert {run.point.numerics.threads for run in given.runs.values()} == {1, 2}


def test_without_options_nothing_changes(tmp_path):
    """Fails if a study without other numerics becomes another object, and so might have other hashes."""
    study = tiny_study(tmp_path)
    assert StudyNumerics().of(study) is study
    assert StudyNumerics(lanes="4").of(study) is study
    assert StudyNumerics().warnings(Plan([study], "eager")) == []


@pytest.mark.parametrize(
    ("given", "axes", "words"),
    [
        ({"device": "gpu"}, {}, r"numerics.device = .gpu.*cpu, cuda"),
        ({"sampler": "devise"}, {}, r"sampler = .devise.*device"),
        ({"lane_step": "compild"}, {}, r"lane_step = .compild.*compiled"),
        ({"lanes": "some"}, {}, "lanes = .some"),
        ({"device": "mps", "sampler": "device"}, {}, "numerics.sampler = .device.*mps"),
        ({"sampler": "device"}, {"numerics.sampler": ["host", "device"]}, r"sampler = .device.*'study'.*as an axis"),
        ({"device": "cpu"}, {"numerics": [{"device": "cpu"}]}, r"device = .cpu.*numerics as an axis"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, given, axes, words):
    """Fails if a wrong value or one that fights with an axis is taken."""
    with pytest.raises(ConfigError, match=words):
        StudyNumerics(**given).of(tiny_study(tmp_path, grid=[{"product": axes}]))


def test_runs_with_another_sampler_are_the_same_configuration_of_a_claim(tmp_path):
    """Fails if evidence distinguishes runs by lanes, device or sampler, so that rows of a GPU decide nothing."""
    study = tiny_study(tmp_path, 2, **AUTO)
    plans = [Plan([study], "eager"), Plan([DEVICE_SAMPLER.of(study)], "lanes:2")]
    mappings = [[schema.to_mapping(plan.runs[i].config) for i in plan.members["tiny"]] for plan in plans]
    assert not plans[0].runs.keys() & plans[1].runs.keys()
    assert [*map(identity_of, mappings[0])] == [*map(identity_of, mappings[1])]


# -- lanes without effect -----------------------------------------------------------------------------------------
def test_lanes_without_effect_are_named(tmp_path):
    """Fails if a user pays for lanes that are not there without a word, or is warned of those that are."""
    four = StudyNumerics(lanes="4")

    def warned(**changes) -> list[str]:
        return four.warnings(Plan([tiny_study(tmp_path, **changes)], study_mode(tmp_path, "4")))

    (line,) = warned()
    assert "no effect on 2 of 2 runs" in line
    assert "numerics.mode eager" in line
    (line,) = warned(**AUTO, grid=[{"config": {"numerics": {"mode": "eager"}}}, {}])
    assert "no effect on 2 of 4 runs" in line
    (line,) = warned(**AUTO, profiles={"quick": {"seeds": [0]}}, grid=[{"product": {"decoder.layers": [1, 2]}}])
    assert "each of the 2 runs has shapes of its own" in line
    assert warned(**AUTO) == []
    # A file that gives all of its runs another mode keeps them, and the warning says why.
    both = StudyNumerics(lanes="4", lane_step="compiled")
    fixed = both.of(tiny_study(tmp_path, config={"numerics": {"mode": "eager"}}))
    (line,) = both.warnings(Plan([fixed], study_mode(tmp_path, "4")))
    assert "numerics.mode eager" in line
    step = StudyNumerics(lane_step="compiled")
    plans = [Plan([step.of(tiny_study(tmp_path, **AUTO))], mode) for mode in ("lanes:2", "eager")]
    assert [len(step.warnings(plan)) for plan in plans] == [0, 1]
    assert plans[1].runs.keys() == Plan([tiny_study(tmp_path, **AUTO)], "eager").runs.keys()
    assert not plans[0].runs.keys() & Plan([tiny_study(tmp_path, **AUTO)], "lanes:2").runs.keys()


# -- commands and Python ------------------------------------------------------------------------------------------
def test_every_command_of_a_study_takes_them(counting, capsys):
    """Fails if `plan` or `status` looks for other runs than `run` made."""
    words = ["--lanes", "2", "--sampler", "device", "--device", "cpu", "--lane-step", "eager"]
    assert main(["study", "run", "tiny.yaml", *words]) == 0
    assert counting.sizes == [2]
    assert counts(capsys, *words) == (2, 2)
    assert counts(capsys, *words[:2]) == (2, 0)
    assert main(["study", "plan", "tiny.yaml", "--json", *words]) == 0
    assert [row["status"] for row in json.loads(capsys.readouterr().out)] == ["done", "done"]
    assert main(["study", "rows", "tiny.yaml", "--json", *words]) == 0
    configs = [json.loads(row["config"])["numerics"] for row in json.loads(capsys.readouterr().out)]
    assert {(one["mode"], one["lanes"], one["sampler"]) for one in configs} == {("lanes", 2, "device")}
    with pytest.raises(SystemExit, match="2"):
        main(["study", "status", "tiny.yaml", "--sampler", "guest"])


def test_a_table_that_is_about_to_be_replaced_is_named(counting, capsys, tmp_path):
    """Fails if rows of other numerics disappear from a table without a word."""
    assert main(["study", "run", "tiny.yaml", "--lanes", "2"]) == 0
    assert "replaces them" not in capsys.readouterr().err
    assert main(["study", "run", "tiny.yaml", "--lanes", "2", "--sampler", "device"]) == 0
    assert "has 2 runs with other lanes, device, sampler or lane step" in capsys.readouterr().err
    study = DEVICE_SAMPLER.of(tiny_study(tmp_path, **AUTO))
    assert replaced_rows(study, Plan([study], "lanes:2")) == []
    assert table_file(study).exists()


def test_lanes_without_effect_are_named_by_the_commands(counting, capsys, tmp_path):
    """Fails if the warning is not printed, or is in the way of JSON."""
    write_study(tmp_path)
    for command in ("plan", "run"):
        assert main(["study", command, "tiny.yaml", "--lanes", "2", "--json"]) == 0
        printed = capsys.readouterr()
        assert "warning: --lanes has no effect on 2 of 2 runs" in printed.err
        json.loads(printed.out)


def test_a_study_in_python_takes_them(counting, tmp_path):
    """Fails if the function plans other runs than the command, or warns of nothing."""
    study = miclab.study(tmp_path / "tiny.yaml", lanes=2, sampler="device", device="auto")
    assert {row["status"] for row in study.run(tmp_path / "runs").as_json()} == {"done"}
    assert counting.sizes == [2]
    assert main(["study", "run", "tiny.yaml", "--lanes", "2", "--sampler", "device"]) == 0
    assert counting.sizes == [2]
    write_study(tmp_path, name="eager")
    with pytest.warns(UserWarning, match="--lanes has no effect"):
        miclab.study(tmp_path / "eager.yaml", lanes=2).run(tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"numerics\.device"):
        miclab.study(tmp_path / "tiny.yaml", device="gpu")
    with pytest.raises(ConfigError, match="lanes"):
        miclab.reproduce("U1", lanes="none", runs=tmp_path)


def test_reproduce_hands_them_to_its_studies(tmp_path, monkeypatch, capsys):
    """Fails if an option is lost on the way to the studies, or a wrong one is found out late."""
    directory, started = studies_directory(tmp_path), []
    monkeypatch.setattr("miclab.cli.study.run_study", lambda arguments: started.append(arguments) or 0)
    words = ["--lanes", "64", "--sampler", "device", "--device", "cuda"]
    assert main(["reproduce", "U3", "--studies", str(directory), *words]) == 0
    given = parse(RunOptions, "study run", started[0][1:])
    assert given.numerics == StudyNumerics("64", "cuda", "device")
    assert main(["reproduce", "U3", "--studies", str(directory), "--device", "gpu"]) == 2
    assert len(started) == 1


# -- devices that are not here ------------------------------------------------------------------------------------
def test_a_device_that_is_not_here_is_refused_before_a_run_is_marked(counting, capsys, tmp_path):
    """Fails if every run of the study is marked as failed instead."""
    if "cuda:0" in numerics.devices():
        pytest.skip("this machine has the device")
    assert main(["study", "run", "tiny.yaml", "--device", "cuda"]) == 2
    assert "a device of this machine, which are" in capsys.readouterr().err
    assert counting.sizes == []
    assert not (tmp_path / "runs" / state.FOLDER / "failures").exists()
    assert counts(capsys, "--device", "cuda") == (2, 0)


def test_a_step_that_nothing_compiles_is_refused_before_a_run_is_marked(counting, capsys, tmp_path, monkeypatch):
    """Fails if every run of the study is marked as failed instead."""
    monkeypatch.setattr(numerics, "why_not_compiled", lambda *device: "no C++ compiler was found")
    assert main(["study", "run", "tiny.yaml", "--lanes", "2", "--lane-step", "compiled"]) == 2
    assert "no C++ compiler was found" in capsys.readouterr().err
    assert counting.sizes == []
    assert not (tmp_path / "runs" / state.FOLDER / "failures").exists()


@pytest.mark.parametrize("lanes", ["off", "2"])
def test_runs_that_were_trained_on_another_device_are_analysed_here(tmp_path, monkeypatch, lanes):
    """Fails if runs brought back from a GPU cannot be analysed on a laptop, or are trained again."""
    study = StudyNumerics(lanes=lanes).of(tiny_study(tmp_path, probes=["entropy"], **AUTO))
    plan, root = Plan([study], study_mode(tmp_path, lanes) if lanes != "off" else "eager"), tmp_path / "runs"
    carry_out(plan.only({i: replace(run, analyses=()) for i, run in plan.runs.items()}), root)
    # As if `cpu` were a device of another machine.
    monkeypatch.setattr(numerics, "devices", lambda: ("mps",))
    found = state.survey(plan, root.resolve())
    assert {one.status for one in found.values()} == {"begun"}
    check_devices(plan, found)
    tally = carry_out(plan, root, Here())
    assert [one.status for one in tally.states.values()] == ["done", "done"]
    assert tally.steps == 0
