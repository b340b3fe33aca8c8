"""`miclab claims`, `miclab reproduce` and `miclab figure`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from miclab.claims.evidence import Evidence
from miclab.claims.ledger import Line, chosen, judged, studies_to_run
from miclab.cli.options import Claims, Directory, output_folder
from miclab.cli.terminal import bar, parse, print_json, print_table, refuse_ignored
from miclab.config import presets
from miclab.errors import MiclabError
from miclab.statistics.intervals import Interval
from miclab.studies.shipped import studies_directory, writable_studies

SHOWN = 4
"""Conditions that the ledger shows one by one; more are counted."""


@dataclass(frozen=True, kw_only=True)
class ClaimsOptions:
    """The ledger of claims, from the rows of the studies. Nothing is trained."""

    ids: Claims = ()
    """Claims, for example U1 M7."""
    profile: presets.Profile = "quick"
    """Whose rows."""
    studies: Directory = ""
    """Directory of study files, with their rows under rows/PROFILE; empty: those that come with miclab."""
    explain: bool = False
    """Statement, criterion, studies, the paper's figure, and every condition with its numbers."""
    json: bool = False
    """Print the ledger as JSON."""
    markdown: Literal["no", "table", "page"] = "no"
    """Print it as Markdown: `table`, a row for each claim, or `page`, with criteria and every condition."""
    figures: str = ""
    """Markdown page: directory of the claims' figures, relative to the page; empty: none is shown."""


def _measured(line: Line) -> str:
    conditions = line.findings.conditions
    if all(condition.measured is None for condition in conditions):
        return "no rows yet" if not line.runs else "too few rows"
    if len(conditions) > SHOWN:
        held = sum(condition.verdict == "holds" for condition in conditions)
        return f"{held} of {len(conditions)} conditions hold (--explain)"
    # The condition's text is shown where the quantity alone is not enough.
    alone = len({c.quantity for c in conditions}) == len(conditions)
    return "\n".join(f"{c.quantity}{'' if alone else f', if {c.text}'}: {c.measured_text}" for c in conditions)


def _print_ledger(lines: Sequence[Line], profile: str) -> None:
    cells = [
        [
            line.entry.id,
            line.entry.statement,
            _measured(line),
            line.entry.paper,
            f"{line.runs} of {line.needed}",
            line.verdict,
        ]
        for line in lines
    ]
    print_table(
        f"ledger of claims, profile {profile}: estimates with 95 % intervals over seeds (C: configurations)",
        ["claim", "statement", "measured", "paper", "runs", "verdict"],
        cells,
    )
    found = [line.findings.verdict for line in lines]
    counts = [f"{found.count(v)} {v}" for v in ("holds", "holds only if", "does not hold", "not decided") if v in found]
    print(f"\n{len(lines)} claims: {', '.join(counts)}. `miclab claims ID --explain` shows what a verdict rests on.")


def _explain(line: Line, directory: str) -> None:
    entry, findings = line.entry, line.findings
    print(f"{entry.id}  {entry.statement}\n")
    print(f"paper:      {entry.paper}")
    print(f"criterion:  {entry.criterion}")
    print(f"studies:    {', '.join(f'{directory}/{name}.yaml' for name in entry.studies)}")
    print(f"profile:    {line.profile}")
    print(f"runs:       {_runs(line)}")
    print(f"verdict:    {line.verdict}\n")
    cells = [[c.text, c.quantity, c.measured_text, _unit(c.measured), c.bound, c.verdict] for c in findings.conditions]
    print_table(
        "conditions, with 95 % intervals",
        ["condition", "quantity", "measured", "resampled", "holds if", "verdict"],
        cells,
    )
    if findings.comparisons:
        cells = [
            [a.quantity, a.measured_text, a.paper_text, "" if a.distance is None else f"{a.distance:+.3f}"]
            for a in findings.comparisons
        ]
        print()
        print_table(
            "reported apart: decides nothing", ["quantity", "measured", "paper", "ours minus the paper's"], cells
        )
    for note in findings.notes:
        print(f"\nnote: {note}")


def _runs(line: Line) -> str:
    """How many of the runs that the conditions need are there, and how many more the claim's studies have."""
    text = f"{line.missing} of {line.needed} runs missing" if line.missing else f"all {line.needed} runs are there"
    more = line.planned - line.needed
    return f"{text} that the conditions need" + (f"; the studies have {more} more, for other uses" if more > 0 else "")


def _unit(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.count} {interval.unit}s"


def _show(ids: Sequence[str], profile: str, directory: Path, explain: bool, json: bool) -> None:
    entries = chosen(ids)
    if explain and not ids:
        raise MiclabError("--explain needs the claims to explain, for example `miclab claims U5 --explain`.")
    lines = judged(Evidence(directory, profile), entries)
    if json:
        print_json([line.as_json() for line in lines])
    elif explain:
        for number, line in enumerate(lines):
            print("\n" * bool(number), end="")
            _explain(line, directory)
    else:
        _print_ledger(lines, profile)


