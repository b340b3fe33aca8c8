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
from miclab.claims.plateau import WANTED_SEEDS, together
from miclab.claims.registry import Claim
from miclab.claims.tables import comparisons_table, conditions_table, ledger_table
from miclab.claims.verdict import VERDICTS
from miclab.cli.options import Claims, ClaimsOrStudies, Directory, Parameters, output_folder
from miclab.cli.study_options import LauncherOptions, NumericsOptions
from miclab.cli.terminal import bar, parse, print_json, refuse_ignored, say
from miclab.config.presets import Profile
from miclab.errors import ConfigError, MiclabError, visible
from miclab.studies.parameters import assignments
from miclab.studies.shipped import studies_directory, writable_studies


@dataclass(frozen=True, kw_only=True)
class ClaimsOptions:
    """The ledger of claims, from the rows of the studies. Nothing is trained."""

    ids: Claims = ()
    """Claims, for example U1 M7."""
    preset: Profile = "quick"
    """Whose rows."""
    studies: Directory = ""
    """Directory of study files, with their rows under rows/PRESET; empty: those that come with miclab."""
    parameter: Parameters = ()
    """Value of a parameter that a study file has; the option is repeated for each."""
    explain: bool = False
    """Statement, criterion, studies, the paper's figure, and every condition with its numbers."""
    json: bool = False
    """Print the ledger as JSON."""
    markdown: Literal["no", "table", "page"] = "no"
    """Print it as Markdown: `table`, a row for each claim, or `page`, with criteria and every condition."""
    figures: str = ""
    """Markdown page: directory of the claims' figures, relative to the page; empty: none is shown."""


def _print_ledger(lines: Sequence[Line], preset: str) -> None:
    ledger_table(lines, preset).show()
    found = [line.findings.verdict for line in lines]
    counts = [f"{found.count(v)} {v}" for v in VERDICTS if v in found]
    shown = "1 claim" if len(lines) == 1 else f"{len(lines)} claims"
    print(f"\n{shown}: {', '.join(counts)}. `miclab claims ID --explain` shows what a verdict rests on.")


def _explain(line: Line, directory: Path) -> None:
    entry, findings = line.entry, line.findings
    print(f"{entry.id}  {entry.statement}\n")
    print(f"paper:      {entry.paper}")
    print(f"criterion:  {entry.criterion}")
    print(f"studies:    {', '.join(f'{directory}/{name}.yaml' for name in entry.studies)}")
    print(f"preset:     {line.profile}")
    print(f"runs:       {_runs(line)}")
    print(f"verdict:    {line.verdict}")
    print(f"meaning:    {line.sentence}\n")
    conditions_table([line]).show()
    if line.wants_seeds:
        print(f"\nwants {WANTED_SEEDS} seeds: {together(line.wants_seeds)}")
    if findings.comparisons:
        print()
        comparisons_table(line).show()
    for note in findings.notes:
        print(f"\nnote: {note}")


def _runs(line: Line) -> str:
    """How many of the runs that the conditions need exist, and how many more the claim's studies have."""
    text = f"{line.missing} of {line.needed} runs missing" if line.missing else f"all {line.needed} runs are there"
    more = line.planned - line.needed
    return f"{text} that the conditions need" + (f"; the studies have {more} more, for other uses" if more > 0 else "")


def _judgeable(evidence: Evidence, ids: Sequence[str]) -> list[Claim]:
    """The named claims, or else those whose studies are in the directory. Others are listed on standard error.

    Raises:
        MiclabError: there is no such claim, or no study of any.
    """
    entries = chosen(ids)
    there = [entry for entry in entries if ids or all(map(evidence.has, entry.studies))]
    if not there:
        own = "Name a claim of yours, with its file after --plugin."
        raise MiclabError(f"{evidence.directory} has the studies of none of the {len(entries)} claims. {own}")
    if len(there) < len(entries):
        others = [entry.id for entry in entries if entry not in there]
        text = f"{evidence.directory} lacks the studies of {len(others)} claims, which are left out: "
        say(f"{text}{', '.join(others)}")
    evidence.check_parameters(dict.fromkeys(study for entry in there for study in entry.studies))
    return there


def _judged(evidence: Evidence, ids: Sequence[str]) -> list[Line]:
    """The claims that can be judged, with their findings, under a progress bar."""
    entries, lines = _judgeable(evidence, ids), []
    with bar("claims", len(entries)) as on_progress:
        for entry in entries:
            lines += judged(evidence, [entry])
            on_progress(len(lines), entry.id)
    return lines


def _show(evidence: Evidence, ids: Sequence[str], explain: bool, json: bool) -> None:
    if explain and not ids:
        raise MiclabError("--explain needs the claims to explain, for example `miclab claims U5 --explain`.")
    lines = _judged(evidence, ids)
    if json:
        print_json([line.as_json() for line in lines])
    elif explain:
        for number, line in enumerate(lines):
            print("\n" * bool(number), end="")
            _explain(line, evidence.directory)
    else:
        _print_ledger(lines, evidence.profile)


