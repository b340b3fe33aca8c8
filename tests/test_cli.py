"""The command line: what it prints can be read by programs, and every mistake ends in one message and status 2."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from claims_rows import make_rows, studies_directory
from tiny import tiny_config, tiny_mapping

from miclab.cli import COMMANDS, main
from miclab.cli.train import _watch
from miclab.config.request import Request
from miclab.config.schema import to_mapping
from miclab.runs import find as runs

REQUEST = {"steps": 4, "evaluate_every": 2, "checkpoint_every": 2, "sequences": 4, "novel_sets": 2}
HOST = {"classes": 32, "dimension": 8, "labels": 16}
SECONDARY = {"classes": 16, "dimension": 6, "labels": 4}
DECODER = {"heads": 2, "positions": "onehot", "position_slots": 20}
SMALL = ["--sequences", "20", "--novel-sets", "2"]
RESULTS = (
    "train",
    "resume",
    "runs",
    "show",
    "evaluate",
    "circuits",
    "knockout",
    "ablate",
    "patch",
    "paths",
    "attribute",
    "align",
    "diagnose",
)
"""Commands that print results, and print them as JSON on request."""
ELSEWHERE = (
    "circuit",
    "study",
    "claims",
    "reproduce",
    "figure",
    "data",
    "export",
    "import",
    "weights",
    "mllm",
    "transplant",
    "drift",
    "circuit-overlap",
    "running-mean",
)
"""Commands whose results are tested with their packages."""
GROUPS = {
    "train": ("unimodal", "multimodal"),
    "study": ("run", "status", "plan", "rows"),
    "data": ("list", "show", "check", "embed"),
    "mllm": ("heads", "knockout", "finetune", "compare", "scale", "patch", "make-episodes", "memory"),
}
"""Commands that are named in two words."""
NAMES = [*COMMANDS, *(f"{name} {second}" for name, seconds in GROUPS.items() for second in seconds)]


def called(*arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            status = int(ended.code or 0)
    return status, output.getvalue(), errors.getvalue()


def in_json(*arguments: object):
    """What a command prints with --json; it must succeed."""
    status, output, errors = called(*arguments, "--json")
    assert status == 0, errors
    return json.loads(output)


def written(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


class Laboratory:
    """A directory with a one-modality run of two heads, and a stage-2 run that grew from it."""

    def __init__(self, root: Path):
        self.root = root
        one = tiny_mapping(1, modalities={"m1": HOST}, decoder=DECODER, request=REQUEST)
        two = {"modalities": {"m1": HOST, "m2": SECONDARY}, "request": REQUEST}
        self.one, self.two = written(root / "one.yaml", one), written(root / "two.yaml", two)
        self.train_one = ("train", "unimodal", "--config", self.one, "--runs", root / "runs")
        self.unimodal = Path(in_json(*self.train_one)["run"])
        grow = ("--stage-one", self.unimodal.name)
        self.train_two = ("train", "multimodal", "--config", self.two, "--runs", root / "runs", *grow)
        self.multimodal = Path(in_json(*self.train_two)["run"])


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory) -> Laboratory:
    """Trained once; tests only read it."""
    return Laboratory(tmp_path_factory.mktemp("laboratory"))


# -- what everyone meets first ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", ["import miclab", "import miclab.cli; miclab.cli.main(['--help'])"])
def test_torch_is_not_imported_before_it_is_needed(code):
    """It takes seconds, and `miclab --help` must not."""
    script = f"import sys\n{code}\nprint('torch' in sys.modules, 'miclab' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout.splitlines()[-1] == "False True"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help(name):
    """With status 0, and with the options of that command."""
    status, output, _ = called(*name.split(), "--help")
    assert status == 0
    assert f"miclab {name}" in output
    assert "[[STR" not in output
    if name in GROUPS:
        assert all(second in output for second in GROUPS[name])
    else:
        assert any(option in output for option in ("--runs", "--studies", "--json", "--output"))


def test_usage_lists_every_command():
    """Without arguments it is a mistake, though the same text helps."""
    status, output, _ = called("--help")
    assert (status, called()[0]) == (0, 2)
    assert all(f"\n  {name} " in output for name in COMMANDS)


# -- results ----------------------------------------------------------------------------------------------------------
def test_every_command_prints_json(laboratory):
    """One document on standard output, nothing beside it, on the run of the kind that the command wants."""
    two, where = laboratory.multimodal.name, ("--runs", laboratory.root / "runs")
    found = {
        "train": in_json(*laboratory.train_one),
        "resume": in_json("resume", two, *where),
        "runs": in_json("runs", *where),
        "show": in_json("show", two, *where),
        "evaluate": in_json("evaluate", two, *where, *SMALL),
        "circuits": in_json("circuits", two, *where, *SMALL),
        "knockout": in_json("knockout", two, *where, *SMALL),
        "ablate": in_json("ablate", two, *where, *SMALL),
        "patch": in_json("patch", two, *where, *SMALL),
        "paths": in_json("paths", two, *where, "--parts", "edges", *SMALL),
        "attribute": in_json("attribute", two, *where, *SMALL),
        "align": in_json("align", two, *where, "--rows", "32"),
        "diagnose": in_json("diagnose", two, *where, *SMALL),
    }
    assert set(found) == set(RESULTS) == set(COMMANDS) - {"demo", "report", *ELSEWHERE}
    assert (found["train"]["status"], found["train"]["step"]) == ("finished", 4)
    assert found["resume"]["run"] == str(laboratory.multimodal)
    assert {row["run"] for row in found["runs"]} == {laboratory.unimodal.name, two}
    assert [row["step"] for row in found["show"]["rows"]] == [0, 1, 2, 4]
    assert found["show"]["damaged"] == []
    assert set(found["evaluate"]["splits"]) == {"train", "icl", "swapped", "iwl"}
    assert 0 <= found["evaluate"]["splits"]["icl"]["accuracy"]["mean"] <= 1
    assert set(found["circuits"]["measures"]["induction_total"]) == {"0.0", "0.1", "1.0", "1.1"}
    assert {"untouched", "head 1.1"} <= {e["name"] for e in found["knockout"]["effects"]}
    assert found["knockout"]["runs"] == [two]
    for command in ("circuits", "knockout"):
        assert found[command]["circuits"] == {two: None}
        assert "there is nothing to explain" in found[command]["no_circuit"][two]
    for command in ("knockout", "ablate"):
        assert set(found[command]["oracles"]) == set(found["evaluate"]["splits"]["icl"]["oracles"])
        for effect in found[command]["effects"]:
            assert {"low", "mean", "high"} <= set(effect["context_label_accuracy"])
    assert {"low", "mean", "high"} <= set(found["evaluate"]["splits"]["iwl"]["context_label_accuracy"])
    assert {"items of m1 zeroed", "labels zeroed"} <= {e["name"] for e in found["ablate"]["effects"]}
    assert "circuits" not in found["ablate"]
    assert not any("heads" in effect for effect in found["ablate"]["effects"])
    assert [entry["modality"] for entry in found["align"]] == ["m2"]
    assert found["align"][0]["cka"]["unit"] == "draw"
    assert "alignment gap" in {sign["name"] for sign in found["diagnose"]}


@pytest.fixture
def formed(monkeypatch):
    """Decoders pass for ones with a circuit, which takes a longer training."""
    for module in ("existence", "knockout"):
        monkeypatch.setattr(f"miclab.circuits.{module}.why_no_circuit", lambda heads, icl: "")


def test_a_circuit_is_named_with_its_controls(laboratory, formed):
    """Of a run that has one."""
    two, where = laboratory.multimodal.name, ("--runs", laboratory.root / "runs")
    found = in_json("knockout", two, *where, *SMALL)
    assert {"both", "induction head", "previous-token head"} <= {e["name"] for e in found["effects"]}
    assert set(found["circuits"][two]) == {"previous_token", "induction"}
    assert found["no_circuit"] == {}
    (control,) = (e for e in found["effects"] if e["name"] == "control of both")
    assert len(control["draws"][two]) >= 1
    assert found["circuits"] == in_json("circuits", two, *where, *SMALL)["circuits"]


@pytest.mark.parametrize("command", ["circuits", "knockout"])
def test_a_run_at_chance_is_not_given_a_circuit(laboratory, command):
    """The reason is printed, with status 0; zeroed modalities do not speak of heads at all."""
    arguments = (laboratory.multimodal.name, "--runs", laboratory.root / "runs", *SMALL)
    status, output, _ = called(command, *arguments)
    flat = " ".join(output.split())
    assert (status, "no circuit: accuracy on novel classes is" in flat, "previous-token head" in flat) == (
        0,
        True,
        False,
    )
    _, output, _ = called("ablate", *arguments)
    assert not any(word in output for word in ("circuit", "head"))


@pytest.mark.parametrize("name", ["runs", "show", "evaluate", "circuits", "knockout", "ablate", "align", "diagnose"])
def test_every_command_prints_for_people(laboratory, name):
    """The same without --json; the run is named in what is printed, where it is not in the question alone."""
    where = ("--runs", laboratory.root / "runs")
    small = {"runs": (), "show": (), "align": ("--rows", "32")}.get(name, SMALL)
    given = () if name == "runs" else (laboratory.multimodal.name,)
    status, output, errors = called(name, *given, *where, *small)
    assert (status, "Traceback" in errors) == (0, False)
    assert "alignment gap" in output if name == "diagnose" else laboratory.multimodal.name in output


def test_printed_numbers_stand_under_their_names(laboratory, monkeypatch):
    """Each oracle's value under its own header, as --json has it; with two modalities there are more of them."""
    tables = []
    monkeypatch.setattr("miclab.tables.Table.show", lambda made: tables.append(made))
    arguments = ("evaluate", laboratory.multimodal.name, "--runs", laboratory.root / "runs", *SMALL)
    assert called(*arguments)[0] == 0
    (made,) = tables
    for split, shown in in_json(*arguments)["splits"].items():
        texts = [list(map(str, row)) for row in made.rows]
        (row,) = (dict(zip(made.columns, row, strict=True)) for row in texts if row[0] == split)
        assert row["accuracy"].startswith(f"{shown['accuracy']['mean']:.3f}")
        assert {name: row[name.replace("_", " ")] for name in shown["oracles"]} == {
            name: f"{value:.3f}" for name, value in shown["oracles"].items()
        }


