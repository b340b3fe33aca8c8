"""The demonstration: an ordinary study with claims that are no part of the ledger, and its report."""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from claims_rows import make_rows, studies_directory
from tiny_study import REQUEST, Here, study_mapping

import miclab
from miclab.circuits.find import circuit_heads
from miclab.claims import demonstration
from miclab.claims.demonstration import Demonstration
from miclab.claims.entries.demonstration import COLLECTION
from miclab.claims.evidence import Evidence
from miclab.claims.ledger import chosen, judged
from miclab.claims.registry import all_claims
from miclab.claims.verdict import Condition
from miclab.cli import main
from miclab.config.request import SplitSizes
from miclab.measures.evaluate import evaluate
from miclab.runs.find import find
from miclab.statistics.intervals import Interval
from miclab.studies.plan import Plan
from miclab.studies.study import load_study

STUDIES = Path(__file__).parents[1] / "studies"
HASHES = {
    "unimodal-rope-f284394e44bb", "multimodal-rope-87bef3db8907", "unimodal-onehot-002386f8a4ed",
    "unimodal-rope-cd2ad11eb2c3", "unimodal-rope_released-134d6ecf8a48",
}  # fmt: skip


def test_its_claims_are_in_no_ledger_and_are_found_by_name():
    """Fails if a claim of the demonstration gets into `miclab claims`, or its study names another one."""
    mine = {one.id for one in all_claims(COLLECTION)}
    assert set(load_study(STUDIES / "demo.yaml", "quick").answers) == mine
    assert mine.isdisjoint(one.id for one in all_claims())
    assert [one.id for one in chosen(["DemoM8"])] == ["DemoM8"]


def test_its_runs_are_those_of_earlier_versions():
    """Fails if the study plans other configurations than the demonstration trained before it was a study."""
    plan = Plan([load_study(STUDIES / "demo.yaml", "quick")], "compiled")
    assert {run.name for run in plan.runs.values()} == HASHES


@pytest.mark.parametrize(
    ("low", "high", "holds"), [(0.61, 0.7, True), (0.6, 0.7, False), (0.5, 0.6, False), (0.5, 0.7, False)]
)
def test_one_seed_decides_where_a_claim_speaks_of_one_run(low, high, holds):
    """Fails if one seed decides a claim of the ledger, or if the demonstration has another rule for its bounds."""
    measured = Interval((low + high) / 2, low, high, "set", 8)
    seeds = Interval((low + high) / 2, low, high, "seed", 3)
    verdicts = [
        Condition(text="", quantity="", measured=interval, low=0.6, fewest_seeds=count).verdict
        for interval, count in ((measured, 1), (seeds, 2), (measured, 2))
    ]
    assert verdicts[0] == verdicts[1]
    assert (verdicts[0] == "holds") == holds
    assert verdicts[2] not in ("holds", "fails")


def formula(config, step):
    code, two = config["decoder"]["positions"], "m2" in config["modalities"]
    found = {"icl": 0.97 if two else {"onehot": 0.99, "rope": 0.85, "rope_released": 0.95}[code]}
    found["probe.entropy.induction head"] = {"onehot": 0.1}.get(code, 0.3)
    if two:
        found |= {f"probe.knockout.{name}": value for name, value in
                  {"untouched": 0.97, "previous-token head": 0.4, "induction head": 0.06}.items()}  # fmt: skip
        found |= {f"probe.ablation.{name}": value for name, value in
                  {"items of m2 zeroed": 0.5, "items of m1 zeroed": 0.98,
                   "items of m1 and labels zeroed": 0.05}.items()}  # fmt: skip
    return found