def run_claims(arguments: list[str]) -> int:
    """`miclab claims [ID ...]`."""
    options = parse(ClaimsOptions, "claims", arguments)
    if options.markdown != "page":
        refuse_ignored(arguments, ("figures",), "it is for a page in Markdown (--markdown page)")
    if options.markdown != "no":
        refuse_ignored(arguments, ("explain", "json"), "Markdown was requested (--markdown)")
    if options.json:
        refuse_ignored(arguments, ("explain",), "JSON holds every condition with its numbers")
    evidence = Evidence(studies_directory(options.studies), options.preset, assignments(options.parameter))
    if options.markdown != "no":
        from miclab.claims import markdown

        lines = _judged(evidence, options.ids)
        shown = [line for line in lines if options.figures and line.runs]
        figures = {line.entry.id: f"{options.figures}/{line.entry.id}-{line.profile}.svg" for line in shown}
        print(markdown.table(lines) if options.markdown == "table" else markdown.page(lines, figures))
        return 0
    _show(evidence, options.ids, options.explain, options.json)
    return 0


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(LauncherOptions, NumericsOptions):
    """Train the missing runs of claims, then print the ledger. After a stop or a kill at any moment, the same command
    resumes."""

    ids: Claims = ()
    """Claims, for example U1 M7; all of them take hours."""
    preset: Profile = "quick"
    """`quick`: minutes to hours on 2 cores. `paper`: the paper's optimiser and steps, thousands of core-hours."""
    studies: Directory = ""
    """Directory of study files; their rows are written under rows/PRESET. Empty: those of the clone; of an installed
    package, a copy of its files in `studies`."""
    runs: Directory = "runs"
    """Directory of runs; a finished run there is not trained again."""
    parameter: Parameters = ()
    """Value of a parameter that a study file has; the option is repeated for each."""
    again: bool = False
    """Also run the studies of claims whose committed rows are complete."""
    json: bool = False
    """Print the ledger as JSON."""


def run_reproduce(arguments: list[str]) -> int:
    """`miclab reproduce [ID ...]`."""
    options = parse(ReproduceOptions, "reproduce", arguments)
    options.check(arguments)
    options.numerics.check()
    studies = writable_studies(options.studies)
    given = assignments(options.parameter)
    evidence = Evidence(studies, options.preset, given)
    before = _judged(evidence, options.ids)
    names = studies_to_run(before, options.again)
    status = 0
    if names:
        from miclab.cli.study import run_study

        files = [str(studies / f"{name}.yaml") for name in names]
        say(f"{len(names)} studies: {', '.join(names)}")
        # Output of the study command is no part of the ledger.
        with contextlib.redirect_stdout(sys.stderr):
            status = run_study(
                ["run", *files, "--preset", options.preset, "--runs", options.runs, *options.words,
                 *options.numerics_words, *(f"--parameter={text}" for text in options.parameter)]
            )  # fmt: skip
    else:
        say("no run is missing; --again trains what the committed rows have")
    _show(Evidence(studies, options.preset, given), options.ids, False, options.json)
    return status


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """Draw the paper's figures of claims from our rows, or the figure of a study, as PDF and SVG."""

    ids: ClaimsOrStudies = ()
    """Claims, for example U1 M7; those without rows are named and left out. Or study files, for example my_study.yaml,
    whose rows lie beside them."""
    preset: Profile = "quick"
    """Whose rows."""
    studies: Directory = ""
    """Claims: directory of study files, with their rows under rows/PRESET; empty: those that come with miclab."""
    parameter: Parameters = ()
    """Value of a parameter that a study file has; the option is repeated for each."""
    x: str = ""
    """Study: axis from left to right, such as K or decoder.layers; empty: the first whose values are numbers."""
    by: str = ""
    """Study: axis that distinguishes curves; empty: two axes of numbers make a heat map, other axes curves."""
    value: str = "icl"
    """Study: column of its table, such as icl, iwl or loss."""
    format: tuple[Literal["pdf", "svg", "png"], ...] = ("pdf", "svg")
    """Kinds of file to write."""
    output: Directory = "figures"
    """Directory to write to."""
    json: bool = False
    """Print the files written as JSON."""


def run_figure(arguments: list[str]) -> int:
    """`miclab figure [ID ...]`, or `miclab figure STUDY.yaml ...`."""
    options = parse(FigureOptions, "figure", arguments)
    files = [Path(name) for name in options.ids if name.endswith((".yaml", ".yml"))]
    if files and len(files) < len(options.ids):
        raise MiclabError("Name claims or study files, not both at once.")
    if files and options.studies:
        raise ConfigError("studies", options.studies, "empty with study files: their rows lie beside them")
    if not files and (options.x, options.by, options.value) != ("", "", "icl"):
        raise MiclabError("--x, --by and --value are for study files, for example `miclab figure my_study.yaml --x K`.")
    folder = output_folder(options.output)
    written = _draw_studies(files, options, folder) if files else _draw_claims(options, folder)
    if options.json:
        print_json(written)
    else:
        print(visible("\n".join(written)))
    return 0


def _draw_studies(files: Sequence[Path], options: FigureOptions, folder: Path) -> list[str]:
    from miclab.claims.plots.study import View, draw_study
    from miclab.studies.files import check_known

    view, given = View(x=options.x, by=options.by, value=options.value), assignments(options.parameter)
    check_known(files, given)
    rows = [(Evidence(file.parent, options.preset, given), file.stem) for file in files]
    return [str(path) for one, name in rows for path in draw_study(one, name, view, folder, options.format)]


def _draw_claims(options: FigureOptions, folder: Path) -> list[str]:
    from miclab.claims.plots.figures import NoRowsError, draw

    evidence = Evidence(studies_directory(options.studies), options.preset, assignments(options.parameter))
    entries = _judgeable(evidence, options.ids)
    written: list[str] = []
    lacking: list[str] = []
    with bar("figure", len(entries)) as on_progress:
        for done, entry in enumerate(entries, 1):
            try:
                written += [str(path) for path in draw(evidence, entry, folder, options.format)]
            except NoRowsError:
                lacking.append(entry.id)
            on_progress(done, entry.id)
    if lacking:
        text = f"no rows yet for {', '.join(lacking)}; `miclab reproduce {' '.join(lacking)}` makes them"
        if not written:
            raise MiclabError(f"{text[:1].upper()}{text[1:]}.")
        say(f"not drawn: {text}")
    return written