def test_seeds_are_taken_together_and_anything_else_is_refused(laboratory, tmp_path, formed):
    """Intervals are clustered by seed, every run's heads are given, and a control that is missing says why."""
    one = ("train", "unimodal", "--runs", tmp_path, "--config", laboratory.one, "--decoder.heads", "1")
    names = [Path(in_json(*one, "--seed", seed)["run"]).name for seed in (0, 1)]
    for command in ("evaluate", "circuits", "knockout", "ablate"):
        arguments = (command, *names, "--runs", tmp_path, *SMALL)
        status, output, _ = called(*arguments)
        assert status == 0
        assert all(name in output for name in names)
        shown = in_json(*arguments)
        # What a run's heads are called rests on that run alone, and so on sets.
        shown.pop("called", None)
        text = json.dumps(shown)
        assert '"unit": "seed"' in text
        assert '"unit": "set"' not in text
        other = laboratory.unimodal
        status, output, errors = called(command, other, *arguments[1:])
        assert (status, output, "differ in more than the seed" in " ".join(errors.split())) == (2, "", True)
        status, output, errors = called(command, names[0], *arguments[1:])
        assert (status, output, "given twice" in errors) == (2, "", True)
    status, output, _ = called("knockout", *names, "--runs", tmp_path, *SMALL)
    assert all(
        re.search(rf"^{name}: .+ \(strongest for previous token\), .+ \(strongest for induction\)$", output, re.M)
        for name in names
    )
    assert "control of both: none, since the decoder has no head beside" in output
    effects = {e["name"]: e for e in in_json("knockout", *names, "--runs", tmp_path, *SMALL)["effects"]}
    missing = effects["control of both"]
    assert (missing["accuracy"], missing["change"], missing["context_label_accuracy"]) == (None, None, None)
    assert "no head beside" in missing["reason"]


