"""The table of a study: what its columns say, that it grows with the runs, and that it survives the runs."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from tiny_study import carry_out, planned, tiny_study

from miclab.config import schema
from miclab.errors import MiclabError
from miclab.runs.find import glance, open_run
from miclab.studies import rows, sealed_table, state
from miclab.studies.plan import Plan
from miclab.studies.rows import LEADING, StudyTable, flat, study_rows, table_file, write_table
from miclab.studies.state import State
from miclab.studies.study import load_study
from miclab.training.loop import train_config

BURSTS = "sequence.burstiness"
COMMITTED = Path(__file__).parent.parent / "studies/rows"


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory):
    """A study of two stages with analyses, whose points differ in an axis of each block, and whose last one fails."""
    folder = tmp_path_factory.mktemp("study")
    grid = [
        {"product": {"modalities.m2.noise": [0, 0.5]}},
        {"product": {BURSTS: [1]}, "config": {"optimiser": {"name": "sgd", "learning_rate": 1e30, "warmup_steps": 0}}},
    ]
    study = tiny_study(folder, 2, grid=grid, probes=["ablation", "context"], probe_contexts=[4],
                       parent={"config": {"optimiser": {"name": "adamw", "learning_rate": 1e-3}}},
                       profiles={"quick": {"seeds": [3]}})  # fmt: skip
    plan = planned(study)
    carry_out(plan, folder / "runs")
    return study, plan, folder / "runs"


def test_there_is_a_row_for_each_metric_row_and_one_for_a_failed_run(carried_out):
    study, plan, root = carried_out
    frame = study_rows(study, plan, root)
    first, second, failed = plan.members["tiny"]
    expected = [(h, step, step == 4) for h in (first, second) for step in (0, 1, 2, 4)] + [(failed, None, True)]
    assert frame.select("run", "step", "last").rows() == expected
    assert frame["status"].to_list() == ["finished"] * 8 + ["failed"]
    assert frame["reason"][-1].startswith("diverged: ")
    assert set(frame["study"]) == {"tiny"}
    assert set(frame["profile"]) == {"quick"}
    assert set(frame["stage"]) == {"multimodal"}
    assert set(frame["seed"]) == {3}


def test_the_columns_are_those_of_the_contract(carried_out):
    study, plan, root = carried_out
    frame = study_rows(study, plan, root)
    assert frame.columns[: len(LEADING)] == list(LEADING)
    assert {name: frame.schema[name] for name in LEADING} == LEADING
    # The axis of the other block has its value from the configuration.
    assert frame.select("modalities.m2.noise", BURSTS).unique(maintain_order=True).rows() == [
        (0.0, 2), (0.5, 2), (0.1, 1),
    ]  # fmt: skip
    run = plan.runs[plan.members["tiny"][0]]
    last = frame.filter((pl.col("run") == run.hash) & pl.col("last")).row(0, named=True)
    disk = open_run(root / run.name)
    row = disk.rows()[-1]
    assert last["parent"] == run.parent == run.config.parent.run
    assert json.loads(last["config"]) == schema.to_mapping(disk.config)
    assert {s: last[s] for s in row["accuracy"]} == row["accuracy"]
    assert {s: last[f"cla.{s}"] for s in row["accuracy"]} == row["context_label_accuracy"]
    assert (last["icl_sets"], last["loss"]) == (row["icl_sets"], row["loss"])
    for name, layers in row["measures"].items():
        assert [[last[f"measure.{name}.{i + 1}.{j + 1}"] for j in range(1)] for i in range(2)] == layers
    assert last["probe.context.4"] == row["accuracy"]["icl"]
    assert last["probe.context.4.sets"] == row["icl_sets"]
    assert last["probe.ablation.untouched"] == row["accuracy"]["icl"]
    assert len(last["probe.ablation.items of m2 zeroed.sets"]) == 2
    assert frame.filter(pl.col("last").not_())["probe.context.4"].to_list() == [None] * 6


def test_other_numbers_of_a_metric_row_have_columns_of_their_own():
    assert flat("a", {"b": {"c": 1.0}, "d": [1, 2]}) == {"a.b.c": 1.0, "a.d": [1, 2]}
    row = {"step": 1, "loss": None, "accuracy": {}, "context_label_accuracy": {}, "icl_sets": [], "measures": {},
           "alignment": {"m2": {"cka": 0.5}}}  # fmt: skip
    assert rows.metric_columns(row) == {"icl_sets": [], "alignment.m2.cka": 0.5}


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        ([1, 2, None], pl.Int64, [1, 2, None]),
        ([1, 2.5], pl.Float64, [1.0, 2.5]),
        (["a", None], pl.String, ["a", None]),
        ([True, False], pl.Boolean, [True, False]),
        ([[], ["decoder"]], pl.String, ["[]", '["decoder"]']),
        ([[1], [2.5, None]], pl.List(pl.Float64), [[1.0], [2.5, None]]),
        ([1, "a"], pl.String, ["1", '"a"']),
        ([None], pl.Int64, [None]),
    ],
)
def test_an_axis_of_any_values_becomes_a_column(values, kind, stored):
    column = rows._frame(lambda: iter([[{"axis": value}] for value in values]), ("axis",))["axis"]
    assert (column.dtype, column.to_list()) == (kind, stored)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_table_does_not_depend_on_how_many_rows_are_made_at_a_time(batch, carried_out, monkeypatch):
    study, plan, root = carried_out
    whole = sealed_table.table_bytes(study_rows(study, plan, root))
    monkeypatch.setattr(rows, "BATCH", batch)
    assert sealed_table.table_bytes(study_rows(study, plan, root)) == whole


def test_a_table_is_the_same_bytes_when_made_again_and_can_be_read_without_runs(carried_out, tmp_path):
    study, plan, root = carried_out
    frame = study_rows(study, plan, root)
    write_table(frame, tmp_path / "one.parquet")
    write_table(study_rows(study, planned(study), root), tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert sealed_table.read(tmp_path / "one.parquet").equals(frame)
    write_table(frame, tmp_path / "table.csv")
    again = pl.read_csv(tmp_path / "table.csv")
    assert again["icl"].to_list() == frame["icl"].to_list()
    assert json.loads(again["icl_sets"][0]) == frame["icl_sets"].to_list()[0]
    with pytest.raises(MiclabError, match=r"table\.txt: a table is written as \.parquet or \.csv"):
        write_table(frame, tmp_path / "table.txt")
    with pytest.raises(MiclabError, match=r"no\.parquet: expected a table that can be read"):
        sealed_table.read(tmp_path / "no.parquet")


def test_a_table_is_written_at_most_every_half_minute_and_reads_each_run_once(carried_out, monkeypatch):
    study, plan, root = carried_out
    states = state.survey(plan, root)
    first, second, _ = plan.members["tiny"]
    clock, read = [100.0], []
    monkeypatch.setattr(rows.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(rows, "glance", lambda root, name, config: read.append(name) or glance(root, name, config))
    table = StudyTable(study, plan, root)
    file = table_file(study)
    assert file == study.file.parent / "rows/quick/tiny.parquet"
    file.unlink(missing_ok=True)

    def ended(*hashes: str) -> dict[str, State]:
        return {identity: states[identity] if identity in hashes else state.NEW for identity in states}

    table.write(ended(first))
    assert sealed_table.read(file)["run"].unique().to_list() == [first]
    clock[0] += 29
    table.write(ended(first, second))
    assert sealed_table.read(file)["run"].n_unique() == 1
    clock[0] += 2
    table.write(ended(first, second))
    assert sealed_table.read(file)["run"].n_unique() == 2
    file.unlink()
    table.write(states, now=True)
    assert sealed_table.read(file)["run"].n_unique() == 3
    assert read == [plan.runs[first].name, plan.runs[second].name]


def test_rows_of_another_request_are_left_out(tmp_path):
    """A run that another study trained for longer, or evaluated more often, gives a table the rows that it requests."""
    study = tiny_study(tmp_path, profiles={"quick": {"seeds": [0]}})
    plan = planned(study)
    carry_out(plan, tmp_path / "runs")
    frame = study_rows(study, plan, tmp_path / "runs")
    more = tiny_study(tmp_path, name="more", profiles={"quick": {"seeds": [0], "request": {"steps": 8}}})
    carry_out(planned(more), tmp_path / "runs")
    assert study_rows(study, planned(study), tmp_path / "runs").equals(frame)
    dense = {**tiny_study(tmp_path).request, "evaluate_every": 1, "checkpoint_every": 4}
    run = next(iter(plan.runs.values()))
    train_config(run.config, schema.from_mapping(type(run.request), dense, "", run.request), tmp_path / "dense")
    found = study_rows(study, plan, tmp_path / "dense")
    assert found["step"].to_list() == frame["step"].to_list()
    assert found.drop("loss").equals(frame.drop("loss"))


def test_a_run_whose_rows_are_damaged_has_failed(carried_out):
    """The rows before the damage would pass for those of a shorter run."""
    study, plan, root = carried_out
    states = state.survey(plan, root)
    run = plan.runs[plan.members["tiny"][0]]
    file = root / run.name / "rows" / "000000002.jsonl"
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-1])
        frame = StudyTable(study, plan, root).frame(states)
    finally:
        file.write_bytes(content)
    found = frame.filter(pl.col("run") == run.hash).select("step", "last", "status", "reason").rows()
    assert [row[:3] for row in found] == [(None, True, "failed")]
    assert "000000002.jsonl is damaged" in found[0][3]


def test_a_damaged_analysis_is_named_and_its_columns_are_empty(carried_out):
    study, plan, root = carried_out
    states = state.survey(plan, root)
    run = plan.runs[plan.members["tiny"][0]]
    file = root / run.name / "analyses" / "000000004.ablation.3x2.json"
    content = file.read_bytes()
    table = StudyTable(study, plan, root)
    try:
        file.write_bytes(content[:-1])
        frame = table.frame(states)
    finally:
        file.write_bytes(content)
    last = frame.filter((pl.col("run") == run.hash) & pl.col("last")).row(0, named=True)
    assert (last["status"], last["probe.ablation.untouched"]) == ("finished", None)
    assert last["probe.context.4"] is not None
    assert any("ablation.3x2.json is damaged" in line for line in table.warnings)


def test_a_table_that_was_found_keeps_the_runs_that_are_not_here(tmp_path):
    """Fails if going on with a study in a fresh checkout loses committed rows, keeps rows that are too short now, or
    keeps those of runs that are no longer planned."""
    study = tiny_study(tmp_path)
    plan = planned(study)
    carry_out(plan, tmp_path / "runs")
    states = state.survey(plan, tmp_path / "runs")
    StudyTable(study, plan, tmp_path / "runs").write(states, now=True)
    whole = sealed_table.read(table_file(study))
    first = plan.members["tiny"][0]
    nothing = dict.fromkeys(states, state.NEW)
    StudyTable(study, plan, tmp_path / "runs").write({**nothing, first: states[first]}, now=True)
    assert sealed_table.read(table_file(study)).equals(whole)
    fewer = tiny_study(tmp_path, profiles={"quick": {"seeds": [1]}})
    less = planned(fewer)
    StudyTable(fewer, less, tmp_path / "none").write(state.survey(less, tmp_path / "none"), now=True)
    assert sealed_table.read(table_file(study))["run"].unique().to_list() == less.members["tiny"]
    longer = tiny_study(tmp_path, profiles={"quick": {"seeds": [1], "request": {"steps": 8}}})
    more = planned(longer)
    StudyTable(longer, more, tmp_path / "none").write(state.survey(more, tmp_path / "none"), now=True)
    assert sealed_table.read(table_file(study)).is_empty()


@pytest.mark.parametrize("table", sorted(COMMITTED.glob("*/*.parquet")), ids=lambda path: path.stem)
def test_committed_rows_belong_to_the_runs_that_their_study_plans(table):
    """Fails if a change to the reading of studies, to defaults or to hashes makes other runs of the same file."""
    study = load_study(COMMITTED.parent / f"{table.stem}.yaml", table.parent.name)
    requested = Plan([study], "compiled").requested[study.name]
    ends = pl.read_parquet(table, columns=["run", "step", "last", "reason"]).filter("last")
    assert set(ends["run"]) <= set(requested)
    # A run may end before its last step where its study says so.
    early = {
        run for run, reason in ends.select("run", "reason").iter_rows() if reason.startswith(("plateau", "enough"))
    }
    assert all(requested[run].may_end_early for run in early)
    assert {r: step for r, step, *_ in ends.iter_rows() if step != requested[r].steps and r not in early} == {}


def test_what_another_study_requests_of_a_run_is_not_in_the_rows(tmp_path):
    """The shorter study's table ends at its own step, with the analyses of that step, whoever was planned first."""
    root = tmp_path / "runs"
    profiles = {"quick": {"seeds": [0], "request": {"steps": 8, "checkpoint_every": 8}}}
    short = tiny_study(tmp_path, name="short", profiles={"quick": {"seeds": [0]}}, probes=["ablation"])
    long = tiny_study(tmp_path, name="long", profiles=profiles, probes=["ablation"])
    alone = planned(short)
    carry_out(alone, tmp_path / "alone")
    expected = study_rows(short, alone, tmp_path / "alone")
    for order in ((short, long), (long, short)):
        plan = planned(*order)
        carry_out(plan, root)
        assert study_rows(short, plan, root).equals(expected)
        assert study_rows(long, plan, root)["step"].max() == 8
    # Trained longer without the shorter end being kept: the checkpoint is made again.
    carry_out(planned(long), tmp_path / "other")
    carry_out(alone, tmp_path / "other")
    assert study_rows(short, alone, tmp_path / "other").equals(expected)
