"""The pages: every command and block of Python on them works, and what they say of the rows is what the rows say."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pages_of_docs import ROOT, Block, blocks, options, pages

from miclab.claims.evidence import Evidence
from miclab.claims.ledger import Line, judged
from miclab.claims.registry import all_claims
from miclab.cli import main
from miclab.errors import ConfigError
from scripts import fill_numbers

COMMANDS = tomllib.loads((Path(__file__).parent / "commands.toml").read_text())
ALL = [block for page in pages() for block in blocks(page)]
INTERVAL = re.compile(r"(-?\d+\.\d{3}) \[(-?\d+\.\d{3}),\s+(-?\d+\.\d{3})\]")


def called(arguments: list[str]) -> tuple[int, str]:
    """Exit status and output of a command."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
    return status, output.getvalue()


def shell(text: str) -> None:
    """Runs the lines of a block in this folder: `miclab` commands, and files written with `cat > NAME <<'END'`."""
    lines = iter(text.splitlines())
    for line in lines:
        if file := re.fullmatch(r"cat > (\S+) <<'END'", line):
            content = [*iter(lambda: next(lines), "END")]
            Path(file[1]).write_text("\n".join(content) + "\n")
        elif line.strip():
            words = shlex.split(line, comments=True)
            assert words[0] == "miclab", f"{line}: only miclab's own commands are run"
            status, output = called(words[1:])
            assert status == 0, f"{line}\n{output[-4000:]}"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder like the root of a clone: it holds the studies and the tests, and nothing else. Studies are trained in
    eager mode: compiling takes a minute, and the runs of the pages have some twenty steps."""
    for part in ("studies", "tests"):
        (tmp_path / part).symlink_to(ROOT / part)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("miclab.studies.mode.long_mode", lambda root: "eager")
    return tmp_path


@pytest.mark.parametrize("page", sorted({block.page for block in ALL if block.run}))
def test_marked_blocks_run(folder, page):
    """Fails if a reader who copies the blocks of a page, one after the other, meets an error."""
    for block in blocks(ROOT / page):
        if block.run and block.language == "bash":
            shell(block.run)
        elif block.run:
            exec(compile(block.run, page, "exec"), {"__name__": "page"})


def test_every_other_command_is_run_elsewhere_or_says_why_not():
    """Fails if a command stands on a page that nobody runs, or if the table names one that is on no page."""
    shown = {line for block in ALL if block.language == "bash" and not block.run for line in block.commands}
    known = [line for group in ("tests", "by_hand") for lines in COMMANDS[group].values() for line in lines]
    assert len(known) == len(set(known))
    assert shown == set(known)


def test_every_block_of_python_is_run():
    """Fails if a block of Python on a page is neither marked nor on a page whose test the table names."""
    left = {block.page for block in ALL if block.language == "python" and not block.run}
    assert left == {page for pages_ in COMMANDS["python"].values() for page in pages_}


@pytest.mark.parametrize("name", {**COMMANDS["tests"], **COMMANDS["python"]})
def test_the_tests_of_the_table_exist(name):
    """Fails if a test that the table names was renamed, or if a script of CI no longer holds the command."""
    file, _, test = name.partition("::")
    text = (ROOT / file).read_text()
    if test:
        assert test in {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    else:
        lines = [line.partition(" >")[0] for line in text.splitlines()]
        assert all(line in lines for line in COMMANDS["tests"][name])


@cache
def help_text(*words: str) -> str:
    """The help of a command."""
    status, output = called([*words, "--help"])
    assert status == 0
    return output


def commands_of_miclab() -> list[str]:
    """Every `miclab` command on a page, once."""
    lines = [line for block in ALL if block.language == "bash" for line in block.commands]
    return sorted({line for line in lines if line.startswith("miclab ")})


@pytest.mark.parametrize("command", commands_of_miclab())
def test_options_exist(command):
    """Fails if an option on a page is not one of its command (its values may still be wrong)."""
    words, names = options(command)
    usage = help_text()
    two = re.match(rf"usage: miclab {words[0]} {{([^}}]*)}}", help_text(words[0])) if words else None
    if two:
        assert words[1] in two[1].split(",")
    known = help_text(*words[: 2 if two else 1]) if words else usage
    if words[:2] == ["train", "multimodal"] or "--stage-one" in known:
        known += help_text("train", "multimodal")
    for name in names:
        if name not in ("--help", "--version", "--plugin"):
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", known), name


def test_scripts_exist():
    """Fails if a page names a script or an option of it that does not exist."""
    for line in {line for block in ALL if block.language == "bash" for line in block.commands}:
        words = shlex.split(line)
        if words[0] != "python":
            continue
        file = f"{words[2].replace('.', '/')}.py" if words[1] == "-m" else words[1]
        text = (ROOT / file).read_text()
        for name in [word for word in words[2:] if word.startswith("--")]:
            assert name in text or name[2:].replace("-", "_") in text, line


# -- what is said of the rows ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def ledgers() -> dict[str, list[Line]]:
    """Every claim as the committed rows judge it, by preset. It takes seconds, so it is done once."""
    return {preset: judged(Evidence(ROOT / "studies", preset), all_claims()) for preset in ("quick", "paper")}


@pytest.fixture(scope="module")
def claims(ledgers) -> list[dict[str, Any]]:
    """Every claim of both presets, as `miclab claims --json` prints it."""
    return json.loads(json.dumps([line.as_json() for lines in ledgers.values() for line in lines]))


def intervals_of(claims: list[dict[str, Any]]) -> list[tuple[float, float, float]]:
    """Every interval that a claim measures. One seed of one set has none."""
    parts = [part for claim in claims for part in (*claim["conditions"], *claim["apart"])]
    return [(m["mean"], m["low"], m["high"]) for part in parts if (m := part["measured"]) and m["low"] is not None]


VERDICT = re.compile(r"\[(\w+)\]\(\.\./claims/\w+\.md\),?(?: our own,)?\s+(is undecided|holds in part|holds|fails)")


@pytest.mark.parametrize("page", fill_numbers.pages(), ids=lambda page: page.stem)
def test_the_readme_and_the_findings_hold_what_the_rows_say(claims, page):
    """Fails if rows or verdicts change and a page is not written again, or an interval has no reference."""
    text = page.read_text()
    assert [found[0] for found in fill_numbers.bare(text)] == []
    assert fill_numbers.idle(text) == []
    assert fill_numbers.filled(text, fill_numbers.measured(claims), fill_numbers.counted(claims)) == text
    # A page speaks of `quick`, unless the studies of a claim have no such preset.
    planned = sorted((claim for claim in claims if claim["planned"]), key=lambda claim: claim["profile"] == "quick")
    quick = {claim["id"]: claim["verdict"] for claim in planned}
    said = dict(VERDICT.findall(text))
    assert {name: verdict.removeprefix("is ") for name, verdict in said.items()} == {name: quick[name] for name in said}


NUMBERS = {"M1.0": (0.9847, 0.9791, 0.9904), "-M1.0": (-0.9847, -0.9904, -0.9791)}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("0.985 [0.979, 0.990]<!--M1.0-->", None),
        ("0.984 [0.978, 0.991]<!--M1.0-->", None),
        ("0.99 [0.98, 0.99]<!--M1.0-->", None),
        ("0.987 [0.979,\n0.990]<!--M1.0-->", "0.985 [0.979,\n0.990]<!--M1.0-->"),
        ("+0.9 [-0.1, 1.0]<!---M1.0-->", "-1.0 [-1.0, -1.0]<!---M1.0-->"),
        ("0.500<!--M1.0--> of 0.700", "0.985<!--M1.0--> of 0.700"),
        ("0.500 [0.400, 0.600]", None),
        ("(5<!--M1.runs--> runs)", None),
        ("(12<!--M1.runs--> of 7 runs)", "(5<!--M1.runs--> of 7 runs)"),
        ("12<!--M1.0--> steps", "1<!--M1.0--> steps"),
    ],
)
def test_numbers_are_filled_in_where_they_are_off_by_more_than_one_unit(text, filled):
    """Fails if two units of the last digit pass, a turned sign does not, a number without a reference changes, or a
    number of runs is off by any."""
    assert fill_numbers.filled(text, NUMBERS, {"M1.runs": 5}) == (filled or text)


@pytest.mark.parametrize("text", ["1,500<!--M1.0-->", "some<!--M1.0-->", "0.5 <!--paper:M1.0-->", "few<!--M1.runs-->"])
def test_a_reference_without_a_number_is_noticed(text):
    """Fails if a number that looks checked is neither filled in nor checked."""
    assert len(fill_numbers.idle(text)) == 1
    assert fill_numbers.idle("2<!--M1.0-->, 0.5 [0.4, 0.6]<!---M1.0-->, 5<!--M1.runs--> <!-- run -->") == []


def test_a_number_is_written_with_its_own_last_digit():
    """Fails if a number that is one unit off survives being written."""
    assert fill_numbers.filled("0.984<!--M1.0-->", NUMBERS, {}, fill_numbers.ROUNDING) == "0.985<!--M1.0-->"


def test_pages_of_claims_hold_what_the_rows_say(claims, ledgers, monkeypatch):
    """Fails if a claim with rows has no page, or a page whose verdict, criterion or figures are not the claim's; or if
    the table of what the paper says lacks one of its claims, or has one of ours."""
    pages_at_build = generator(monkeypatch)
    monkeypatch.setattr(pages_at_build, "judged", lambda evidence, entries: ledgers[evidence.profile])
    made = pages_at_build.claims_pages(ROOT / "docs")
    quick = [claim for claim in claims if claim["profile"] == "quick"]
    with_rows = [claim for claim in quick if claim["runs"]]
    assert len(with_rows) > 30
    table = made.pop("findings/claims-of-the-paper.md")
    made = {name.removeprefix("claims/"): text for name, text in made.items()}
    assert set(made) == {"index.md", *[f"{claim['id']}.md" for claim in quick]}
    for claim in with_rows:
        page = made[f"{claim['id']}.md"]
        assert page.index(f"**Verdict: {claim['verdict_text']}.**") < page.index(claim["criterion"])
        assert all(claim[name] in made["index.md"] for name in ("id", "statement", "verdict"))
        rows = [tuple(map(float, numbers)) for numbers in INTERVAL.findall(page)]
        assert {tuple(round(number, 3) for number in one) for one in intervals_of([claim])} <= set(rows)
        for figure in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page):
            assert (ROOT / "docs" / figure.removeprefix("../")).resolve().is_file()
    rows = {row.split("](")[0].removeprefix("| ["): row for row in table.splitlines() if row.startswith("| [")}
    own = {one.id for one in all_claims() if one.own}
    assert "and so is M9" in made["index.md"]
    of_paper = {claim["id"]: claim for claim in with_rows if claim["id"] not in own}
    assert len(of_paper) > 18
    assert set(rows) == set(of_paper)
    for name, claim in of_paper.items():
        assert all(text in rows[name] for text in (claim["paper"], claim["verdict_text"], f"miclab claims {name}"))


def generator(monkeypatch) -> ModuleType:
    """docs/pages.py, which writes pages when the site is built."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    for name in ("reference", "pages"):
        spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
    return sys.modules["pages"]


