"""Trains the studies of the claims that matter most, in lanes on a GPU, for as long as a time limit allows.

    make gpu
    python -m benchmarks.gpu_paper --device cuda --only-plan
    python -m benchmarks.gpu_paper --device cpu --preset quick --lanes 4 --limit 60

It ends by itself after `--limit` seconds: every run keeps a checkpoint, and a second call goes on from the directory
of runs. All is trained in this one process. It needs a Python with PyTorch, NumPy, safetensors and jaxtyping. Only the
plan needs PyYAML, which reads study files. A machine without it takes the file of a plan that was made elsewhere with
`--only-plan`.

Analyses and tables are not made here. `miclab study run` makes them from the same runs, with the same `--preset`,
`--lanes`, `--device`, `--sampler`, `--lane-step` and `--runs`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import program
from benchmarks.program import Line, Lines, say
from miclab.config.content import json_of
from miclab.errors import ConfigError, MiclabError
from miclab.storage import json_bytes, read_file, replace_bytes
from miclab.studies.engine import Engine, Tally
from miclab.studies.numerics import StudyNumerics
from miclab.studies.plan import Plan
from miclab.studies.study import load_study
from miclab.studies.task import Answer, answers, is_group, perform, read_run, run_mapping, task_run
from miclab.training.numerics import device_here

STUDIES = (
    "multimodal",
    "complexity",
    "complexity_onehot",
    "anchors",
    "optimiser",
    "early_fusion",
    "diversity",
    "context",
)
"""The studies of the claims M1 M7 M8, U5 and X9, X2, U1, M6 and U7, in this order."""
AGAIN = 0.5
"""Seconds between two looks at the clock, and between two signals after the limit. A first one may come while no
training listens."""


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """Which studies are trained, how, and for how long."""

    study: tuple[str, ...] = STUDIES
    """Studies, the most important first."""
    studies: Path = Path("studies")
    """Directory of study files."""
    preset: str = "paper"
    """Preset of the studies."""
    lanes: int = 64
    """Lanes of a group."""
    device: str = "auto"
    """Device: cpu, cuda, cuda:1, mps or auto. `auto` trains nothing where there is no GPU."""
    sampler: str = "auto"
    """Sampler of the runs: device or host; auto: device, and host on mps, which has no float64."""
    lane_step: str = "eager"
    """Step of a group: eager, or compiled as one program (a CUDA graph on an NVIDIA GPU)."""
    runs: Path = Path("build/gpu-runs")
    """Directory of runs; a second call goes on there."""
    plan: Path = Path("build/gpu-paper.json")
    """File of the plan. It is made anew wherever PyYAML is."""
    only_plan: bool = False
    """Make the plan and train nothing. The device need not be here, but has to be named."""
    limit: float = 540.0
    """Seconds after which training stops."""


def sampler_of(options: Options, device: str) -> str:
    """The sampler of the runs on a device."""
    return options.sampler if options.sampler != "auto" else "host" if device == "mps" else "device"


# -- the plan -----------------------------------------------------------------------------------------------------
def made_plan(options: Options, device: str) -> Plan:
    """The plan of the studies, without analyses.

    Raises:
        ModuleNotFoundError: there is no PyYAML.
        MiclabError: a study cannot be read or planned.
    """
    numerics = StudyNumerics(str(options.lanes), device, sampler_of(options, device), options.lane_step)
    found = [numerics.of(load_study(options.studies / f"{name}.yaml", options.preset)) for name in options.study]
    # Stage-1 runs of one study are used by the next, so all are planned together.
    plan = Plan(found, numerics.mode(options.runs))
    return plan.only({identity: replace(run, analyses=()) for identity, run in plan.runs.items()})


def written_for(options: Options, device: str) -> dict[str, Any]:
    """What decides the runs of a plan."""
    named = {"study": list(options.study), "preset": options.preset, "lanes": options.lanes}
    return {**named, "device": device, "sampler": sampler_of(options, device), "lane_step": options.lane_step}


def write_plan(options: Options, device: str, plan: Plan) -> None:
    """Writes the file of a plan."""
    content = {
        "for": written_for(options, device),
        "members": plan.members,
        "runs": [run_mapping(run) for run in plan.runs.values()],
    }
    options.plan.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(options.plan, json_bytes(content))


def read_plan(options: Options, device: str) -> Plan:
    """The plan of a file.

    Raises:
        MiclabError: there is no file, it is damaged, or it was made with other options.
    """
    try:
        data = json_of(read_file(options.plan), options.plan)
    except OSError:
        raise MiclabError(
            "PyYAML is not installed, and without it no study file can be read. Make the plan where miclab is"
            f" installed: `python -m benchmarks.gpu_paper --device {device} --only-plan`. Then bring {options.plan}."
        ) from None
    made_for, wanted = data["for"].mapping(), written_for(options, device)
    if made_for != wanted:
        other = next(name for name in wanted if made_for.get(name) != wanted[name])
        allowed = f"{made_for.get(other)!r}, with which {options.plan} was made; or make that file again"
        raise ConfigError(f"--{other.replace('_', '-')}", wanted[other], allowed)
    runs = {run.hash: run for run in (read_run(one, str(options.plan)) for one in data["runs"].entries())}
    members = {name: list(identities) for name, identities in data["members"].mapping().items()}
    return Plan.of(runs, members)


def plan_of(options: Options, device: str) -> Plan:
    """The plan from the study files, or from the file of a plan where there is no PyYAML."""
    try:
        plan = made_plan(options, device)
    except ModuleNotFoundError as error:
        if error.name != "yaml":
            raise
        return read_plan(options, device)
    write_plan(options, device, plan)
    return plan


# -- training -----------------------------------------------------------------------------------------------------
class OneProcess:
    """A launcher of studies that trains in this process, one group after the other.

    Arguments:
        until: time of `time.monotonic` after which no group is begun.
    """

    def __init__(self, until: float):
        self.until, self._tasks, self._stopped = until, list[str](), False

    def room(self) -> int:
        """One if nothing waits."""
        return 1 - len(self._tasks)

    def submit(self, paths: list[str]) -> None:
        """Takes a task."""
        self._tasks += paths

    def wait(self, seconds: float) -> list[tuple[str, str | None]]:
        """Does the tasks and gives their answers."""
        found: list[tuple[str, str | None]] = []
        while self._tasks:
            path = self._tasks.pop(0)
            text = _not_begun(path) if self._stopped or time.monotonic() > self.until else perform(path)
            found.append((path, text))
            if not self._stopped and any(answer.status == "stopped" for answer in answers(text)):
                # The training took the signal, and the engine has to know of it.
                self._stopped = True
                os.kill(os.getpid(), signal.SIGTERM)
        return found

    def stop(self) -> None:
        """Begins nothing more."""
        self._stopped = True

    def close(self) -> None:
        """Nothing is left to be closed."""


def _not_begun(path: str) -> str:
    """The answer of a task, or of the tasks of a group, for which no time is left."""
    tasks = json.loads(read_file(path))["tasks"] if is_group(path) else [path]
    return json.dumps([vars(Answer(task_run(task), "stopped", "no time is left")) for task in tasks])


@contextmanager
def stopping(until: float) -> Iterator[None]:
    """Sends this process SIGTERM from a time of `time.monotonic` on, again and again until the context ends. Training
    and engine turn it into a request to stop."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(AGAIN):
            if time.monotonic() > until:
                os.kill(os.getpid(), signal.SIGTERM)

    # The engine gives the signal back to this handler once it has heard it.
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)


