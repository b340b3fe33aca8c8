"""`miclab study plan` shows the values of the axes of every run, and the names that runs were given."""

from __future__ import annotations

import json
import re
from itertools import product

import pytest
import yaml

from miclab.cli import main
from miclab.runs.find import create
from miclab.runs.label import Label
from miclab.studies.listing import short_axes, shown
from miclab.studies.mode import long_mode
from miclab.studies.plan import Plan
from miclab.studies.study import load_study
from miclab.worlds.world import draw_world

CLASSES, COPIES = [16, 32], [1, 2]
AXES = ("modalities.m1.classes", "sequence.burstiness")


@pytest.fixture
def study(tmp_path):
    config = {"modalities": {"m1": {"classes": 32, "dimension": 8, "labels": 8}}, "sequence": {"context": 4}}
    content = {
        "title": "t", "answers": [], "stage": "unimodal", "config": config,
        "grid": [{"product": {AXES[0]: CLASSES, AXES[1]: COPIES}}],
        "profiles": {"quick": {"seeds": [0], "request": {"steps": 2, "sequences": 4, "novel_sets": 2}}},
    }  # fmt: skip
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def printed(capsys, *arguments: object) -> str:
    assert main(["study", "plan", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_every_run_stands_with_the_values_of_its_axes(study, tmp_path, capsys):
    where = (study, "--runs", tmp_path / "runs")
    found = json.loads(printed(capsys, *where, "--json"))
    assert [tuple(run["axes"].values()) for run in found] == list(product(CLASSES, COPIES))
    assert all(tuple(run["axes"]) == AXES for run in found)
    lines = printed(capsys, *where).splitlines()
    cells = [[one.strip() for one in re.split("[┃│]", line)] for line in lines]
    assert cells[0] == ["run", "classes", "burstiness", "seed", "steps", "status", "step", "parent"]
    assert [tuple(map(int, line[1:3])) for line in cells[2:6]] == list(product(CLASSES, COPIES))


def test_a_named_run_stands_under_its_name(study, tmp_path, capsys):
    where = (study, "--runs", tmp_path / "runs")
    planned = next(iter(Plan([load_study(study, "quick")], lambda: long_mode(tmp_path / "runs")).runs.values()))
    run = create(tmp_path / "runs", planned.config, draw_world(planned.config).tensors())
    run.label = Label("the first")
    run.note("stopped", "for a test")
    by_run = {one["run"]: one["name"] for one in json.loads(printed(capsys, *where, "--json"))}
    assert by_run.pop(run.path.name) == "the first"
    assert set(by_run.values()) == {""}
    assert "the first" in printed(capsys, *where)


def test_values_are_short_and_axes_are_distinguished():
    assert [shown(v) for v in (True, None, 0.001, [8, 4], (), {"a": 1}, "rope")] == [
        "yes", "-", "0.001", "8,4", "default", "a=1", "rope",
    ]  # fmt: skip
    assert len(shown("a" * 100)) < 30
    assert short_axes(("modalities.m1.classes", "modalities.m2.classes", "sequence.burstiness")) == [
        "m1.classes", "m2.classes", "burstiness",
    ]  # fmt: skip
