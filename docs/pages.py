"""Pages that are written at build: one for each claim, the command line, the configuration.

Each follows from the code or from the committed rows, so that none can be out of date. `write` is called by `conf.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import reference

ROOT = Path(__file__).parent.parent
PRESETS = ("quick", "paper")
KINDS = {
    "U": "one modality",
    "M": "two modalities",
    "J": "the joint-label task",
    "C": "measures of the circuit",
    "A": "alignment and encoders",
    "R": "real data, a claim of the paper",
    "X": "controls, our own",
    "D": "real data, our own",
    "L": "longer contexts, our own",
}
"""What a claim is about, by the letter that its name begins with."""


def version() -> str:
    """The version in pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def command_output(arguments: Sequence[str]) -> str:
    """What a `miclab` command prints, 100 columns wide. It runs in this process.

    Raises:
        RuntimeError: it ends with another status than 0.
    """
    from miclab.cli import main

    text, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    status: Any = 0
    try:
        with contextlib.redirect_stdout(text):
            status = main(list(arguments))
    except SystemExit as exit_:
        status = exit_.code or 0
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    if status:
        raise RuntimeError(f"miclab {' '.join(arguments)} ended with status {status}: {text.getvalue()[-2000:]}")
    return text.getvalue()


def ledger(preset: str) -> list[dict[str, Any]]:
    """Every claim of a preset as `miclab claims --json` gives it."""
    arguments = ["claims", "--json", "--preset", preset, "--studies", str(ROOT / "studies")]
    return json.loads(command_output(arguments))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""

    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(header), "|" + " --- |" * len(header), *map(line, rows)])


def measured(interval: dict[str, Any] | None) -> str:
    """An interval as it stands in the ledger: `0.985 [0.979, 0.990]`."""
    if interval is None:
        return "no rows"
    if interval["low"] is None:
        return f"{interval['mean']:.3f} (no interval)"
    alone = " (one seed)" if interval["unit"] == "set" else ""
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]{alone}"


def _paper_figure(value: Any) -> str:
    if value is None:
        return "none"
    return " to ".join(f"{part:g}" for part in value) if isinstance(value, list) else str(value)


def _judged(claim: dict[str, Any], here: Path) -> list[str]:
    """The part of a claim's page that belongs to one preset."""
    preset = claim["profile"]
    missing = f"; {claim['missing']} of {claim['needed']} needed runs are missing" if claim["missing"] else ""
    studies = ", ".join(f"`{name}`" for name in claim["studies"])
    parts = [
        f"**Verdict: {claim['verdict_text']}.** Preset `{preset}`, {claim['runs']} runs of {studies}{missing}.",
        claim["sentence"],
        table(
            ("condition", "measured", "holds if", "verdict"),
            [
                (c["clause"], f"{c['quantity']}: {measured(c['measured'])}", c["bound"], c["verdict"])
                for c in claim["conditions"]
            ],
        ),
    ]
    figure = ROOT / "studies" / "figures" / preset / f"{claim['id']}-{preset}.svg"
    if figure.exists():
        parts.append(f"![Figure of claim {claim['id']}, preset {preset}]({os.path.relpath(figure, here)})")
    if claim["apart"]:
        parts.append("Numbers shown for comparison; they do not affect the verdict:")
        rows = [(a["quantity"], measured(a["measured"]), _paper_figure(a["paper"])) for a in claim["apart"]]
        parts.append(table(("quantity", "measured", "paper"), rows))
    return parts + [f"Note: {note}." for note in claim["notes"]]


def claim_page(claims: Sequence[dict[str, Any]], here: Path) -> str:
    """The page of one claim: verdict, criterion, figure, command.

    Arguments:
        claims: the claim as judged under each preset that has rows, the first one first.
        here: the folder of the page.
    """
    first = claims[0]
    name = first["id"]
    parts = [f"# {name}", f"*{first['statement']}*", *_judged(first, here)]
    criterion = f"**Criterion.** {first['criterion']}"
    parts[4:4] = [criterion, f"**In the paper:** {first['paper']}."]
    for other in claims[1:]:
        parts += [f"## With preset `{other['profile']}`", *_judged(other, here)]
    commands = [f"miclab claims {name} --explain", f"miclab reproduce {name}", f"miclab figure {name} --output figures"]
    return "\n\n".join([*parts, "## Commands", "```bash\n" + "\n".join(commands) + "\n```"]) + "\n"


def claims_index(claims: Sequence[dict[str, Any]]) -> str:
    """The table of all claims."""
    rows = [
        (
            f"[{c['id']}]({c['id']}.md)",
            c["statement"],
            f"**{c['verdict']}**" if c["runs"] else "no rows yet",
            KINDS.get(c["id"][0], ""),
            c["runs"],
            c["missing"],
        )
        for c in claims
    ]
    toctree = "\n".join(["```{toctree}", ":hidden:", "", *[c["id"] for c in claims], "```"])
    intro = """# Claims

Each claim is judged from the rows that are committed under `studies/rows`, by a criterion with fixed numbers.
{doc}`../concepts/verdicts-and-intervals` explains the verdicts. Names that begin with X, D or L are our own questions;
the others are claims of the paper. This table and the pages behind it are written when the site is built.

Click a heading to sort the table. Type into the field above it to filter the rows."""
    body = table(("claim", "statement", "verdict", "about", "runs", "runs missing"), rows)
    return "\n\n".join([intro, f"::::{{container}} ledger\n\n{body}\n\n::::", toctree]) + "\n"


def claims_pages(here: Path) -> dict[str, str]:
    """Every page under `claims/`, by file name, from the committed rows."""
    by_preset = {preset: {claim["id"]: claim for claim in ledger(preset)} for preset in PRESETS}
    quick = by_preset["quick"]
    pages = {"index.md": claims_index(list(quick.values()))}
    for name, claim in quick.items():
        others = [by_preset[p].get(name) for p in PRESETS[1:]]
        judged = [c for c in (claim, *others) if c and c["runs"]]
        pages[f"{name}.md"] = claim_page(judged or [claim], here)
    return pages


def write(docs: Path) -> None:
    """Writes all generated pages below `docs`; files whose text stays the same are not touched."""
    pages = {docs / "claims" / name: text for name, text in claims_pages(docs / "claims").items()}
    pages[docs / "reference" / "cli.md"] = reference.command_line(command_output)
    pages[docs / "reference" / "config.md"] = reference.configuration(ROOT / "miclab")
    for old in set((docs / "claims").glob("*.md")) - set(pages):
        old.unlink()
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


docstring_lines = reference.docstring_lines