def test_a_checkpoint_can_be_chosen(laboratory):
    """The result is that step's, and the default is the last."""
    arguments = ("evaluate", laboratory.unimodal, *SMALL)
    first, last = in_json(*arguments, "--step", "1"), in_json(*arguments)
    assert (first["steps"], last["steps"]) == ([1], [4])


def test_training_again_does_nothing_and_says_so(laboratory):
    """A finished run is never run again: its files are not touched."""
    before = {f: f.stat().st_mtime_ns for f in laboratory.unimodal.rglob("*") if f.is_file()}
    status, output, errors = called(*laboratory.train_one)
    assert status == 0
    assert "finished at step 4: all steps done" in output
    assert "1/4" not in errors
    assert {f: f.stat().st_mtime_ns for f in laboratory.unimodal.rglob("*") if f.is_file()} == before


def test_a_request_that_is_met_already_says_so(laboratory):
    """Also a shorter one, which the run of another length answers."""
    done = in_json(*laboratory.train_one)
    assert (done["asked_steps"], done["trained_steps"]) == (4, 0)
    _, output, errors = called(*laboratory.train_one, "--request.steps", "3")
    assert "already there, nothing trained: requested 3 steps, the run has 4" in output
    assert f"{laboratory.unimodal} is there already with 4 steps" in errors
    _, output, _ = called("resume", laboratory.unimodal)
    assert "already there, nothing trained\n" in output


