"""`miclab reproduce`: trains what claims lack, then prints the ledger."""

from __future__ import annotations

import json

import polars as pl
import pytest
from claims_rows import make_rows, studies_directory

from miclab.claims.evidence import Evidence
from miclab.claims.ledger import RUN_ORDER, chosen, judged, studies_to_run
from miclab.cli import main
from miclab.cli.study_options import RunOptions
from miclab.cli.terminal import parse

TINY = """
title: two small runs
stage: multimodal
config: {numerics: {mode: eager}, modalities: {m1: {classes: 64}, m2: {classes: 32}}}
parent: {steps: 4, request: {evaluate_every: 2, checkpoint_every: 2, sequences: 4, novel_sets: 2}}
probes: [knockout, ablation]
grid: [{product: {modalities.m2.classes: [32]}}]
profiles:
  quick: {seeds: [0, 1], request: {steps: 4, evaluate_every: 2, checkpoint_every: 4, sequences: 4, novel_sets: 2}}
"""


def test_run_order_names_studies_of_claims_once():
    named = {study for one in chosen(()) for study in one.studies}
    assert set(RUN_ORDER) <= named
    assert len(RUN_ORDER) == len(set(RUN_ORDER))


def test_only_studies_of_claims_that_lack_runs_are_run(tmp_path):
    directory = studies_directory(tmp_path)
    make_rows(directory, "zipf", lambda config, step: {"icl": 0.9, "iwl": 0.1})
    lines = judged(Evidence(directory, "quick"), chosen(["U2", "U3", "U5"]))
    assert studies_to_run(lines) == ["complexity", "complexity_onehot", "noise"]
    assert studies_to_run(lines, again=True) == ["complexity", "complexity_onehot", "zipf", "noise"]


def test_complete_claims_start_no_training(tmp_path, capsys, monkeypatch):
    directory = studies_directory(tmp_path)
    make_rows(directory, "zipf", lambda config, step: {"icl": 0.9, "iwl": 0.1})
    started = []
    monkeypatch.setattr("miclab.cli.study.run_study", lambda arguments: started.append(arguments) or 0)
    assert main(["reproduce", "U3", "--studies", str(directory)]) == 0
    assert not started
    assert "no run is missing" in capsys.readouterr().err
    assert main(["reproduce", "U3", "--studies", str(directory), "--again"]) == 0
    assert started[0][:2] == ["run", str(directory / "zipf.yaml")]


def test_the_launcher_is_that_of_studies(tmp_path, capsys, monkeypatch):
    """Fails if an option of the launcher is lost on the way to the studies, or one without effect is accepted."""
    directory, started = studies_directory(tmp_path), []
    monkeypatch.setattr("miclab.cli.study.run_study", lambda arguments: started.append(arguments) or 0)
    slurm = ["--launcher", "slurm", "--gpus", "2", "--workers", "3", "--slurm", "partition=gpu", "time=600"]
    assert main(["reproduce", "U3", "--studies", str(directory), *slurm]) == 0
    given = parse(RunOptions, "study run", started[0][1:])
    assert (given.launcher, given.gpus, given.workers) == ("slurm", 2, 3)
    assert (given.slurm, given.array_limit) == (("partition=gpu", "time=600"), 1000)
    assert main(["reproduce", "U3", "--studies", str(directory), "--gpus", "1"]) == 2
    assert "--gpus has no effect here: it is for --launcher ray and slurm" in capsys.readouterr().err
    assert len(started) == 1


def test_what_stopped_the_studies_is_the_exit_status_and_the_ledger_is_printed(tmp_path, capsys, monkeypatch):
    directory = studies_directory(tmp_path)
    monkeypatch.setattr("miclab.cli.study.run_study", lambda arguments: print("stopped") or 1)
    assert main(["reproduce", "M1", "--studies", str(directory), "--json"]) == 1
    text = capsys.readouterr()
    assert json.loads(text.out)[0]["verdict"] == "undecided"
    assert "stopped" in text.err


@pytest.mark.slow
def test_missing_runs_are_trained_analysed_and_judged(tmp_path, capsys):
    directory = studies_directory(tmp_path)
    (directory / "multimodal.yaml").write_text(TINY)
    runs = tmp_path / "runs"
    options = ["--studies", str(directory), "--runs", str(runs), "--workers", "1", "--json"]
    assert main(["reproduce", "M1", "M7", "M8", *options]) == 0
    found = {line["id"]: line for line in json.loads(capsys.readouterr().out)}
    assert {line["missing"] for line in found.values()} == {0}
    assert {line["runs"] for line in found.values()} == {2}
    rows = pl.read_parquet(directory / "rows" / "quick" / "multimodal.parquet")
    mean = rows.filter(pl.col("last"))["icl"].mean()
    assert found["M1"]["conditions"][0]["measured"]["mean"] == pytest.approx(mean, abs=1e-6)
