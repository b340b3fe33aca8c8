"""Text is text: names and reasons of others are shown letter by letter, paths are no patterns, streams may go away."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from tiny import tiny_config

from miclab.cli import terminal
from miclab.cli.streams import lasting_standard_error
from miclab.config import schema
from miclab.data.vector_files import read_table
from miclab.errors import UNSEEN, MiclabError, visible
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


LEFT = """
import os, sys, time
from miclab.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("how", ["closed", "leaves"])
def test_training_goes_on_without_standard_error(how, tmp_path):
    """Fails if training ends early, or its messages get into the output or into files, when standard error is closed
    from the start or its reader leaves after the first line."""
    import yaml

    (tmp_path / "c.yaml").write_text(yaml.safe_dump(schema.to_mapping(tiny_config(1))))
    command = [sys.executable, "-c", LEFT, "train", "unimodal", "--config", "c.yaml", "--request.steps", "30",
               "--request.evaluate-every", "10", "--request.sequences", "4", "--request.novel-sets", "1",
               "--json"]  # fmt: skip
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    if how == "closed":
        process = subprocess.Popen(command, cwd=tmp_path, env=here, stdout=-1, preexec_fn=lambda: os.close(2))
    else:
        process = subprocess.Popen(command, cwd=tmp_path, env=here, stdout=-1, stderr=-1)
        process.stderr.readline()
        process.stderr.close()
    out = process.stdout.read()
    process.stdout.close()
    assert process.wait() == 0, out
    import json

    assert (json.loads(out)["status"], json.loads(out)["step"]) == ("finished", 30)
