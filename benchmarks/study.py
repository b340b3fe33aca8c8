"""What the study engine costs: planning a hundred thousand runs, the gain of a second worker, the time between runs.

    python -m benchmarks.study plan                 100,000 runs, 1,000 of them done
    python -m benchmarks.study throughput           the same study with 1 and with 2 workers
    python -m benchmarks.study overhead             what is not training, compiling or importing

`plan` counts seconds of the processor. `throughput` and `overhead` time processes: run them on an idle machine.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
import yaml

from benchmarks import program
from benchmarks.program import FailedError, Line, Lines
from miclab import storage
from miclab.errors import ConfigError
from miclab.runs.find import list_runs, open_run
from miclab.runs.manifest import WHOLE
from miclab.studies.plan import Plan
from miclab.studies.study import load_study

PLAN = """
import contextlib, io, json, resource, sys, time
start = time.process_time()
from miclab.cli import main
screen = io.StringIO()
with contextlib.redirect_stdout(screen):
    status = main(["study", "plan", *sys.argv[1:]])
seconds = time.process_time() - start
megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([status, seconds, megabytes, screen.getvalue().count("\\n"), screen.getvalue()[-200:]]))
"""


ACROSS = 100
"""Values of an axis of the planned study."""


def write_study(folder: Path, name: str, axes: dict[str, list], seeds: int, request: dict[str, int], mode: str) -> Path:
    """A unimodal study of the quick preset."""
    data = {
        "title": name,
        "stage": "unimodal",
        "config": {"numerics": {"mode": mode}},
        "grid": [{"product": axes}],
        "profiles": {"quick": {"seeds": list(range(seeds)), "request": request}},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def fake_done(root: Path, plan: Plan, count: int) -> None:
    """Manifests of finished runs, without their files: what `study plan` reads."""
    for run in list(plan.runs.values())[:count]:
        (root / run.name).mkdir(parents=True)
        steps = range(0, run.request.steps + 1, run.request.evaluate_every)
        files = dict.fromkeys(WHOLE, "0" * 64)
        files |= {f"{kind}/{s:09d}.{end}": "0" * 64 for s in steps
                  for kind, end in (("checkpoints", "safetensors"), ("rows", "jsonl"))}  # fmt: skip
        timing = [{"step": s, "seconds": 1.0, "time": "2026-01-01T00:00:00+00:00"} for s in steps]
        manifest = {"format": 1, "hash": run.hash, "status": "finished", "reason": "all steps done", "request": {},
                    "environment": {}, "timing": timing, "files": files}  # fmt: skip
        (root / run.name / "manifest.json").write_bytes(storage.sealed(manifest))


def measure_plan(folder: Path, points: int = 20_000, seeds: int = 5, done: int = 1000) -> dict[str, Any]:
    """`study plan`, once with points that differ in one part, as grids mostly do, and once with every run a point."""
    found = {}
    for name, count, per_point in (("points with seeds", points, seeds), ("every run a point", points * seeds, 1)):
        axes = {
            "modalities.m1.classes": [32 * (i + 1) for i in range(ACROSS)],
            "modalities.m1.noise": [i / count for i in range(count // ACROSS)],
        }
        file = write_study(folder, name.replace(" ", "-"), axes, per_point, {"steps": 5000}, "eager")
        root = folder / name.replace(" ", "-")
        fake_done(root, Plan([load_study(file, "quick")], "eager"), done)
        command = [sys.executable, "-c", PLAN, str(file), "--runs", str(root)]
        message = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        status, seconds, megabytes, lines, end = json.loads(message)
        if status or f"{done} done" not in end:
            raise FailedError(f"`study plan` did not find what is done: {end}")
        runs = count // ACROSS * ACROSS * per_point
        found[name] = {"runs": runs, "lines": lines, "seconds": seconds, "megabytes": megabytes}
    return found


def timed_study(folder: Path, name: str, runs: int, steps: int, workers: int, mode: str) -> dict[str, float]:
    """Carries a study out in a fresh process; what its runs took by their own record, and the whole."""
    request = {"steps": steps, "evaluate_every": max(1, steps // 2), "checkpoint_every": max(2, steps // 2 * 2),
               "sequences": 100}  # fmt: skip
    file = write_study(folder, name, {"sequence.burstiness": [4]}, runs, request, mode)
    root = folder / f"{name}-{workers}"
    command = [sys.executable, "-m", "miclab", "study", "run", str(file), "--runs", str(root)]
    start = time.perf_counter()
    subprocess.run([*command, "--workers", str(workers)], check=True, capture_output=True, text=True)
    whole = time.perf_counter() - start
    finished = [open_run(path) for path in list_runs(root)]
    if len(finished) != runs or any(run.status != "finished" for run in finished):
        raise FailedError("Not every run is finished.")
    trained = sum(entry["seconds"] for run in finished for entry in run.timing)
    return {"seconds": whole, "seconds in runs": trained}


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """What is measured, and its size."""

    what: tyro.conf.Positional[Literal["plan", "throughput", "overhead"]] = "plan"
    """What is measured."""
    points: int = 20_000
    """`plan`: points, of 5 seeds each; at least 100."""
    done: int = 1000
    """`plan`: runs that are finished already."""
    runs: int = 8
    """`throughput`, `overhead`: runs of the study."""
    steps: int = 12_000
    """`throughput`, `overhead`: training steps of a run; 60 seconds or so."""
    mode: Literal["eager", "compiled"] = "compiled"
    """`throughput`, `overhead`: numeric mode."""


def measure(options: Options) -> Lines:
    """What was requested."""
    parts = {"plan": _plan, "throughput": _throughput, "overhead": _overhead}
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        yield from parts[options.what](Path(name), options)


def _plan(folder: Path, options: Options) -> Lines:
    if options.points < ACROSS:
        raise ConfigError("--points", options.points, f"{ACROSS} or more: that is how many values an axis has")
    for kind, row in measure_plan(folder, options.points, done=options.done).items():
        text = f"{kind:<20} {row['runs']} runs listed in {row['seconds']:.1f} s of the processor (aim: under 10),"
        yield Line(f"{text} {row['megabytes']:.0f} MiB (aim: under 1,024)", {"plan": kind, **row})


def _throughput(folder: Path, options: Options) -> Lines:
    one, two = (timed_study(folder, "throughput", options.runs, options.steps, w, options.mode) for w in (1, 2))
    gain = one["seconds"] / two["seconds"]
    yield Line(
        f"1 worker {one['seconds']:.0f} s, 2 workers {two['seconds']:.0f} s: {gain:.2f} times (aim: at least 1.85)",
        {"1 worker": one, "2 workers": two, "gain": gain},
    )


def _overhead(folder: Path, options: Options) -> Lines:
    # Imports and compiling happen once in a worker: a study of one run has them, and every further run has not.
    first = timed_study(folder, "first", 1, options.steps, 1, options.mode)
    all_ = timed_study(folder, "all", options.runs, options.steps, 1, options.mode)
    start = first["seconds"] - first["seconds in runs"]
    between = all_["seconds"] - all_["seconds in runs"] - start
    share = between / max(1e-9, all_["seconds in runs"])
    yield Line(
        f"{options.runs} runs of {all_['seconds in runs'] / options.runs:.1f} s: {start:.1f} s to start and end,"
        f" {between:.2f} s beside the runs, {share:.1%} (aim: under 5 %)",
        {"runs": options.runs, "start and end, s": start, "beside the runs, s": between, "share": share},
    )


main = program.program("study", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