def test_stage_one_is_as_long_as_requested_and_is_reused(laboratory, tmp_path):
    """What is trained, what goes on and what was there is reported for both stages."""
    arguments = ("train", "multimodal", "--config", laboratory.two, "--runs", tmp_path, "--request.steps", "1")
    first = in_json(*arguments, "--stage-one-steps", "2")
    assert (first["stage_one"]["step"], first["stage_one"]["trained_steps"], first["trained_steps"]) == (2, 2, 1)
    status, output, errors = called(*arguments, "--stage-one-steps=2")
    stage_one = first["stage_one"]["run"]
    assert f"stage 1: {stage_one} is there already with 2 steps" in errors
    assert (status, "already there, nothing trained" in output) == (0, True)
    longer = in_json(*arguments, "--stage-one-steps", "3")
    assert longer["stage_one"] == {"run": stage_one, "step": 3, "trained_steps": 1}
    assert longer["run"] != first["run"]
    in_json("resume", stage_one, "--steps", "6")
    status, _, errors = called(*arguments, "--stage-one-steps", "5")
    assert (status, "has 6 steps already, and no checkpoint at 5" in errors) == (2, True)


def test_a_training_that_compiles_says_so(capsys):
    """For tens of seconds nothing else is seen."""
    for mode, shown in (("compiled", True), ("eager", False)):
        run = SimpleNamespace(step=-1, path=Path("run"), warnings=[], config=tiny_config(numerics={"mode": mode}))
        with _watch("stage 1", SimpleNamespace(run=run, line=""), Request(steps=1)):
            pass
        assert ("stage 1: 0/1 compiling" in capsys.readouterr().err) == shown


def test_runs_in_committed_rows_are_not_called_new(tmp_path, monkeypatch):
    """A study whose table lies beside it is not left to do."""
    directory = studies_directory(tmp_path)
    make_rows(directory, "multimodal", lambda config, step: {"icl": 0.5}, keep=lambda config, seed: seed < 2)
    # Where there is no compiler, the committed rows are of other runs.
    monkeypatch.setattr("miclab.studies.mode.long_mode", lambda root: "compiled")
    arguments = (directory / "multimodal.yaml", "--runs", tmp_path / "runs")
    _, output, _ = called("study", "status", *arguments)
    assert "multimodal: 3 runs: 1 new, 2 in committed rows" in output
    assert "(stage 1): 3 runs: 1 new, 2 needed only by committed rows" in output
    assert in_json("study", "status", *arguments)["studies"]["multimodal"]["in_committed_rows"] == 2
    _, output, _ = called("study", "plan", *arguments)
    assert output.count(" in rows ") == 4
    assert [row["in_committed_rows"] for row in in_json("study", "plan", *arguments)].count(True) == 4


