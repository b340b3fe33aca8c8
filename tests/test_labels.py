"""Runs have names and tags that their owner gives and changes, and that are no part of what is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_config

from miclab.cli import main
from miclab.config.request import Request
from miclab.errors import ConfigError, RunError
from miclab.report.run.names import short_names
from miclab.runs.find import find, open_run
from miclab.runs.label import FILE, LONGEST_NAME, MOST_TAGS, Label, tags_of
from miclab.runs.run import Run
from miclab.training.loop import train_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> list[Run]:
    """Three runs of a few steps."""
    root, request = tmp_path_factory.mktemp("runs"), Request(steps=2, sequences=4, novel_sets=2)
    return [train_config(tiny_config(1, seed=seed), request, root)[0] for seed in range(3)]


@pytest.fixture
def runs(trained) -> list[Run]:
    """The runs without any label."""
    for run in trained:
        (run.path / FILE).unlink(missing_ok=True)
    return [open_run(run.path) for run in trained]


def called(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    "name",
    [
        "a" * (LONGEST_NAME + 1),
        "a\nb",
        "a\x1b[31mb",
        "\u202eb",
        "a\u2028b",
        " a",
        "-json",
        "a/b",
        "run@5",
        "a,b",
        "a\\b",
    ],
)
def test_names_that_mislead_are_refused(name):
    with pytest.raises(ConfigError):
        Label(name)
    with pytest.raises(ConfigError):
        Label(tags=(name,))


def test_tags_are_few_and_each_is_there_once():
    assert tags_of(" a, b ") == ("a", "b")
    assert tags_of("") == tags_of("  ") == ()
    for tags in (("a", "a"), tuple(map(str, range(MOST_TAGS + 1))), ("",)):
        with pytest.raises(ConfigError):
            Label(tags=tags)


@given(st.text(max_size=LONGEST_NAME + 5))
def test_a_name_is_kept_as_it_is_or_refused(trained, name):
    """Fails if a name could not be read again, or has a letter that a terminal obeys."""
    run = trained[2]
    try:
        label = Label(name, ("t",))
    except ConfigError:
        return
    run.label = label
    assert open_run(run.path).label == label
    assert name.isprintable() or all(ord(letter) >= 32 for letter in name)
    assert find(name, run.path.parent).hash == run.hash if name else True


def test_a_label_changes_nothing_else(runs):
    run = runs[0]
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    run.label = Label("first", ("a", "b"))
    after = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    assert after.keys() - before.keys() == {run.path / FILE}
    assert all(after[file] == content for file, content in before.items())
    assert run.verify() == []
    # A run that goes on keeps it, and it changes while another process holds the run.
    with run.locked():
        open_run(run.path).label = Label("second")
    assert run.title == "second"


def test_a_run_is_found_by_its_name_where_one_run_has_it(runs):
    root = runs[0].path.parent
    # Also where another's directory begins so.
    runs[1].label = Label(runs[0].path.name[:8])
    assert find(runs[0].path.name[:8], root).hash == runs[1].hash
    assert find(runs[0].path.name, root).hash == runs[0].hash
    runs[0].label = runs[1].label
    with pytest.raises(RunError, match="is the name of 2 runs"):
        find(runs[0].path.name[:8], root)


def test_a_damaged_label_is_named_and_the_run_is_read(runs):
    run = runs[0]
    run.label = Label("first")
    (run.path / FILE).write_text('{"manifest": {"name": "evil"}, "sha256": "0"}')
    opened = open_run(run.path)
    assert opened.title == run.path.name
    assert "--rename" in opened.warnings[0]


def test_a_report_calls_runs_by_their_names_and_distinguishes_equal_ones(runs):
    runs[0].label = Label("a")
    assert short_names(runs) == ["a", runs[1].path.name, runs[2].path.name]
    runs[1].label = Label("a")
    assert short_names(runs) == [f"a ({runs[0].path.name})", f"a ({runs[1].path.name})", runs[2].path.name]


def test_the_commands_give_show_and_change_labels(runs, capsys, tmp_path):
    root = runs[0].path.parent
    where = ("--runs", root)
    status, _, _ = called(
        capsys, "runs", *where, "--rename", runs[0].path.name, "base", "--retag", runs[0].path.name, "x,y"
    )
    assert status == 0
    listed = json.loads(called(capsys, "runs", *where, "--json")[1])
    by_run = {one["run"]: (one["name"], one["tags"]) for one in listed}
    assert by_run[runs[0].path.name] == ("base", ["x", "y"])
    assert by_run[runs[1].path.name] == ("", [])
    assert [one["run"] for one in json.loads(called(capsys, "runs", *where, "--tagged", "y", "--json")[1])] == [
        runs[0].path.name
    ]
    assert "base" in called(capsys, "runs", *where)[1]
    shown = called(capsys, "show", "base", *where, "--json")[1]
    assert json.loads(shown)["tags"] == ["x", "y"]
    status, _, message = called(capsys, "runs", *where, "--rename", "base", "a\tb")
    assert status == 2
    assert "control characters" in message
    assert called(capsys, "runs", *where, "--rename", "base", "")[0] == 0
    assert Path(runs[0].path / FILE).exists()
    assert open_run(runs[0].path).label == Label("", ("x", "y"))


def test_train_labels_its_run_and_no_hash(capsys, tmp_path):
    sizes = (
        "--request.sequences",
        4,
        "--request.novel-sets",
        2,
        "--numerics.mode",
        "eager",
        "--runs",
        tmp_path,
        "--json",
    )
    train = ("train", "unimodal", "--modalities.m1.classes", 64, "--request.steps", 1, *sizes)
    first = json.loads(called(capsys, *train, "--name", "first", "--tags", "a,b")[1])
    again = json.loads(called(capsys, *train)[1])
    assert first["run"] == again["run"]
    assert open_run(first["run"]).label == Label("first", ("a", "b"))
    status, _, message = called(capsys, *train, "--name", "a/b")
    assert status == 2
    assert "name = 'a/b'" in message
