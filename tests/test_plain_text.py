"""Text is text: names and reasons of others are shown letter by letter, paths are no patterns, streams may go away."""

from __future__ import annotations

import io
import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import polars as pl
import yaml
from rich.console import Console
from tiny import tiny_config

from miclab.cli import main, terminal
from miclab.cli.streams import lasting_standard_error
from miclab.config import schema
from miclab.data.vector_files import read_table
from miclab.errors import UNSEEN, MiclabError, visible
from miclab.runs.find import open_run
from miclab.tables import table

PIECES = ("[", "]", "[/", "[bold]", "[/x]", "[red]", "[link=file:///]", "\\[",
          "\x1b[31m", "\x1b]0;t\x07", "\r", "\x08", "\x9b2J",
          "‮", "\udcff", "\x7f", "*", "?", "{a}", "name", " ", "é")  # fmt: skip
CASES = 200


def texts(count: int) -> list[str]:
    """Short texts of pieces that a terminal, rich or a pattern would obey."""
    source = random.Random(3)
    return ["x" + "".join(source.choices(PIECES, k=source.randint(1, 3))) + "y" for _ in range(count)]


def test_every_letter_of_a_text_is_shown_and_none_is_obeyed(capsys):
    """Fails if a table, an error or a warning reads markup, loses letters, or hands a control letter on."""
    given = texts(CASES)
    table(given[0], [given[1], "b"], [[one, str(i)] for i, one in enumerate(given)], given[2:4]).show()
    for one in given:
        terminal.say(one)
        print(MiclabError(one))
    printed = capsys.readouterr()
    assert not UNSEEN.search((printed.out + printed.err).replace("\n", ""))
    lines = printed.out.splitlines()
    for place, one in enumerate(given):
        assert any(line.split("│")[0].strip() == visible(one) and line.rstrip().endswith(f" {place}") for line in lines
                   if "│" in line), one  # fmt: skip
        assert visible(one) in lines
        assert f"miclab: {visible(one)}" in printed.err


def test_a_progress_bar_reads_no_markup(monkeypatch):
    """Fails if `[/x]` in a title or a text ends a command, or a letter is lost."""
    shown = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=shown, force_terminal=True, width=200))
    for one in texts(20):
        with terminal.bar(one, 2) as on_step:
            on_step(2, f"{one} done")
        assert visible(one) in shown.getvalue()
        assert f"{visible(one)} done" in shown.getvalue()


def test_paths_are_no_patterns(tmp_path):
    """Fails if a table is read from another file, or from several, because a name has brackets or a star."""
    names = ["a[0-9]", "a1", "a*", "a?", "{a1,a2}", "**", "[!a]", "a2"]
    for number, name in enumerate(names):
        for folder in (tmp_path, tmp_path / "[ab]"):
            folder.mkdir(exist_ok=True)
            values = np.full((2, 3), float(number), np.float32).tolist()
            with open(folder / f"{name}.parquet", "wb") as file:
                pl.DataFrame({"vectors": values, "label": [name, name]}).write_parquet(file)
    for number, name in enumerate(names):
        for folder in (tmp_path, tmp_path / "[ab]"):
            found = read_table(folder / f"{name}.parquet")
            assert found.labels == [name, name]
            assert float(found.vectors.min()) == float(found.vectors.max()) == number


def test_a_stream_that_goes_away_raises_nothing_and_keeps_nothing(monkeypatch):
    """Fails if a line to a reader that has left raises, or is kept and fails when Python flushes at its end."""
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stderr", open(writing, "w", buffering=1))  # noqa: SIM115
    with lasting_standard_error():
        print("seen", file=sys.stderr)
        assert os.read(reading, 100) == b"seen\n"
        os.close(reading)
        for _ in range(3):
            print("dropped", file=sys.stderr, flush=True)
    sys.stderr.close()


def training(folder: Path) -> list[str]:
    """Arguments of a short training whose outcome is JSON."""
    (folder / "c.yaml").write_text(yaml.safe_dump(schema.to_mapping(tiny_config(1))))
    return ["train", "unimodal", "--config", str(folder / "c.yaml"), "--runs", str(folder / "runs"), "--json",
            "--request.steps", "30", "--request.evaluate-every", "10", "--request.sequences", "4",
            "--request.novel-sets", "1", "--numerics.mode", "eager"]  # fmt: skip


def test_training_goes_on_when_the_reader_of_its_progress_leaves(tmp_path, monkeypatch, capsys):
    """Fails if training ends early, with another status, or raises."""
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "stderr", open(writing, "w", buffering=1))  # noqa: SIM115
    assert main(training(tmp_path)) == 0
    sys.stderr.close()
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["step"]) == ("finished", 30)


def test_training_goes_on_where_standard_error_was_never_open(tmp_path, monkeypatch, capsys):
    """Fails if progress gets into the output, or into a file of the run that takes the number of standard error."""
    kept = os.dup(2)
    os.close(2)
    # What Python has for a stream that was closed before it started.
    monkeypatch.setattr(sys, "stderr", None)
    try:
        assert main(training(tmp_path)) == 0
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert json.loads(capsys.readouterr().out)["status"] == "finished"
    (run,) = (tmp_path / "runs").glob("unimodal-*")
    assert open_run(run).verify() == []