def test_options_override_the_file_and_the_file_the_preset(laboratory, tmp_path):
    """Three layers; the run on disk has what the uppermost says."""
    path = in_json("train", "unimodal", "--config", laboratory.one, "--runs", tmp_path,
                   "--optimiser.learning-rate", "0.5", "--seed", "3", "--request.steps", "1")["run"]  # fmt: skip
    config = to_mapping(runs.open_run(path).config)
    assert (config["optimiser"]["learning_rate"], config["seed"]) == (0.5, 3)
    assert config["modalities"]["m1"]["classes"] == 32
    assert (config["optimiser"]["batch_size"], config["numerics"]["mode"]) == (16, "eager")
    assert runs.open_run(path).request["steps"] == 1


def test_extending_with_resume(laboratory, tmp_path):
    """`--steps` requests more, and the run goes on from where it was."""
    path = in_json("train", "unimodal", "--config", laboratory.one, "--runs", tmp_path)["run"]
    found = in_json("resume", path, "--steps", "6")
    assert (found["status"], found["step"], runs.open_run(path).request["steps"]) == ("finished", 6, 6)


def test_stage_two_from_a_checkpoint_and_early_fusion_from_none(laboratory, tmp_path):
    """RUN is its last checkpoint, RUN@STEP the one at a step, `none` no run at all."""
    assert runs.open_run(laboratory.multimodal).config.parent.step == 4
    base = ("train", "multimodal", "--config", laboratory.two, "--runs", laboratory.root / "runs")
    early = runs.open_run(in_json(*base, "--request.steps", "1", "--stage-one", f"{laboratory.unimodal.name}@2")["run"])
    assert (early.config.stage, early.config.parent.step) == ("multimodal", 2)
    assert early.config.parent.run == runs.open_run(laboratory.unimodal).hash
    file = written(tmp_path / "fusion.yaml", tiny_mapping(2, request={**REQUEST, "steps": 1}))
    found = in_json("train", "multimodal", "--config", file, "--runs", tmp_path, "--stage-one", "none")
    run = runs.open_run(found["run"])
    assert (run.config.stage, run.config.parent.run, run.step) == ("early_fusion", "", 1)
    # The other tests expect two runs.
    shutil.rmtree(early.path)


def test_a_diverged_run_has_status_one_and_says_so_again(laboratory, tmp_path):
    """Also when it is resumed."""
    status, output, _ = called("train", "unimodal", "--config", laboratory.one, "--runs", tmp_path,
                               "--optimiser.name", "sgd", "--optimiser.learning-rate", "1e30")  # fmt: skip
    assert (status, "diverged at step" in output, "last good checkpoint" in output) == (1, True, True)
    (path,) = runs.list_runs(tmp_path)
    status, output, _ = called("resume", path)
    assert (status, "diverged at step" in output) == (1, True)


