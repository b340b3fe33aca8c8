"""Many runs and many processes: does a run cost the same at the end of a study as at its beginning?

    python -m benchmarks.load study [--runs 10000]      a study of mock runs on 2 workers
    python -m benchmarks.load race                      50 processes that race for the same 200 runs
    python -m benchmarks.load listing                   `miclab runs` and `study status` on 20,000 runs
    python -m benchmarks.load                           all three

Training is a mock of milliseconds (benchmarks/mock_training.py). `study` and `listing` time processes: run them on an
idle machine.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
import yaml

from benchmarks import program
from benchmarks.program import FailedError, Line, Lines
from miclab import storage
from miclab.config import schema
from miclab.errors import ConfigError
from miclab.studies.engine import Engine
from miclab.studies.plan import Plan
from miclab.studies.study import load_study
from miclab.studies.task import perform

MOCK = Path(__file__).with_name("mock_training.py")
LOG = "MICLAB_MOCK_LOG"
WARM = 200
"""Runs at the start that are not timed: workers import torch meanwhile."""


def write_study(folder: Path, runs: int, steps: int = 4) -> Path:
    """A study of so many runs: 20 seeds at each point."""
    seeds = min(20, runs)
    data = {
        "title": "load",
        "stage": "unimodal",
        "config": {"modalities": {"m1": {"classes": 8, "dimension": 8, "labels": 4}}, "numerics": {"mode": "eager"}},
        "grid": [{"product": {"modalities.m1.noise": [i / runs for i in range(-(-runs // seeds))]}}],
        "profiles": {"quick": {"seeds": list(range(seeds)),
                               "request": {"steps": steps, "evaluate_every": steps, "checkpoint_every": steps}}},
    }  # fmt: skip
    file = folder / "load.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def memory(process: int) -> float:
    """Memory of a process that is its own, in MiB; 0 where it has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("RssAnon:")), 0.0)