def test_verdicts_on_rows_made_by_a_formula(tmp_path):
    """Fails if a claim takes another run's row, another bound, or the wrong side of it."""
    directory = studies_directory(tmp_path)
    make_rows(directory, "demo", formula, steps=(500, 1000))
    lines = judged(Evidence(directory, "quick"), all_claims(COLLECTION))
    found = {line.entry.id: [condition.verdict == "holds" for condition in line.findings.conditions] for line in lines}
    assert found == {
        "DemoU5": [True, True, False], "DemoU6": [True], "DemoM1": [True], "DemoM7": [True, True],
        "DemoM8": [True, False], "DemoX8": [True],
    }  # fmt: skip
    assert {line.runs for line in lines} == {1, 2, 3}
    notes = [note for line in lines for note in line.findings.notes]
    assert "rope: ICL of 0.9 is not reached" in notes
    assert "onehot: ICL of 0.9 is reached at step 500" in notes


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The demonstration with tiny trainings in this process, and the launchers that carried them out."""
    data = study_mapping(2, probes=["knockout", "ablation", "entropy"])
    config = data.pop("config")
    modalities, shared = config.pop("modalities"), {**config, "numerics": {"mode": "eager"}}
    alone = {name: part for name, part in modalities.items() if name == "m1"}
    grid = [
        {"product": {"decoder.positions": ["rope"]}, "config": {**shared, "modalities": modalities}},
        {"stage": "unimodal", "product": {"decoder.positions": ["onehot", "rope", "rope_released"]},
         "config": {**shared, "modalities": alone}},
    ]  # fmt: skip
    answers = yaml.safe_load((STUDIES / "demo.yaml").read_text())["answers"]
    data |= {"answers": answers, "grid": grid, "profiles": {"quick": {"seeds": [0], "request": dict(REQUEST)}}}
    files = tmp_path / "files"
    files.mkdir()
    (files / "demo.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.setattr(demonstration, "studies_directory", lambda: files)
    launchers: list[Here] = []
    monkeypatch.setattr(
        "miclab.studies.launchers.local.LocalLauncher", lambda workers=0: launchers.append(Here()) or launchers[-1]
    )
    monkeypatch.chdir(tmp_path)
    return launchers


def test_it_trains_once_and_writes_page_and_picture(tiny, tmp_path, capsys):
    """Fails if a second call trains, if an entropy is not that of the strongest induction head, if the page or the
    picture is missing or holds what the table does not say, or if anything but runs and pages is written."""
    assert main(["demo", "--picture", "demo.svg", "--json"]) == 0
    captured = capsys.readouterr()
    first = json.loads(captured.out)
    assert len(tiny[0].tasks) == 5
    assert [claim["id"] for claim in first["claims"]] == ["DemoU5", "DemoU6", "DemoM1", "DemoM7", "DemoM8", "DemoX8"]
    assert all(claim["runs"] and not claim["missing"] for claim in first["claims"])
    page = html.unescape((tmp_path / "demo.html").read_text())
    assert all(claim["statement"] in page for claim in first["claims"])
    assert "<svg" in (tmp_path / "demo.svg").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.html", "demo.svg", "files", "runs"]

    assert main(["demo"]) == 0
    captured = capsys.readouterr()
    assert not tiny[1].tasks
    assert "nothing is trained" in captured.err
    assert "the paper's figures beside ours" in captured.out

    found = Demonstration.open("runs")
    run = find(next(run.name for run in found.plan.runs.values() if run.config.variety == "onehot"), "runs")
    strengths = evaluate(run, splits=("icl",), sizes=SplitSizes(sequences=3, novel_sets=2)).scores["icl"].strengths
    layer, head = circuit_heads({name: value.mean(0) for name, value in strengths.items()}).induction
    frame = found.evidence.rows("demo")
    row = frame.filter((frame["run"] == run.hash) & frame["last"]).row(0, named=True)
    np.testing.assert_allclose(
        row["probe.entropy.induction head.sets"], strengths["entropy"][:, layer, head], atol=1e-6
    )


def test_functions_do_what_the_commands_do(tiny, tmp_path):
    """Fails if `miclab.reproduce` trains what is there, or writes its rows elsewhere than beside the study, or if
    `miclab.demo` trains again what `reproduce` has trained."""
    ended = []
    ledger = miclab.reproduce("DemoM8", "DemoX8", studies="files", on_progress=lambda *now: ended.append(now))
    assert [one.id for one in ledger] == ["DemoM8", "DemoX8"]
    assert all(one.line.runs and not one.line.missing for one in ledger)
    assert ended[-1] == (5, 5)
    assert (tmp_path / "files/rows/quick/demo.parquet").is_file()
    found = miclab.demo("mine.html")
    assert [len(launcher.tasks) for launcher in tiny] == [5, 0]
    assert found.frame()["claim"].to_list() == list(found.study.answers)
    assert (tmp_path / "mine.html").is_file()
    miclab.reproduce("DemoM8", studies="files")
    assert len(tiny) == 2, "rows are complete"
    with pytest.raises(miclab.RunError, match="no directory"):
        miclab.demo("nowhere/mine.html")


def test_another_file_is_not_overwritten_and_nothing_is_trained_for_it(tiny, tmp_path, capsys):
    for name, arguments in (("demo.html", []), ("mine.svg", ["--output", "new.html", "--picture", "mine.svg"])):
        (tmp_path / name).write_text("mine")
        assert main(["demo", *arguments]) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "mine"
    assert not tiny
