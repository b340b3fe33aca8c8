"""Time of `miclab --help` and of `import miclab`, and of the first step of a compiled run, in fresh processes.

The first step is timed cold, with an empty folder of compiled steps, and warm, after another process has filled it (see
`miclab.training.compiler_cache`). `processor` counts the C++ compiler too, and hardly depends on other work.

    python -m benchmarks.start                two minutes on an idle core
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from benchmarks import program
from benchmarks.program import Line, Lines
from miclab.training.compiler_cache import VARIABLE

COMMANDS = {
    "miclab --help": ["-m", "miclab", "--help"],
    "miclab train unimodal --help": ["-m", "miclab", "train", "unimodal", "--help"],
    "import miclab": ["-c", "import miclab, sys; assert 'torch' not in sys.modules"],
}

FIRST_STEP = """
import json, resource, time
from dataclasses import replace
import torch
from benchmarks.step import TrainingProcess
from miclab.config.presets import run_config
from miclab.training import numerics

def used():
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return time.perf_counter(), sum(k.ru_utime + k.ru_stime for k in map(resource.getrusage, kinds))

torch.set_num_threads(1)
config = run_config("unimodal", "quick")
run = TrainingProcess(replace(config, numerics=replace(config.numerics, mode="compiled")))
before = used()
run.step(1)
print(json.dumps([after - first for after, first in zip(used(), before)]))
"""


def first_step(folder: str) -> tuple[float, float]:
    """Seconds on the clock, and of the processor, of a new process's first compiled step of `rope`.

    Arguments:
        folder: where compiled steps are kept.
    """
    environment = {**os.environ, VARIABLE: folder}
    command = [sys.executable, "-c", FIRST_STEP]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    clock, processor = json.loads(done.stdout.splitlines()[-1])
    return clock, processor


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """How often a process is started."""

    starts: int = 7
    """Processes of each command; the median of their times counts. The first step is timed once."""


def measure(options: Options) -> Lines:
    """The median of the starts of each command, then the first step."""
    for name, arguments in COMMANDS.items():
        times = []
        for _ in range(options.starts):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
            times.append(time.perf_counter() - start)
        middle = statistics.median(times)
        yield Line(f"{name:<30} {middle:.2f} s (aim for --help: under 0.5)", {"start of": name, "seconds": middle})
    with tempfile.TemporaryDirectory() as folder:
        for state in ("cold", "warm"):
            clock, processor = first_step(folder)
            name = f"first compiled step, {state}"
            yield Line(
                f"{name:<30} {clock:.1f} s, {processor:.1f} s of the processor",
                {"start of": name, "seconds": clock, "seconds of the processor": processor},
            )


main = program.program("start", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