def run_claims(arguments: list[str]) -> int:
    """`miclab claims [ID ...]`."""
    options = parse(ClaimsOptions, "claims", arguments)
    if options.markdown != "page":
        refuse_ignored(arguments, ("figures",), "it is for a page in Markdown (--markdown page)")
    if options.markdown != "no":
        refuse_ignored(arguments, ("explain", "json"), "Markdown was requested (--markdown)")
    if options.json:
        refuse_ignored(arguments, ("explain",), "JSON holds every condition with its numbers")
    if options.markdown != "no":
        from miclab.claims import markdown

        lines = judged(Evidence(studies_directory(options.studies), options.profile), chosen(options.ids))
        shown = [line for line in lines if options.figures and line.runs]
        figures = {line.entry.id: f"{options.figures}/{line.entry.id}-{line.profile}.svg" for line in shown}
        print(markdown.table(lines) if options.markdown == "table" else markdown.page(lines, figures))
        return 0
    _show(options.ids, options.profile, studies_directory(options.studies), options.explain, options.json)
    return 0


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Train what claims still need, then print the ledger. Stopped or killed at any moment, it goes on where it was."""

    ids: Claims = ()
    """Claims, for example U1 M7; all of them take hours."""
    profile: presets.Profile = "quick"
    """`quick`: minutes to hours on 2 cores. `paper`: the paper's optimiser and steps, thousands of core-hours."""
    studies: Directory = ""
    """Directory of study files; their rows are written under rows/PROFILE. Empty: those of the clone; of an installed
    package, a copy of its files in `studies`."""
    runs: Directory = "runs"
    """Directory of runs; a finished run there is not trained again."""
    launcher: Literal["local", "ray", "slurm"] = "local"
    """Where to train."""
    workers: int = 0
    """Processes at once; 0: one for each core (`local`)."""
    again: bool = False
    """Also run the studies of claims whose committed rows are complete."""
    json: bool = False
    """Print the ledger as JSON."""


def run_reproduce(arguments: list[str]) -> int:
    """`miclab reproduce [ID ...]`."""
    options = parse(ReproduceOptions, "reproduce", arguments)
    studies = writable_studies(options.studies)
    before = judged(Evidence(studies, options.profile), chosen(options.ids))
    names = studies_to_run(before, options.again)
    status = 0
    if names:
        from miclab.cli.study import run_study

        files = [str(studies / f"{name}.yaml") for name in names]
        print(f"miclab: {len(names)} studies: {', '.join(names)}", file=sys.stderr)
        # What the study command prints is no part of the ledger.
        with contextlib.redirect_stdout(sys.stderr):
            status = run_study(
                ["run", *files, "--profile", options.profile, "--runs", options.runs,
                 "--launcher", options.launcher, "--workers", str(options.workers)]
            )  # fmt: skip
    else:
        print("miclab: no run is missing; --again trains what the committed rows have", file=sys.stderr)
    _show(options.ids, options.profile, studies, False, options.json)
    return status


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """Draw the paper's figures of claims from our rows, as PDF and SVG."""

    ids: Claims = ()
    """Claims, for example U1 M7; those without rows are named and left out."""
    profile: presets.Profile = "quick"
    """Whose rows."""
    studies: Directory = ""
    """Directory of study files, with their rows under rows/PROFILE; empty: those that come with miclab."""
    output: Directory = "figures"
    """Directory to write to."""
    json: bool = False
    """Print the files written as JSON."""


def run_figure(arguments: list[str]) -> int:
    """`miclab figure [ID ...]`."""
    options = parse(FigureOptions, "figure", arguments)
    from miclab.claims.plots.figures import NoRowsError, draw

    evidence, entries = Evidence(studies_directory(options.studies), options.profile), chosen(options.ids)
    folder = output_folder(options.output)
    written: list[str] = []
    lacking: list[str] = []
    with bar("figure", len(entries)) as tell:
        for done, entry in enumerate(entries, 1):
            try:
                written += [str(path) for path in draw(evidence, entry, folder)]
            except NoRowsError:
                lacking.append(entry.id)
            tell(done, entry.id)
    if lacking:
        told = f"no rows yet for {', '.join(lacking)}; `miclab reproduce {' '.join(lacking)}` makes them"
        if not written:
            raise MiclabError(f"{told[:1].upper()}{told[1:]}.")
        print(f"miclab: not drawn: {told}", file=sys.stderr)
    if options.json:
        print_json(written)
    else:
        print("\n".join(written))
    return 0
