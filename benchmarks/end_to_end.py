"""What `miclab train` costs beside its steps, end to end, and where that goes.

    python -m benchmarks.end_to_end                            1,500 steps: a minute on an idle core
    python -m benchmarks.end_to_end --steps 5000               compiled, warm: two minutes

The command runs in a process of its own, after a run of three steps that fills the folder of compiled steps. A
step is drawing its batch, the update, and reading the loss; its time is the mean of all steps but the first. The ratio
is the whole process over steps times that. All seconds are of the processor, compiler and threads included: other
work on the machine counts less than by the clock, and in both parts of the ratio alike.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks import program
from benchmarks.program import FailedError, Line, Lines
from miclab.errors import ConfigError
from miclab.training.compiler_cache import VARIABLE
from miclab.training.numerics import PAYS_FROM

PARTS = ("start", "compiling", "steps", "metric rows", "checkpoints", "rest")


def used() -> float:
    """Seconds of the processor of this process and its ended children."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(kind.ru_utime + kind.ru_stime for kind in map(resource.getrusage, kinds))


class Clock:
    """Seconds of the processor that parts of a training take, by name, and those of every step."""

    def __init__(self):
        self.parts, self.steps = defaultdict[str, float](float), list[float]()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose calls are counted under a part."""

        def call(*arguments: Any, **named: Any) -> Any:
            start = used()
            try:
                return function(*arguments, **named)
            finally:
                self.parts[part] += used() - start

        return call

    def drawing(self, draw: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """A function whose drawn batches count for the step that uses them."""

        def batches(*arguments: Any, **named: Any) -> Iterator[Any]:
            drawn = draw(*arguments, **named)
            while True:
                start = time.process_time()
                try:
                    batch = next(drawn)
                except StopIteration:
                    return
                self.steps.append(time.process_time() - start)
                yield batch

        return batches

    def stepping(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose steps are timed, each with its loss read."""

        def made(*arguments: Any, **named: Any) -> Any:
            step = make(*arguments, **named)

            def one(*given: Any) -> Any:
                start = used() if len(self.steps) == 1 else time.process_time()
                losses = step(*given)
                float(losses["loss"])
                now = used() if len(self.steps) == 1 else time.process_time()
                self.steps[-1] += now - start
                return losses

            return one

        return made


def watched(arguments: list[str]) -> dict[str, Any]:
    """Carries out `miclab` in this process. Returns the seconds of each part, and of a step."""
    from miclab.cli import main
    from miclab.runs.run import Run
    from miclab.training import loop, trajectory

    clock, begun = Clock(), []
    begin = loop.opened

    def opened(*given: Any, **named: Any) -> Any:
        begun.append(used())
        return begin(*given, **named)

    setattr(loop, "opened", opened)  # noqa: B010
    setattr(loop, "training_step", clock.stepping(loop.training_step))  # noqa: B010
    setattr(trajectory, "raw_training_batches", clock.drawing(trajectory.raw_training_batches))  # noqa: B010
    setattr(trajectory, "metric_row", clock.timed("metric rows", trajectory.metric_row))  # noqa: B010
    setattr(Run, "save_checkpoint", clock.timed("checkpoints", Run.save_checkpoint))  # noqa: B010
    status = main(arguments)
    step, whole = statistics.mean(clock.steps[1:]), used()
    parts = {**clock.parts, "start": begun[0], "compiling": clock.steps[0] - step, "steps": sum(clock.steps[1:]) + step}
    parts["rest"] = whole - sum(parts.values())
    shown = {name: parts.get(name, 0.0) for name in PARTS}
    return {"status": status, "whole": whole, "step": step, "median": statistics.median(clock.steps), "parts": shown}


CHILD = "import json, sys; from benchmarks.end_to_end import watched; print(json.dumps(watched(sys.argv[1:])))"


def trained(root: Path, cache: Path, steps: int, mode: str) -> dict[str, Any]:
    """`watched` in a fresh process."""
    options = {"runs": root, "request.steps": steps, "numerics.mode": mode}
    words = [f"--{name}={value}" for name, value in options.items()]
    environment = {**os.environ, VARIABLE: str(cache)}
    # Modules are compiled once and not in every process, as `make` has it.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", CHILD, "train", "unimodal", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    if found["status"]:
        raise FailedError(f"The training ended with status {found['status']}: {done.stderr[-1000:]}")
    return found


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """The run that is trained."""

    steps: int = 1500
    """Training steps, at least 3."""
    mode: Literal["auto", "eager", "compiled"] = "auto"
    """Numeric mode; `auto` is eager below 2,500 steps."""


def measure(options: Options) -> Lines:
    """The ratio, also without metric rows, and where the rest goes."""
    if options.steps < 3:
        raise ConfigError("--steps", options.steps, "3 or more, since the first step of a process is no typical one")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compiles = options.mode == "compiled" or (options.mode == "auto" and options.steps >= PAYS_FROM)
        program.say(f"three steps first, to compile {'the step and ' * compiles}Python's modules")
        trained(folder / "before", folder / "compiled", 3, "compiled" if compiles else "eager")
        found = trained(folder / "runs", folder / "compiled", options.steps, options.mode)
    parts, whole = found["parts"], found["whole"]
    steps = options.steps * found["step"]
    ratio, bare = whole / steps, (whole - parts["metric rows"]) / steps
    yield Line(
        f"{options.steps:,} steps, {options.mode}: {whole:.1f} s, {found['step'] * 1e3:.2f} ms a step (median"
        f" {found['median'] * 1e3:.2f}); ratio {ratio:.3f} (aim: 1.15), without metric rows {bare:.3f}",
        {"steps": options.steps, "mode": options.mode, "seconds": whole, "step, s": found["step"],
         "median step, s": found["median"], "ratio": ratio, "ratio without metric rows": bare, "parts, s": parts},
    )  # fmt: skip
    for part, seconds in parts.items():
        yield Line(f"    {part:<14}{seconds:8.2f} s   {seconds / whole:5.1%}")


main = program.program("end_to_end", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