# -- pages that are written at build --------------------------------------------------------------------------------
def test_every_field_of_the_configuration_has_a_meaning(monkeypatch):
    """Fails if a field has no text, or if the page lacks one that `miclab train` takes."""
    page = generator(monkeypatch).reference.configuration(ROOT / "miclab")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []
    taken = re.findall(r"--(?:[\w.-]+\.)?([\w-]+)(?: |$)", help_text("train", "unimodal"))
    fields = {re.match(r"\| `(\w+)`", row)[1] for row in rows}
    assert {"classes", "burstiness", "learning_rate", "evaluate_every"} <= fields
    assert {"classes", "burstiness", "learning-rate", "evaluate-every"} <= set(taken)


def test_ranges_are_those_that_the_code_checks(monkeypatch):
    """Fails if the range on the page is not the one at whose ends values are accepted and beyond which they are not."""
    from miclab.config.run import RunConfig

    kind = type(RunConfig().decoder)
    reference = generator(monkeypatch).reference
    found = reference.field_ranges(kind)["layers"]
    low, high = map(int, re.fullmatch(r"from (\d+) to (\d+)", found).groups())
    for layers, accepted in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
        with contextlib.nullcontext() if accepted else pytest.raises(ConfigError, match="layers"):
            kind(layers=layers).check()


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Names: `a_b_` and *star* and x_ here.", r"Names: `a_b_` and \*star\* and x\_ here."),
        ("One `code\nover lines` kept.", "One `code\nover lines` kept."),
        ("Text.\n\nArguments:\n    x: an item.", "Text.\n\nArguments:\n    x: an item."),
        ("Text.\n\n    a   b\n    c   d", "Text.\n\n\n.. code-block:: text\n\n        a   b\n        c   d\n"),
    ],
)
def test_docstrings_become_restructured_text(monkeypatch, docstring, expected):
    """Fails if prose is read as markup, a drawing as prose, or a section as a drawing."""
    reference = generator(monkeypatch).reference
    assert "\n".join(reference.docstring_lines(docstring.splitlines())) == expected


