"""`miclab runs` and `miclab show`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated

import tyro

from miclab.api.run import Run
from miclab.api.runs import find, list_runs
from miclab.cli.options import Directory, RunName
from miclab.cli.terminal import parse, print_json, print_table, refuse_ignored, say, warn
from miclab.errors import visible
from miclab.runs.label import tags_of
from miclab.tables import Number, titled


@dataclass(frozen=True, kw_only=True)
class RunsOptions:
    """List the runs with their state and last accuracies, or change a run's name or tags."""

    runs: Directory = "runs"
    """Directory of runs."""
    tagged: Annotated[str, tyro.conf.arg(metavar="TAG,...")] = ""
    """List only runs that have all of these tags."""
    rename: Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="RUN NAME")] = None
    """Give a run this name; an empty one removes its name. The run may be training."""
    retag: Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="RUN TAG,...")] = None
    """Replace the tags of a run; an empty text removes them."""
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Show one run."""

    run: RunName
    """Path, name, or start of a name or hash."""
    runs: Directory = "runs"
    """Directory of runs."""
    json: bool = False
    """Print as JSON, with all metric rows."""


def run_runs(arguments: list[str]) -> int:
    """`miclab runs`."""
    options = parse(RunsOptions, "runs", arguments)
    if options.rename or options.retag:
        refuse_ignored(arguments, ("tagged",), "it is for the list of runs, and here a run gets another label")
        return _relabel(options)
    found = list_runs(options.runs).tagged(*tags_of(options.tagged))
    rows = found.as_json()
    status = int(any(row["status"] == "damaged" for row in rows))
    for line in dict.fromkeys(found.warnings):
        say(f"warning: {line}")
    if options.json:
        print_json(rows)
    elif rows:
        titled(found.tables()[0], f"runs under {options.runs}").show()
    else:
        there = (
            f"No run under {options.runs} has {options.tagged}." if options.tagged else f"No runs under {options.runs}."
        )
        print(visible(f"{there} `miclab train unimodal` makes one."))
    return status


def _relabel(options: RunsOptions) -> int:
    """Carries out --rename and --retag."""
    changed: dict[str, Run] = {}
    for given, field in ((options.rename, "name"), (options.retag, "tags")):
        if given:
            run = find(given[0], options.runs)
            # Both may be for the same run, whose name has changed by then.
            run = changed.setdefault(run.hash, run)
            run.disk.label = replace(run.label, **{field: given[1] if field == "name" else tags_of(given[1])})
    found = [{"run": run.path.name, "name": run.label.name, "tags": list(run.label.tags)} for run in changed.values()]
    if options.json:
        print_json(found)
        return 0
    for one in found:
        print(f"{one['run']}: name {one['name'] or '-'}, tags {', '.join(one['tags']) or '-'}")
    return 0


def run_show(arguments: list[str]) -> int:
    """`miclab show RUN`; exit status 1 if a file of the run is damaged."""
    import yaml

    options = parse(ShowOptions, "show", arguments)
    run = find(options.run, options.runs)
    damaged = run.verify()
    content = {**run.as_json(), "damaged": damaged}
    if not run.config.is_classification:
        content["cost"] = asdict(run.cost())
    warn(run.disk)
    if options.json:
        print_json(content)
        return 1 if damaged else 0
    rows = content.pop("rows")
    print(yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110), end="")
    cells = [[row["step"], Number(row["loss"], 4), *row["accuracy"].values()] for row in rows]
    if rows:
        print_table("metric rows", ["step", "loss", *rows[0]["accuracy"]], cells)
    return 1 if damaged else 0