# -- mistakes ---------------------------------------------------------------------------------------------------------
def mistakes(laboratory: Laboratory, tmp_path: Path) -> dict[str, tuple[tuple[object, ...], list[str]]]:
    """Commands that cannot be carried out, and what the message has to contain."""
    where = ("--runs", laboratory.root / "runs")
    name = laboratory.unimodal.name
    train = ("train", "unimodal", "--runs", tmp_path, "--config")
    return {
        "unknown command": (("evaulate",), ["'evaulate' is no command", "did you mean 'evaluate'?", "knockout"]),
        "unknown stage": (("train", "unimodel"), ["'unimodel' is no stage", "did you mean 'unimodal'?"]),
        "unknown option": (("train", "unimodal", "--decoder.hedas", "2"), ["--decoder.hedas", "--decoder.heads"]),
        "unknown preset": (("train", "unimodal", "--preset", "fast"), ["preset = 'fast'", "paper, quick"]),
        "no number": (("resume", name, "--steps", "many"), ["--steps", "INT"]),
        "bad value": ((*train, laboratory.one, "--decoder.heads", "3"), ["decoder.heads = 3", "a divisor"]),
        "unknown run": (("show", "unimodal-rope", *where), ["'unimodal-rope' names no run", name]),
        "no runs": (("show", "x", "--runs", tmp_path), ["'x' names no run", "`miclab train` makes one"]),
        "missing file": ((*train, tmp_path / "no.yaml"), ["no.yaml", "No such file or directory"]),
        "file is a list": ((*train, written(tmp_path / "list.yaml", [1])), ["list.yaml", "a mapping of fields"]),
        "file with bad syntax": ((*train, _text(tmp_path / "bad.yaml", "a: [")), ["bad.yaml", "line 1: expected"]),
        "unknown field": (
            (*train, written(tmp_path / "field.yaml", {"decoder": {"hedas": 2}})),
            ["decoder.hedas = 2", "did you mean 'heads'?"],
        ),
        "unknown request": (
            (*train, written(tmp_path / "request.yaml", {"request": {"step": 2}})),
            ["request.step = 2", "did you mean 'steps'?"],
        ),
        "wrong type": (
            (*train, written(tmp_path / "type.yaml", {"seed": "zero"})),
            ["seed = 'zero'", "a value of type int"],
        ),
        "unknown stage one": (("train", "multimodal", *where, "--stage-one", "me"), ["'me' names no run", name]),
        "stage one at no step": (
            ("train", "multimodal", *where, "--stage-one", f"{name}@last"),
            [f"stage_one = '{name}@last'", "RUN or RUN@STEP"],
        ),
        "stage one at no checkpoint": (
            (*laboratory.train_two[:-1], f"{name}@3"),
            ["no checkpoint at step 3", "[0, 1, 2, 4]"],
        ),
        "stage one has other classes": (
            (*laboratory.train_two, "--modalities.m1.classes", "64"),
            ["modalities.m1.classes = 64", f"32: the stage-1 run {name} decides it. Leave the option out"],
        ),
        "stage one has another decoder": (
            (*laboratory.train_two, "--decoder.layers", "3"), ["decoder.layers = 3", "2: the stage-1 run"],
        ),
        "stage-one steps without stage one": (
            (*laboratory.train_one, "--stage-one-steps", "9"), ["stage_one_steps = 9", "--stage-one auto"],
        ),
        "no steps": ((*train, laboratory.one, "--request.steps", "0"), ["request.steps = 0", "1"]),
        "report into no directory": (
            ("report", name, *where, "--output", tmp_path / "no" / "x.html"), ["there is no directory", "Make it"],
        ),
        "demonstration into no directory": (
            ("demo", "--output", tmp_path / "no" / "x.html"), ["--output", "there is no directory", "mkdir -p"],
        ),
        "report into a directory": (("report", name, *where, "--output", tmp_path), ["is a directory", "Name a file"]),
        "report below a file": (
            ("report", name, *where, "--output", laboratory.one / "x.html"), ["one.yaml is a file", "directory"],
        ),
        "report on nothing": (("report", *where), ["Name at least one RUN", "--study FILE"]),
        "figures into a file": (("figure", "M1", "--output", laboratory.one), ["is a file", "Name a directory"]),
        "study of runs in a file": (
            ("study", "run", _text(tmp_path / "study.yaml", "stage: unimodal"), "--runs", laboratory.one),
            ["one.yaml is a file", "directory of runs"],
        ),
        "runs in a file": (("runs", "--runs", laboratory.one), ["one.yaml is a file", "directory of runs"]),
        "empty file": ((*train, _text(tmp_path / "empty.yaml", "")), ["empty.yaml", "a mapping of fields"]),
        "empty study": (("study", "plan", _text(tmp_path / "none.yaml", "")), ["none.yaml", "it is empty"]),
        "unknown data": (("data", "check", "concets.words"), ["'concets.words' is no data set", "concepts.words"]),
        "no data": (("data", "check", f"folder:{tmp_path / 'no'}"), ["there is no folder"]),
        "data in a file": (("data", "check", f"folder:{laboratory.one}"), ["one.yaml is no folder"]),
        "no step": (("evaluate", name, *where, "--step", "-7"), ["step = -7", "-1 for the last"]),
        "no checkpoint": (("evaluate", name, *where, "--step", "3"), ["step = 3", "[0, 1, 2, 4]"]),
        "beyond the slots": (
            ("evaluate", name, *where, "--context", "64"),
            ["sequence.context = 64", "position_slots = 20", "rope, alibi, none"],
        ),
        "nothing to align": (("align", name, *where), ["one modality", "multimodal"]),
        "a file as directory": (("train", "unimodal", "--config", laboratory.one, "--runs", laboratory.one),
                                ["Cannot write", "Not a directory", "--runs"]),
    }  # fmt: skip


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_mistake_has_status_two_and_one_message_that_says_what_is_allowed(laboratory, tmp_path):
    """No traceback, nothing on standard output, and no run is made."""
    wrong = []
    for name, (arguments, expected) in mistakes(laboratory, tmp_path).items():
        status, output, errors = called(*arguments)
        # Tyro words the mistakes of three of them, draws frames around its messages and breaks their lines.
        flat = " ".join(errors.replace("│", " ").split())
        lacking = [text for text in expected if text not in flat]
        if (status, output, "Traceback" in errors, lacking) != (2, "", False, []):
            wrong.append((name, status, output, lacking, flat))
        if name not in ("unknown option", "no number", "no steps") and errors.count("miclab: ") != 1:
            wrong.append((name, "messages", errors.count("miclab: "), flat))
    assert wrong == []
    assert runs.list_runs(tmp_path) == []
    assert not (tmp_path / "no").exists()
    assert runs.list_runs(laboratory.root / "runs") == sorted([laboratory.unimodal, laboratory.multimodal])


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: 360 bytes"), MemoryError()]
)
def test_too_little_memory_is_reported(laboratory, monkeypatch, error):
    """Fails if a context that fits no machine ends in a traceback, or any other error is taken for such a one."""

    def fail(*arguments: object, **options: object):
        raise error

    monkeypatch.setattr("miclab.measures.evaluations.evaluate", fail)
    requested = ("evaluate", laboratory.unimodal)
    status, output, errors = called(*requested)
    assert (status, output) == (2, "")
    assert "too little memory" in errors
    assert "fewer sequences" in errors
    error = RuntimeError("a defect")
    with pytest.raises(RuntimeError, match="a defect"):
        called(*requested)


def test_a_run_that_is_being_trained_is_refused(laboratory):
    """Resuming it from a second process is a mistake too."""
    with runs.open_run(laboratory.unimodal).locked():
        status, output, errors = called("resume", laboratory.unimodal, "--steps", "8")
    assert (status, output) == (2, "")
    assert "is being trained by another process" in errors


def test_a_damaged_run_is_listed_and_shown_as_such(laboratory, tmp_path):
    """Status 1: the list and the rest of the run can still be read."""
    copy = Path(shutil.copytree(laboratory.unimodal, tmp_path / "runs" / laboratory.unimodal.name))
    file = copy / "checkpoints" / "000000002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    status, output, _ = called("show", copy, "--json")
    assert status == 1
    assert [str(file) in text for text in json.loads(output)["damaged"]] == [True]
    (copy / "world.safetensors").write_bytes(b"")
    status, output, _ = called("runs", "--runs", tmp_path / "runs", "--json")
    assert (status, [row["status"] for row in json.loads(output)]) == (1, ["damaged"])
    assert "world.safetensors" in json.loads(output)[0]["note"]
