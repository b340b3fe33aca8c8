"""The program that spends a GPU's minutes on the paper's studies, at tiny size on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_study import Here, carry_out, contents, write_study

from benchmarks import gpu_paper
from miclab.claims.ledger import chosen
from miclab.cli import main
from miclab.studies.launchers import local
from miclab.studies.rows import table_file
from miclab.studies.sealed_table import read_rows
from miclab.studies.study import load_study
from miclab.training.trajectory import Trajectory

ROOT = Path(__file__).parents[1]
CLAIMS = ("M1", "M7", "M8", "U5", "X9", "X2", "U1", "M6", "U7")
STEPS = 12
REQUEST = {"steps": STEPS, "evaluate_every": 6, "checkpoint_every": 6, "sequences": 3, "novel_sets": 2}
WITHOUT = """
import sys
from importlib.machinery import PathFinder


class Missing(PathFinder):
    # It does not find them, and raises nothing: torch looks for packages that it can do without.
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = "yaml polars joblib tyro rich PIL scipy sklearn plotly matplotlib"
        return None if name.partition(".")[0] in missing.split() else super().find_spec(name, path, target)


sys.meta_path[:] = [Missing if finder is PathFinder else finder for finder in sys.meta_path]
from benchmarks.gpu_paper import main

sys.exit(main())
"""


@pytest.fixture
def words(tmp_path, monkeypatch) -> list[str]:
    """Arguments for two tiny studies in the current directory, of which one has stage 2."""
    monkeypatch.chdir(tmp_path)
    changes = {"config": {"numerics": {"mode": "auto"}, "decoder": {"layers": 1}}}
    changes["profiles"] = {"quick": {"seeds": [0, 1], "request": REQUEST}}
    write_study(tmp_path / "studies", 2, "two", **changes, probes=["entropy"])
    write_study(tmp_path / "studies", 1, "one", **changes)
    return ["--study", "two", "one", "--preset", "quick", "--lanes", "2", "--device", "cpu", "--json"]


def call(words: list[str], capsys) -> list[dict]:
    """What a call prints as JSON."""
    capsys.readouterr()
    assert gpu_paper.main(words) == 0
    return json.loads(capsys.readouterr().out)


def without_libraries(words: list[str]) -> subprocess.CompletedProcess[str]:
    """A call in a Python that has torch and NumPy alone."""
    own = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", WITHOUT, *words], capture_output=True, text=True, env=own)


def test_the_studies_are_those_of_the_claims_that_matter_most():
    """Fails if a claim gets another study, or the order is not that of the claims."""
    claims = {entry.id: entry.studies for entry in chosen(CLAIMS)}
    assert tuple(dict.fromkeys(study for claim in CLAIMS for study in claims[claim])) == gpu_paper.STUDIES
    assert all((ROOT / "studies" / f"{name}.yaml").is_file() for name in gpu_paper.STUDIES)


def test_a_call_that_ran_out_of_time_goes_on_to_the_same_bits(words, tmp_path, monkeypatch, capsys):
    """Fails if the limit does not stop a group, loses its steps or changes a bit of it, or if its runs cannot become
    the table of their study without a further step."""
    take, hour = Trajectory.take, 0.0

    def struck(self, losses):
        nonlocal hour
        take(self, losses)
        if self.step == 3:
            # The limit is over in the middle of a group. A minute is for machines on which the signal never comes.
            hour, end = 9999.0, time.monotonic() + 60
            while not self.signals.received and time.monotonic() < end:
                time.sleep(0.01)

    with monkeypatch.context() as patch:
        patch.setattr(Trajectory, "take", struck)
        patch.setattr(gpu_paper, "AGAIN", 0.01)
        patch.setattr(gpu_paper, "time", SimpleNamespace(monotonic=lambda: hour))
        found = call(words, capsys)
    states = {one["study"]: one for one in found if "study" in one}
    assert 0 < found[-1]["steps"] < STEPS
    assert sum(one["done"] for one in states.values()) == 0
    assert sum(one["failed"] for one in states.values()) == 0
    found = call(words, capsys)
    assert [one["done"] for one in found if "study" in one] == [2, 2]
    options = gpu_paper.Options(study=("two", "one"), preset="quick", lanes=2)
    plan = gpu_paper.made_plan(options, "cpu")
    carry_out(plan, tmp_path / "whole")
    once, twice = contents(tmp_path / "whole"), contents(tmp_path / "build" / "gpu-runs")
    assert len(once) > 10
    assert {name: text for name, text in twice.items() if ".studies" not in name} == {
        name: text for name, text in once.items() if ".studies" not in name
    }
    # Where miclab is installed, the runs become analyses and a table that can be committed.
    same = ["--preset", "quick", "--lanes", "2", "--device", "cpu", "--sampler", "device", "--runs", "build/gpu-runs"]
    monkeypatch.setattr(local, "LocalLauncher", lambda workers: Here())
    monkeypatch.setattr(Trajectory, "take", None)
    assert main(["study", "run", "studies/two.yaml", *same]) == 0
    rows = read_rows(table_file(load_study(tmp_path / "studies" / "two.yaml", "quick")))
    assert set(rows["status"]) == {"finished"}
    assert set(rows["run"]) == set(plan.members["two"])


def test_a_limit_that_is_over_begins_nothing(words, capsys):
    """Fails if a call without time trains, or marks its runs as failed."""
    found = call([*words, "--limit", "0.000001"], capsys)
    assert found[-1]["steps"] == 0
    assert [one["new"] for one in found if "study" in one] == [2, 2]


def test_a_machine_without_yaml_takes_the_plan_of_another(words, tmp_path, capsys):
    """Fails if the plan needs a library that such a machine lacks, or the refusal does not name it."""
    ended = without_libraries(words)
    assert ended.returncode == 2
    assert "PyYAML is not installed" in ended.stderr
    assert "--device cpu --only-plan" in ended.stderr
    (made,) = call([*words, "--only-plan"], capsys)
    assert made["runs"] == 6
    ended = without_libraries(words)
    assert ended.returncode == 0, ended.stderr
    assert [one["done"] for one in json.loads(ended.stdout) if "study" in one] == [2, 2]
    ended = without_libraries([*words, "--lanes", "3"])
    assert ended.returncode == 2
    assert "--lanes = 3" in ended.stderr


def test_without_a_gpu_nothing_is_trained_unless_it_is_said(words, tmp_path, monkeypatch, capsys):
    """Fails if `make gpu` keeps a laptop busy, or a plan for an unnamed device is made."""
    monkeypatch.setattr(gpu_paper, "device_here", lambda wanted: "cpu")
    assert gpu_paper.main(words[:-3]) == 0
    assert "no GPU is here" in capsys.readouterr().out
    assert not (tmp_path / "build").exists()
    assert gpu_paper.main([*words[:-3], "--only-plan"]) == 2
    assert "--device" in capsys.readouterr().err
