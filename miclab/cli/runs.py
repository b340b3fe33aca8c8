"""`miclab runs` and `miclab show`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from miclab.cli.options import Directory, RunName
from miclab.cli.terminal import parse, print_json, print_table, refuse_ignored, warn
from miclab.config.schema import to_mapping
from miclab.errors import ConfigError, MiclabError
from miclab.runs.find import find, list_runs, open_run
from miclab.runs.label import tags_of
from miclab.runs.run import Run
from miclab.tables import Number


@dataclass(frozen=True, kw_only=True)
class RunsOptions:
    """List the runs with their state and last accuracies; or give one of them another name or other tags."""

    runs: Directory = "runs"
    """Directory of runs."""
    tagged: Annotated[str, tyro.conf.arg(metavar="TAG,...")] = ""
    """List only runs that have all of these tags."""
    rename: Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="RUN NAME")] = None
    """Give a run this name; an empty one takes its name away. It may be training."""
    retag: Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="RUN TAG,...")] = None
    """Give a run these tags in the place of those it has; an empty text takes them away."""
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
    wanted = set(tags_of(options.tagged))
    rows, status = [], 0
    for path in list_runs(options.runs):
        try:
            run = open_run(path)
        except MiclabError as error:
            # Nothing is wrong with a run whose plugin was not named.
            needs_plugin = isinstance(error, ConfigError) and error.field == "plugins"
            state = "needs plugin" if needs_plugin else "damaged"
            rows.append({"run": path.name, "name": "", "tags": [], "status": state, "step": None, "accuracy": {},
                         "note": str(error)})  # fmt: skip
            status = status if needs_plugin else 1
            continue
        label = run.label
        if not wanted <= set(label.tags):
            continue
        last = (run.rows() or [{"accuracy": {}}])[-1]
        warn(run)
        # A killed process leaves its run so. Taking the lock to find out would disturb one that is alive.
        status_text = "running, or killed" if run.status == "running" else run.status
        rows.append({"run": path.name, "name": label.name, "tags": list(label.tags), "status": status_text,
                     "step": run.step, "accuracy": last["accuracy"], "note": run.reason})  # fmt: skip
    if options.json:
        print_json(rows)
        return status
    if not rows:
        there = f"No run under {options.runs} has {options.tagged}." if wanted else f"No runs under {options.runs}."
        print(f"{there} `miclab train unimodal` makes one.")
        return status
    splits = ("train", "icl", "swapped", "iwl")
    # Columns that say nothing are left out.
    labelled = [key for key in ("name", "tags") if any(row[key] for row in rows)]
    cells = [
        [r["run"], *(r[key] if key == "name" else ", ".join(r[key]) for key in labelled), r["status"], r["step"],
         *map(r["accuracy"].get, splits), r["note"]]
        for r in rows
    ]  # fmt: skip
    print_table(f"runs under {options.runs}", ["run", *labelled, "status", "step", *splits, "note"], cells)
    return status


def _relabel(options: RunsOptions) -> int:
    """Carries out --rename and --retag."""
    changed: dict[str, Run] = {}
    for given, field in ((options.rename, "name"), (options.retag, "tags")):
        if given:
            run = find(given[0], options.runs)
            # Both may mean the same run, whose name has changed by now.
            run = changed.setdefault(run.hash, run)
            run.label = replace(run.label, **{field: given[1] if field == "name" else tags_of(given[1])})
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
    rows = run.rows()
    warn(run)
    content = {
        "run": str(run.path),
        "name": run.label.name,
        "tags": list(run.label.tags),
        "hash": run.hash,
        "status": run.status,
        "reason": run.reason,
        "checkpoints": run.checkpoints,
        "damaged": damaged,
        "request": run.request,
        "environment": run.environment,
        "seconds": round(sum(entry["seconds"] for entry in run.timing), 1),
        "config": to_mapping(run.config),
    }
    if options.json:
        print_json({**content, "rows": rows})
        return 1 if damaged else 0
    print(yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110), end="")
    cells = [[row["step"], Number(row["loss"], 4), *row["accuracy"].values()] for row in rows]
    if rows:
        print_table("metric rows", ["step", "loss", *rows[0]["accuracy"]], cells)
    return 1 if damaged else 0
