"""`miclab runs` and `miclab show`."""

from __future__ import annotations

from dataclasses import dataclass

from miclab.cli.options import Directory, RunName
from miclab.cli.terminal import parse, print_json, print_table, warn
from miclab.config.schema import to_mapping
from miclab.errors import MiclabError
from miclab.runs.find import find, list_runs, open_run
from miclab.tables import Number


@dataclass(frozen=True, kw_only=True)
class RunsOptions:
    """List the runs with their state and last accuracies."""

    runs: Directory = "runs"
    """Directory of runs."""
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
    rows, status = [], 0
    for path in list_runs(options.runs):
        try:
            run = open_run(path)
        except MiclabError as error:
            rows.append({"run": path.name, "status": "damaged", "step": None, "accuracy": {}, "note": str(error)})
            status = 1
            continue
        last = (run.rows() or [{"accuracy": {}}])[-1]
        warn(run)
        # A killed process leaves its run so; to ask for the lock would disturb one that is alive.
        status_text = "running, or killed" if run.status == "running" else run.status
        rows.append({"run": path.name, "status": status_text, "step": run.step, "accuracy": last["accuracy"],
                     "note": run.reason})  # fmt: skip
    if options.json:
        print_json(rows)
        return status
    if not rows:
        print(f"No runs under {options.runs}. `miclab train unimodal` makes one.")
        return 0
    splits = ("train", "icl", "swapped", "iwl")
    cells = [[r["run"], r["status"], r["step"], *map(r["accuracy"].get, splits), r["note"]] for r in rows]
    print_table(f"runs under {options.runs}", ["run", "status", "step", *splits, "note"], cells)
    return status


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
