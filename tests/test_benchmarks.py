"""Every benchmark is a program: it explains itself, and refuses what it cannot do in words."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import program
from benchmarks.program import FailedError, Line
from miclab.errors import MiclabError

ROOT = Path(__file__).parents[1]
NAMES = sorted(
    file.stem for file in (ROOT / "benchmarks").glob("*.py") if re.search(r"^if __name__ == ", file.read_text(), re.M)
)
NEEDED = {"goldens": ["write", "somewhere"], "paths": ["no-such-run"]}
"""Arguments that have no defaults."""


def started(name: str, *arguments: str) -> int:
    """Exit status of a benchmark in this process, so that torch is imported once for all of them."""
    try:
        return importlib.import_module(f"benchmarks.{name}").main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def explained(options: type) -> dict[str, bool]:
    """Whether a string stands below each option of a dataclass, by the option's name."""
    (own,) = ast.parse(inspect.getsource(options)).body
    assert isinstance(own, ast.ClassDef)
    pairs = zip(own.body, [*own.body[1:], None], strict=True)
    return {
        ast.unparse(part.target): isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        for part, below in pairs
        if isinstance(part, ast.AnnAssign)
    }


@pytest.mark.parametrize("name", NAMES)
def test_it_explains_every_option_and_refuses_others(name: str, capsys):
    """Fails if a benchmark starts to measure, ends in a traceback, or has an option without an explanation."""
    assert started(name, "--help") == 0
    text = capsys.readouterr().out
    assert f"python -m benchmarks.{name}" in text
    assert "--json" in text
    options = explained(importlib.import_module(f"benchmarks.{name}").Options)
    assert options
    assert all(options.values())
    assert started(name, *NEEDED.get(name, []), "--nonsense", "1") == 2
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("step", ["nowhere", "--rounds", "1"], "positions"),
        ("growth", ["--rounds", "0"], r"--rounds = 0 .*above 0"),
        ("ledger", ["--ids", "U99"], "U99"),
        ("paths", ["no-such-run"], "no-such-run"),
        ("load", ["study", "--runs", "5"], r"--runs = 5 .*10 or more"),
        ("lanes", ["--device", "abacus"], r"abacus.*cpu"),
        ("goldens", ["compare", "nothing", "--only", "help"], "holds no goldens"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    name: str, arguments: list[str], said: str, tmp_path, monkeypatch, capsys
):
    """Fails if a mistake of the user's is a traceback, or does not name what was wrong."""
    monkeypatch.chdir(tmp_path)
    assert started(name, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"{name}: ")
    assert re.search(said, error)


def test_lines_json_and_exit_status(capsys):
    """Fails if JSON holds what is for readers, or a failure ends with 0."""

    def measure(options: program.Options):
        yield Line("a title")
        yield Line("one", {"value": 1})
        yield Line("two", {"value": 2}, failed=True)
        if options.json:
            raise FailedError("No third one.")

    main = program.program("made_up", program.Options, measure, "A text.")
    assert main([]) == 1
    assert capsys.readouterr().out == "a title\none\ntwo\n"
    assert main(["--json"]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "made_up: No third one.\n")

    def refused(options: program.Options):
        raise MiclabError("Not here.")
        yield Line("")

    assert program.program("made_up", program.Options, refused, "A text.")([]) == 2
    assert program.program("made_up", program.Options, lambda _: iter([Line("x", {"v": 1})]), "")(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"v": 1}]


def test_the_measurement_for_a_gpu_needs_torch_and_numpy_alone(tmp_path):
    """Fails if `make gpu` needs a package that a machine with PyTorch may lack."""
    code = """
import sys
sys.modules.update(dict.fromkeys(["tyro", "yaml", "PIL", "polars", "rich", "scipy", "matplotlib", "joblib"]))
from benchmarks.lanes import main
sys.exit(main(["--device", "cpu", "--lanes", "1", "--step", "eager", "--seconds", "0.01", "--output", "lanes.json"]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads((tmp_path / "lanes.json").read_text())["cells"]) == 2
    # A second call finds the cells, and what is no such file is refused before anything is measured.
    words = ("--device", "cpu", "--lanes", "1", "--step", "eager", "--output", str(tmp_path / "lanes.json"))
    assert started("lanes", *words) == 0
    for damaged in ('{"machine": {"dev', "[]", "{}", '{"machine": {}, "cells": 3}'):
        (tmp_path / "lanes.json").write_text(damaged)
        assert started("lanes", *words) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"), [("end_to_end", ["--steps", "4", "--mode", "eager"]), ("study", ["plan", "--points", "150"])]
)
def test_what_is_timed_happens(name: str, arguments: list[str], tmp_path, monkeypatch, capsys):
    """Fails if a benchmark no longer fits the program that it times: runs that are not found, parts that are lost."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    assert started(name, *arguments, *([] if name == "end_to_end" else ["--done", "3"]), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    if name == "study":
        assert [row["runs"] for row in found] == [500, 700]
        return
    (row,) = found
    assert sum(row["parts, s"].values()) == pytest.approx(row["seconds"])
    assert row["ratio"] > row["ratio without metric rows"] > 1
    assert all(row["parts, s"][part] > 0 for part in ("start", "steps", "metric rows", "checkpoints"))
