"""A study goes on from its table where the folders of its runs are lost: what is taken, what is trained, what is
refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from tiny_study import REQUEST, Here, carry_out, planned, study_mapping, tiny_study, write_study

import miclab
from miclab.cli import main
from miclab.errors import MiclabError
from miclab.runs.find import list_runs, open_run
from miclab.studies import sealed_table, state, threshold
from miclab.studies.given_rows import GivenRows
from miclab.studies.plan import Plan
from miclab.studies.rows import StudyTable, study_rows, table_file
from miclab.studies.study import Study, load_study
from miclab.studies.threshold import narrowed, rounds

GRID = [{"product": {"frozen": [[], ["decoder"]]}}]
"""Lists of texts, which a table holds as JSON."""
CHANGES = {"grid": GRID, "probes": ["ablation", "context"], "probe_contexts": [4]}
NAMES = ("tiny", "more")


def of_seeds(*seeds: int, **request: object) -> dict:
    return {"quick": {"seeds": list(seeds), "request": {**REQUEST, "sequences": 10, **request}}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A study of two stages, two points and two seeds, trained, with its table."""
    folder = tmp_path_factory.mktemp("trained")
    study = tiny_study(folder, 2, **CHANGES, profiles=of_seeds(0, 1))
    carry_out(planned(study), folder / "runs")
    frame = study_rows(study, planned(study), folder / "runs")
    sealed_table.write(frame, table_file(study))
    return folder


@pytest.fixture
def here(monkeypatch) -> list[Here]:
    """The launchers of `miclab study run`, which train in this process."""
    found: list[Here] = []
    monkeypatch.setattr("miclab.cli.study._launcher", lambda options, root: found.append(Here()) or found[-1])
    return found


def command(name: str, study: Study, *more: object) -> list[str]:
    return ["study", name, str(study.file), *map(str, more)]


def table_of(folder: Path) -> pl.DataFrame:
    return sealed_table.read(folder / "rows/quick/tiny.parquet")