def trained(options: Options, device: str, began: float) -> Lines:
    """Trains until the limit; a line for each study, and one for all."""
    plan, until = plan_of(options, device), began + options.limit
    options.runs.mkdir(parents=True, exist_ok=True)
    # What failed on one machine, for want of memory perhaps, is tried again on the next. A run that diverged stays.
    engine = Engine(plan, options.runs, OneProcess(until), retry_failed=True)
    ended = -1

    def change(tally: Tally) -> None:
        nonlocal ended
        done = sum(found.status == "done" for found in tally.states.values())
        if done != ended:
            ended = done
            say(f"{done} of {len(plan.runs)} runs are done")

    engine.on_change = change
    start = time.monotonic()
    with stopping(until):
        tally = engine.go()
    change(tally)
    seconds = time.monotonic() - start
    yield from _lines(plan, tally)
    rate = tally.steps / seconds
    values = {"device": device, "steps": tally.steps, "seconds": seconds, "run-steps per second": rate}
    yield Line(f"{tally.steps:,} run-steps in {seconds:,.0f} s: {rate:,.0f}/s on {device}", values)
    if any(found.status in ("new", "begun") for found in tally.states.values()):
        yield Line("not all is done; a second call goes on here")


def _lines(plan: Plan, tally: Tally) -> Lines:
    """The state of every study."""
    for name, identities in plan.members.items():
        found = [tally.states[identity] for identity in identities]
        counts = {word: sum(one.status == word for one in found) for word in ("done", "failed", "begun", "new")}
        said = ", ".join(f"{number} {word}" for word, number in counts.items() if number)
        yield Line(f"{name}: {len(found)} runs: {said}", {"study": name, **counts}, failed=bool(counts["failed"]))
    for identity, one in tally.states.items():
        if one.status == "failed":
            yield Line(f"  failed: {plan.runs[identity].name}: {one.reason}", failed=True)


def measure(options: Options) -> Lines:
    """Makes the plan, then trains."""
    began = time.monotonic()
    if options.only_plan:
        if options.device == "auto":
            raise ConfigError("--device", "auto", "the name of the device that will train, for example cuda")
        plan = made_plan(options, options.device)
        write_plan(options, options.device, plan)
        yield Line(f"{options.plan}: {len(plan.runs)} runs", {"plan": str(options.plan), "runs": len(plan.runs)})
        return
    device = device_here(options.device)
    if device == "cpu" and options.device == "auto":
        yield Line("no GPU is here, so nothing is trained; --device cpu trains on the CPU")
        return
    yield from trained(options, device, began)


main = program.program("gpu_paper", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