def processor(process: int) -> float:
    """Seconds of processors that a process has used; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(process: int) -> list[int]:
    """Processes that a process started."""
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def ends(log: Path) -> list[float]:
    """Times of the trainings of a log, in order."""
    return sorted(float(line.split()[1]) for line in log.read_text().splitlines()) if log.exists() else []


def cost(samples: list[tuple[int, float]], first: int, last: int) -> float:
    """Seconds of processors per run between two counts of runs.

    Arguments:
        samples: runs done and seconds used until then, in order.
    """
    begin = next((entry for entry in samples if entry[0] >= first), samples[-1])
    end = next((entry for entry in samples if entry[0] >= last), samples[-1])
    return (end[1] - begin[1]) / max(1, end[0] - begin[0])


def measure_study(folder: Path, runs: int, workers: int = 2) -> dict[str, Any]:
    """A study by the command line: seconds of the first and the last tenth of its runs, memory of engine and workers.

    Returns:
        `ratio`: the last tenth by the first, after `WARM` runs, by the clock and of processors; `first`, `last`: MiB of
        the engine and of the largest worker, after a fifth of the runs and at the end.
    """
    file, log = write_study(folder, runs), folder / "log"
    command = [sys.executable, "-m", "miclab", "study", "run", str(file), "--runs", str(folder / "runs"),
               "--workers", str(workers), "--plugin", str(MOCK)]  # fmt: skip
    start = time.perf_counter()
    seen: list[tuple[int, float, float]] = []
    used: dict[int, float] = {}
    costs: list[tuple[int, float]] = []
    with (folder / "screen").open("w") as screen:
        process = subprocess.Popen(command, env={**os.environ, LOG: str(log)}, stdout=screen, stderr=screen)
        while process.poll() is None:
            time.sleep(1.0)
            workers_now, done = children(process.pid), len(ends(log))
            seen.append((done, memory(process.pid), max(map(memory, workers_now), default=0.0)))
            used |= {one: spent for one in (process.pid, *workers_now) if (spent := processor(one))}
            costs.append((done, sum(used.values())))
    if process.returncode:
        raise FailedError((folder / "screen").read_text()[-2000:])
    times = ends(log)
    tenth, warm = runs // 10, min(WARM, runs // 10)
    first, last = times[warm + tenth] - times[warm], times[-1] - times[-1 - tenth]
    at_fifth = next((entry for entry in seen if entry[0] >= runs // 5), seen[-1])
    while len(seen) > 1 and not seen[-1][1]:
        seen.pop()
    return {
        "runs": len(times),
        "seconds": time.perf_counter() - start,
        "ratio": last / first,
        "ratio of processors": cost(costs, runs - tenth, runs) / cost(costs, warm, warm + tenth),
        "milliseconds": [1000 * first / tenth, 1000 * last / tenth],
        "first": [round(value) for value in at_fifth[1:]],
        "last": [round(max(entry[place] for entry in seen[-5:])) for place in (1, 2)],
        "MiB of the engine": [round(next((e[1] for e in seen if e[0] >= i), 0.0)) for i in range(0, runs, tenth)],
        "tenths": [round(times[min(len(times) - 1, i + tenth)] - times[i], 2) for i in range(0, runs, tenth)],
    }


class Here:
    """A launcher of one worker: this process."""

    def __init__(self):
        self.hand: list[str] = []

    def room(self) -> int:
        return 1 - len(self.hand)

    def submit(self, paths: list[str]) -> None:
        self.hand += paths

    def wait(self, seconds: float) -> list[tuple[str, str | None]]:
        if not self.hand:
            time.sleep(seconds)
        ended: list[tuple[str, str | None]] = [(path, perform(path)) for path in self.hand]
        self.hand = []
        return ended

    def stop(self) -> None: ...

    def close(self) -> None: ...


def _race(plan: Plan, root: Path, begin: Any, failures: Any) -> None:
    begin.wait()
    tally = Engine(plan, root, Here()).go()
    left = [found for found in tally.states.values() if found.status != "done"]
    if left:
        failures.put(str(left[0]))


def measure_race(folder: Path, runs: int, processes: int) -> dict[str, Any]:
    """Engines that begin at once on the same plan: how often each run was trained."""
    from miclab.config.extensions import load_plugin

    load_plugin(MOCK)
    os.environ[LOG] = str(folder / "log")
    plan = Plan([load_study(write_study(folder, runs), "quick")], "eager")
    # Forks: fifty interpreters that each import torch would need the memory and the time of fifty.
    context = multiprocessing.get_context("fork")
    begin, failures = context.Barrier(processes), context.Queue()
    start = time.perf_counter()
    racers = [context.Process(target=_race, args=(plan, folder / "runs", begin, failures)) for _ in range(processes)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    del os.environ[LOG]
    trained = Counter(line.split()[0] for line in (folder / "log").read_text().splitlines())
    return {
        "processes": processes,
        "runs": len(plan.runs),
        "trained": len(trained),
        "more than once": sum(count > 1 for count in trained.values()),
        "left undone": 0 if failures.empty() else 1,
        "processes that failed": sum(racer.exitcode != 0 for racer in racers),
        "leases left": len(list((folder / "runs" / ".studies" / "claims").glob("*"))),
        "seconds": time.perf_counter() - start,
    }


def fill(root: Path, plan: Plan, count: int) -> None:
    """Finished runs, made without a training."""
    from benchmarks.mock_training import row

    world = storage.tensor_bytes({})
    for run in list(plan.runs.values())[:count]:
        config = run.config
        contents = {"config.json": json.dumps(schema.to_mapping(config), indent=1).encode(), "world.safetensors": world}
        for step in (0, run.request.steps):
            name = f"checkpoints/{step:09d}"
            contents |= {f"{name}.safetensors": world, f"{name}.optimiser.safetensors": world,
                         f"rows/{step:09d}.jsonl": storage.json_bytes(row(config, step))}  # fmt: skip
        files = {name: storage.digest(content) for name, content in contents.items()}
        steps, now = (0, run.request.steps), "2026-01-01T00:00:00+00:00"
        timing = [{"step": step, "seconds": 0.1, "time": now} for step in steps]
        manifest = {"format": 1, "hash": run.hash, "status": "finished", "reason": "all steps done",
                    "request": schema.to_mapping(run.request), "environment": {}, "timing": timing,
                    "files": files}  # fmt: skip
        for name, content in {**contents, "manifest.json": storage.sealed(manifest)}.items():
            path = root / run.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def timed(*words: str, repeats: int = 3) -> tuple[list[float], str]:
    """Seconds of a command in a fresh process, and those of processors, medians; and the end of what it printed."""
    seconds, text = [], ""
    for _ in range(repeats):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "miclab", *words], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        seconds.append((time.perf_counter() - start, used))
        if done.returncode:
            raise FailedError(done.stderr[-2000:])
        text = done.stdout
    return [round(statistics.median(column), 2) for column in zip(*seconds, strict=True)], text


def measure_listing(folder: Path, runs: int) -> dict[str, Any]:
    """Seconds of `miclab runs` and of `study status` on a directory of so many runs, by the clock and of processors."""
    file, root = write_study(folder, runs), folder / "runs"
    fill(root, Plan([load_study(file, "quick")], "eager"), runs)
    listing, text = timed("runs", "--runs", str(root), "--json")
    table, _ = timed("runs", "--runs", str(root), repeats=1)
    status, counts = timed("study", "status", str(file), "--runs", str(root))
    if len(json.loads(text)) != runs or f"{runs} done" not in counts:
        raise FailedError("Not every run was listed.")
    return {"runs": runs, "runs --json": listing, "runs as a table": table, "study status": status}


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """What is measured, and its size."""

    what: tyro.conf.Positional[Literal["study", "race", "listing", "all"]] = "all"
    """What is measured."""
    runs: int = 10_000
    """`study`: runs, at least 10."""
    racing: int = 200
    """`race`: runs."""
    processes: int = 50
    """`race`: processes."""
    listed: int = 20_000
    """`listing`: runs."""


def measure(options: Options) -> Lines:
    """What was measured, and what it should be."""
    if options.runs < 10:
        raise ConfigError("--runs", options.runs, "10 or more: tenths of them are compared")
    parts = {
        "study": ("ratio at most 1.2, memory flat", lambda folder: measure_study(folder, options.runs)),
        "race": ("each run once", lambda folder: measure_race(folder, options.racing, options.processes)),
        "listing": ("under 5 s", lambda folder: measure_listing(folder, options.listed)),
    }
    with tempfile.TemporaryDirectory() as name:
        for what, (aim, part) in parts.items():
            if options.what in (what, "all"):
                folder = Path(name) / what
                folder.mkdir()
                found = part(folder)
                yield Line(f"{what} ({aim}): {found}", {"what": what, "aim": aim, **found})


main = program.program("load", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