def changed(trained: Path, folder: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Path:
    """A directory of the trained table with a change, sealed."""
    sealed_table.write(change(table_of(trained)), folder / "given/quick/tiny.parquet")
    return folder / "given"


def test_a_study_goes_on_with_another_seed_as_if_its_runs_were_there(trained, tmp_path, here, capsys):
    """Fails if a run of the table is trained, if its rows change, or if the new table is not that of a study that was
    never interrupted."""
    profiles = of_seeds(0, 1, 2)
    whole, later = (tiny_study(tmp_path / n, 2, **CHANGES, profiles=profiles) for n in ("whole", "later"))
    # The runs of the first two seeds are taken over, so that only the third is trained here.
    shutil.copytree(trained / "runs", tmp_path / "runs")
    assert main(command("run", whole, "--runs", tmp_path / "runs")) == 0
    given = ("--runs", tmp_path / "empty", "--rows", trained / "rows")
    capsys.readouterr()
    assert main(command("run", later, *given)) == 0
    printed = capsys.readouterr()
    plan = planned(later)
    assert here[-1].tasks == here[0].tasks == [run.hash for run in plan.runs.values() if run.seed == 2]
    assert table_of(later.file.parent).equals(table_of(whole.file.parent))
    assert table_of(later.file.parent).schema == table_of(whole.file.parent).schema
    assert "tiny: the rows of 4 runs are taken from" in printed.err
    assert printed.out.splitlines() == [
        "tiny: 6 runs: 2 done, 4 from rows",
        "(stage 1): 3 runs: 1 done, 2 not needed",
    ]
    # Its own table serves as well, and nothing is left to do.
    shutil.rmtree(tmp_path / "empty")
    before = table_of(later.file.parent)
    assert main(command("run", later, "--runs", tmp_path / "empty", "--rows", later.file.parent / "rows")) == 0
    assert here[-1].tasks == []
    assert table_of(later.file.parent).equals(before)


def test_plan_and_status_say_what_is_taken(trained, tmp_path, capsys):
    study = tiny_study(tmp_path, 2, **CHANGES, profiles=of_seeds(0, 1, 2))
    where = ("--runs", tmp_path / "runs", "--rows", trained / "rows")
    assert main(command("status", study, *where)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "tiny: 6 runs: 2 new, 4 from rows",
        "(stage 1): 3 runs: 1 new, 2 not needed",
    ]
    assert main(command("plan", study, *where, "--json")) == 0
    found = [(row["seed"], bool(row["parent"]), row["status"]) for row in json.loads(capsys.readouterr().out)]
    said = {(True, False): "rows", (False, False): "unneeded", (True, True): "new", (False, True): "new"}
    assert sorted(found) == sorted(
        (seed, second, said[second, seed == 2]) for seed in (0, 1, 2) for second in (False, True, True)
    )
    assert main(command("plan", study, *where)) == 0
    assert capsys.readouterr().out.count(" from rows ") == 4
    assert main(command("status", study, *where, "--seeds", "1")) == 0
    assert "tiny: 2 runs: 2 from rows" in capsys.readouterr().out
    # Without the option nothing is taken.
    assert main(command("status", study, "--runs", tmp_path / "runs")) == 0
    assert "tiny: 6 runs: 6 new" in capsys.readouterr().out


INCOMPLETE: dict[str, tuple[pl.Expr, str]] = {
    "cut": (pl.col("step") < 4, "they end at step 2, and 4 are requested"),
    "without a row": (pl.col("step") != 1, "they are at other steps"),
    "failed": (pl.lit("failed").alias("status"), "the run failed"),
    "no analysis": (pl.lit(None, pl.Float64).alias("probe.context.4"), "no value of the analysis context.4"),
    "no measure": (
        pl.lit(None, pl.Float64).name.map(lambda name: name), "no value of the measure induction_total"),
    "fewer sets": (pl.col("icl_sets").list.head(1), "not of 2 sets of novel classes"),
    "other sequences": ((pl.col("iwl") * 0 + 0.25).alias("iwl"), "not over 10 sequences"),
}  # fmt: skip


@pytest.mark.parametrize("name", INCOMPLETE)
def test_a_run_whose_rows_are_not_those_requested_is_trained_with_its_parent(name, trained, tmp_path):
    """Fails if rows of another request, of a run that was cut or of another version are taken, or if more than their
    run and its own parent is trained."""
    study = load_study(trained / "tiny.yaml", "quick")
    plan = planned(study)
    run = plan.runs[plan.members["tiny"][2]]
    expression, reason = INCOMPLETE[name]
    mine = pl.col("run") == run.hash

    def change(frame: pl.DataFrame) -> pl.DataFrame:
        if name in ("cut", "without a row"):
            return frame.filter(~mine | expression).with_columns(last=pl.col("last") | (mine & (pl.col("step") == 2)))
        of = ["probe.context.4", "probe.context.4.sets"] if name == "no analysis" else []
        if name == "no measure":
            of = [column for column in frame.columns if column.startswith("measure.induction_total.")]
        if of:
            return frame.with_columns(pl.when(~mine).then(pl.col(column)).alias(column) for column in of)
        column = expression.meta.output_name()
        return frame.with_columns(pl.when(mine).then(expression).otherwise(pl.col(column)).alias(column))

    given = GivenRows.read([study], "eager", changed(trained, tmp_path, change))
    ((identity, found),) = given.tables["tiny"].incomplete.items()
    assert identity == run.hash
    assert reason in found
    assert set(given.left(plan, tmp_path / "runs").runs) == {run.hash, run.parent}
    assert any(reason in line for line in given.lines())
    if name == "cut":
        launcher = Here()
        carry_out(given.left(plan, tmp_path / "runs"), tmp_path / "runs", launcher)
        assert launcher.tasks == [run.parent, run.hash]
        states = state.survey(plan, tmp_path / "runs")
        frame = StudyTable(study, plan, tmp_path / "runs", given.of(study)).frame(states)
        assert frame.equals(table_of(trained))


REQUESTS = {
    "more steps": ({"steps": 8, "checkpoint_every": 8}, "they end at step 4, and 8 are requested"),
    "fewer steps": ({"steps": 2, "checkpoint_every": 2}, "they end at step 4, and 2 are requested"),
    "other rows": ({"evaluate_every": 1}, "they are at other steps"),
    "more sets": ({"novel_sets": 3}, "not of 3 sets"),
    "other sequences": ({"sequences": 3}, "not over 3 sequences"),
    "a multiple of the sequences": ({"sequences": 20}, "do not show that they are over 20 sequences"),
    "another evaluation": ({"evaluation_seed": 1}, "evaluation_seed"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_rows_of_another_request_are_not_taken(name, trained, tmp_path):
    changes, reason = REQUESTS[name]
    study = tiny_study(tmp_path, 2, **CHANGES, profiles=of_seeds(0, 1, **changes))
    given = GivenRows.read([study], "eager", trained / "rows")
    plan = planned(study)
    assert not given.of(study)
    assert set(given.tables["tiny"].incomplete) == set(plan.members["tiny"])
    assert all(reason in found for found in given.tables["tiny"].incomplete.values())
    assert given.left(plan, tmp_path).runs.keys() == plan.runs.keys()


def test_a_run_that_ended_early_by_the_requests_rule_is_taken(tmp_path):
    rule = {"steps": 8, "checkpoint_every": 8, "plateau_rows": 1, "plateau_rise": 1.0}
    study = tiny_study(tmp_path, profiles=of_seeds(0, **rule))
    plan = planned(study)
    carry_out(plan, tmp_path / "runs")
    frame = study_rows(study, plan, tmp_path / "runs")
    assert frame["step"].to_list() == [0, 1, 2, 4]
    sealed_table.write(frame, table_file(study))
    assert list(GivenRows.read([study], "eager", tmp_path / "rows").of(study)) == list(plan.runs)
    for other in ({"plateau_rows": 0}, {"plateau_rise": 0.0, "plateau_after": 6}):
        again = tiny_study(tmp_path, profiles=of_seeds(0, **rule | other))
        assert not GivenRows.read([again], "eager", tmp_path / "rows").of(again)


def test_a_run_that_is_taken_and_started_from_is_trained_as_far_as_its_checkpoint(tmp_path, here):
    """Its rows stay those of the table, also where this machine would give others."""
    first = write_study(tmp_path, name="one", profiles=of_seeds(0, steps=8))
    grid = [{"product": {"modalities.m2.noise": [0, 0.5]}}]
    faster = {"config": {"optimiser": {"learning_rate": 0.002}}}
    second = write_study(tmp_path, 2, profiles=of_seeds(0), grid=grid, parent=faster)
    studies = [load_study(file, "quick") for file in (first, second)]
    plan = Plan(studies, "eager")
    (parent,) = plan.members["one"]
    kept, missing = plan.members["tiny"]
    assert plan.runs[kept].parent == plan.runs[missing].parent == parent
    carry_out(plan, tmp_path / "runs")
    frames = {study.name: study_rows(study, plan, tmp_path / "runs") for study in studies}
    frames["one"] = frames["one"].with_columns(pl.col("loss") + 1)
    for name, frame in frames.items():
        sealed_table.write(frame.filter(pl.col("run") != missing), tmp_path / f"given/quick/{name}.parquet")
    files = [str(first), str(second), "--runs", str(tmp_path / "new"), "--rows", str(tmp_path / "given")]
    assert main(["study", "run", *files]) == 0
    assert here[-1].tasks == [parent, missing]
    assert open_run(tmp_path / "new" / plan.runs[parent].name).step == 2
    for study in studies:
        assert sealed_table.read(table_file(study)).equals(frames[study.name])
    # Every study of the command needs its table.
    (tmp_path / "given/quick/one.parquet").unlink()
    assert main(["study", "plan", str(second), *files[2:]]) == 0
    assert main(["study", "status", *files]) == 2


def swapped(frame: pl.DataFrame) -> pl.DataFrame:
    """With the configuration of the first run in the rows of another one."""
    first, *_, last = frame["run"].unique(maintain_order=True)
    (config,) = frame.filter(run=first)["config"].unique()
    return frame.with_columns(config=pl.when(run=last).then(pl.lit(config)).otherwise(pl.col("config")))


REFUSED: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "another study": (lambda frame: frame.with_columns(study=pl.lit("large")), "rows of the study 'large'"),
    "another preset": (lambda frame: frame.with_columns(profile=pl.lit("paper")), "rows of the preset 'paper'"),
    "another format": (lambda frame: frame.drop("reason"), "column reason: expected a column of type String"),
    "another type": (lambda frame: frame.cast({"step": pl.Float64}), "column step: expected a column of type Int64"),
    "another run": (swapped, "it is the configuration of another run"),
    "another seed": (lambda frame: frame.with_columns(pl.col("seed") + 1), "column seed"),
    "mixed rows": (lambda frame: frame.sort("step"), "do not stand together"),
    "no planned run": (
        lambda frame: frame.with_columns(run=pl.lit("0" * 64)), "none of its 1 runs is one of the 4"),
}  # fmt: skip


def refusal(study: Study, root: Path, rows: Path, capsys) -> str:
    """What `study run` says with exit status 2, having trained nothing."""
    for name in ("run", "plan", "status"):
        assert main(command(name, study, "--runs", root, "--rows", rows)) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert not list_runs(root)
    return message


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_is_not_the_studys_is_refused(name, trained, tmp_path, capsys):
    change, words = REFUSED[name]
    study = load_study(trained / "tiny.yaml", "quick")
    message = refusal(study, tmp_path / "runs", changed(trained, tmp_path, change), capsys)
    assert words in message
    assert "given/quick/tiny.parquet" in message


def test_a_table_that_is_damaged_or_missing_is_refused_with_what_to_do(trained, tmp_path, capsys):
    study = load_study(trained / "tiny.yaml", "quick")
    rows = changed(trained, tmp_path, lambda frame: frame)
    file = rows / "quick/tiny.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    message = refusal(study, tmp_path / "runs", rows, capsys)
    assert "quick/tiny.parquet is damaged" in message
    assert "Restore it" in message
    # One level too deep.
    message = refusal(study, tmp_path / "runs", rows / "quick", capsys)
    assert "quick/quick/tiny.parquet" in message
    assert "PRESET/STUDY.parquet" in message
    # Runs of another numeric mode have other hashes.
    other = tiny_study(tmp_path, 2, **CHANGES, profiles=of_seeds(0, 1), config={"numerics": {"mode": "compiled"}})
    message = refusal(other, tmp_path / "runs", trained / "rows", capsys)
    assert "Its runs have numerics.mode eager, and these compiled." in message


def test_rows_of_runs_that_are_not_planned_are_left_out(trained, tmp_path):
    """A smaller study takes its part, without the columns that only the other runs had values in."""
    study = tiny_study(tmp_path, 2, probes=["context"], probe_contexts=[4], grid=[{"product": {"frozen": [[]]}}],
                       profiles=of_seeds(0))  # fmt: skip
    (identity,) = planned(study).members["tiny"]
    rows = changed(trained, tmp_path, lambda frame: frame.with_columns(
        pl.when(pl.col("run") != identity).then(pl.col(name)).alias(name)
        for name in frame.columns if name.startswith("probe.ablation.")
    ))  # fmt: skip
    given = GivenRows.read([study], "eager", rows)
    assert given.tables["tiny"].unplanned == 3
    root = tmp_path / "runs"
    carry_out(planned(study), root)
    states = dict.fromkeys(planned(study).runs, state.NEW)
    found = StudyTable(study, planned(study), root, given.of(study)).frame(states)
    assert found.equals(study_rows(study, planned(study), root))


def test_the_rungs_of_a_threshold_follow_from_given_rows(tmp_path, monkeypatch):
    """Fails if a ladder is climbed anew, or ends, where its runs are only in a table."""
    axis = "modalities.m1.classes"
    ladder = {"kind": "threshold", "ladder": {"axis": axis, "values": [8, 16, 24, 32]}}
    monkeypatch.setattr(
        threshold, "run_state", lambda run, rows: "reads" if run.modalities["m1"].classes >= 24 else "memorises"
    )
    study, root = tiny_study(tmp_path, **ladder, profiles=of_seeds(0)), tmp_path / "runs"
    plan = Plan([], "eager")
    for _, plan in rounds([study], "eager", root):
        carry_out(plan, root)
    StudyTable(study, plan, root).write(state.survey(plan, root), now=True)
    shutil.move(tmp_path / "rows", tmp_path / "given")
    given = GivenRows.read([study], "eager", tmp_path / "given")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert narrowed(study, "eager", empty, given) == narrowed(study, "eager", root)
    *_, (_, last) = rounds([study], "eager", empty, given)
    assert last.runs.keys() == plan.runs.keys()
    assert not given.left(last, empty).runs


def test_a_run_of_two_studies_is_taken_where_both_have_its_rows(tmp_path):
    """Fails if one study's table answers for the other, whose request is longer."""
    studies = [
        load_study(write_study(tmp_path, name=name, profiles=of_seeds(0, steps=steps)), "quick")
        for name, steps in zip(NAMES, (4, 8), strict=True)
    ]
    plan = Plan(studies, "eager")
    carry_out(plan, tmp_path / "runs")
    for study in studies:
        sealed_table.write(study_rows(study, plan, tmp_path / "runs"), tmp_path / f"rows/quick/{study.name}.parquet")
    assert not GivenRows.read(studies, "eager", tmp_path / "rows").left(plan, tmp_path / "new").runs
    longer = tmp_path / "rows/quick/more.parquet"
    sealed_table.write(sealed_table.read(longer).filter(pl.col("step") < 8), longer)
    given = GivenRows.read(studies, "eager", tmp_path / "rows")
    assert [list(given.of(study)) for study in studies] == [list(plan.runs), []]
    assert given.left(plan, tmp_path / "new").runs.keys() == plan.runs.keys()


def test_the_same_is_done_in_python(trained, tmp_path, monkeypatch):
    """Fails if `run` or `plan` of a study in Python ignores given rows."""
    launcher = Here()
    monkeypatch.setattr("miclab.studies.launchers.local.LocalLauncher", lambda workers: launcher)
    study = miclab.study(tiny_study(tmp_path, 2, **CHANGES, profiles=of_seeds(0, 1)).file)
    root = tmp_path / "runs"
    assert [row["status"] for row in study.plan(root).as_json()].count("new") == 6
    found = study.run(root, rows=trained / "rows")
    assert launcher.tasks == []
    assert [row["status"] for row in found.as_json()] == [
        row["status"] for row in study.plan(root, rows=trained / "rows").as_json()
    ]
    assert {row["status"] for row in found.as_json()} == {"rows", "unneeded"}
    assert table_of(tmp_path).equals(table_of(trained))


def test_a_directory_without_the_studys_table_is_named(tmp_path):
    study = load_study(write_study(tmp_path, **study_mapping()), "quick")
    with pytest.raises(MiclabError, match=r"none/quick/tiny\.parquet: expected the table of the study 'tiny'"):
        GivenRows.read([study], "eager", tmp_path / "none")