# -- the repository -------------------------------------------------------------------------------------------------
def test_links_of_the_readme_lead_somewhere():
    """Fails if a file that the README links to was moved."""
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text())
    assert [link for link in links if not link.startswith("https://") and not (ROOT / link).exists()] == []


def test_the_readme_is_short():
    """Fails if the README grows beyond what is read at a sitting."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_no_page_written_at_build_is_committed():
    """Fails if a page that follows from the code can be out of date in the repository."""
    listed = subprocess.run(["git", "ls-files", "docs"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert [name for name in listed.splitlines() if name.startswith(("docs/claims/", "docs/reference/api/"))] == []


def test_a_block_is_read_with_its_mark(tmp_path, monkeypatch):
    """Fails if a mark is not seen, a replacement not made, or a file in a block taken for commands."""
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- run, with `5000` as `5` -->\n```bash\ncat > a.txt <<'END'\nx: 5000\n\ny\nEND\nmiclab runs  # all\n```\n"
        "```python\nprint(1)\n```\n"
    )
    monkeypatch.setattr("pages_of_docs.ROOT", tmp_path)
    first, second = blocks(page)
    assert first.commands == ["cat > a.txt <<'END'", "miclab runs"]
    assert "x: 5\n" in first.run
    assert second == Block("page.md", "python", "print(1)\n", "")
