"""Kills, signals and flipped bytes: does a run always end with the bits of one that nothing happened to?

    python -m benchmarks.resilience

Training processes are forks of this one, so that a kill costs no start of Python; the reference comes from a fresh
interpreter. What a process must know to kill itself in the middle of a write is patched into the fork alone: nothing in
`miclab` knows of it. Exits with 1 if anything is not as it should be.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# Forks of a process that has touched a GPU cannot use autograd.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from benchmarks import program
from benchmarks.program import Line, Lines
from miclab.cli import main as miclab
from miclab.config import schema
from miclab.config.decoder import DecoderConfig
from miclab.config.parts import ModalityConfig, NumericsConfig, OptimiserConfig, SequenceConfig
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.errors import DamagedError
from miclab.runs import find as runs

CONFIG = RunConfig(
    modalities={"m1": ModalityConfig(classes=64, dimension=8, labels=8)},
    sequence=SequenceConfig(context=4, burstiness=2),
    decoder=DecoderConfig(heads=2),
    optimiser=OptimiserConfig(name="adamw", batch_size=8),
    numerics=NumericsConfig(mode="eager"),
)
REQUEST = Request(steps=120, evaluate_every=10, checkpoint_every=20, sequences=8, novel_sets=2)
SHORT = Request(steps=8, evaluate_every=2, checkpoint_every=4, sequences=8, novel_sets=2)
"""For flips: a flip in an old file makes the whole run again."""
PLACES = ("before", "after", "torn")
"""Where a placed kill strikes: before or after a call that changes the disk, or with half of a file's bytes there."""
Job = Callable[[], int]


def command(directory: Path, request: Request) -> list[str]:
    """The command line that trains the tiny run under `directory`."""
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump({**schema.to_mapping(CONFIG), "request": schema.to_mapping(request)}))
    return ["train", "unimodal", "--config", str(file), "--runs", str(directory)]


def run_directory(directory: Path) -> Path:
    """The directory of the tiny run under `directory`."""
    return directory / runs.run_name(CONFIG)


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a run but those that hold times or nothing; a half-written leftover would be among them."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name not in ("manifest.json", "lock"))
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def differences(reference: Path, other: Path, may_lack: Callable[[str], bool] = lambda name: False) -> list[str]:
    """In which files two runs are not equal to the bit: configuration, world, weights, optimiser and rows."""
    wanted, found = contents(reference), contents(other)
    lacking = [name for name in wanted if name not in found and not may_lack(name)]
    return sorted({*lacking, *(name for name in found if found[name] != wanted.get(name))})


# -- processes --------------------------------------------------------------------------------------------------------
def begin(job: Job, log: Path) -> int:
    """Forks a process that does `job` and exits with its status; returns its id."""
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = job()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def end(process: int) -> int:
    """Waits for a process: its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def watch_writing(shared: mmap.mmap) -> None:
    """Makes this process show, in its first byte of shared memory, whether it is inside a checkpoint's writing."""
    save = runs.Run.save_checkpoint

    def watched(self: runs.Run, *arguments: Any) -> None:
        shared[0] = 1
        save(self, *arguments)
        shared[0] = 0

    setattr(runs.Run, "save_checkpoint", watched)  # noqa: B010


def kill_at(call: int, place: str) -> None:
    """Makes this process kill itself at the n-th call that changes the disk."""
    left = [call]

    def patched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and place != "after":
                if place == "torn" and name == "fsync" and os.fstat(arguments[0]).st_size > 1:
                    os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*arguments, **options)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return act

    for name in ("fsync", "replace", "rename", "unlink"):
        setattr(os, name, patched(name, getattr(os, name)))


# -- the three trials -------------------------------------------------------------------------------------------------
def trial_of_kills(
    reference: Path, directory: Path, request: Request, kills: int, seed: int
) -> tuple[Counter, list[str]]:
    """Kills and resumes runs until there were so many kills; counts, and what was not as it should be.

    Two of three kills are placed at a call that changes the disk, the others come at a random instant. After the last
    kill of a run (one to three) it is resumed to its end and compared.
    """
    draw, counts, wrong = random.Random(seed), Counter(), []
    shared = mmap.mmap(-1, 1)
    started = time.perf_counter()
    arguments = command(_fresh(directory / "unkilled"), request)
    wrong += [f"unkilled: {status}" for status in [end(begin(lambda: miclab(arguments), directory / "log"))] if status]
    seconds = time.perf_counter() - started
    wrong += [f"unkilled: {name}" for name in differences(reference, run_directory(directory / "unkilled"))]
    # About ten calls for each checkpoint.
    calls = 10 * len(list((reference / "rows").iterdir()))
    while counts["kills"] < kills:
        counts["runs"] += 1
        here = _fresh(directory / f"killed{counts['runs']}")
        arguments = command(here, request)
        for _ in range(min(draw.randint(1, 3), kills - counts["kills"])):
            shared[0] = 0
            placed = draw.random() < 2 / 3
            call, place, delay = draw.randint(1, calls), draw.choice(PLACES), draw.uniform(0, seconds)

            def job(placed: bool = placed, call: int = call, place: str = place, given=arguments) -> int:
                watch_writing(shared)
                if placed:
                    kill_at(call, place)
                return miclab(given)

            process = begin(job, directory / "log")
            if not placed:
                time.sleep(delay)
                os.kill(process, signal.SIGKILL)
            if end(process) == -signal.SIGKILL:
                counts["kills"] += 1
                counts["inside a checkpoint's writing"] += shared[0]
                counts["placed" if placed else "at a random instant"] += 1
        status = end(begin(lambda given=arguments: miclab(given), directory / "log"))
        found = [f"exit status {status}"] if status else differences(reference, run_directory(here))
        left = [path.name for path in here.iterdir() if path.name.startswith(".")]
        wrong += [f"killed run {counts['runs']}: {what}" for what in [*found, *left]]
        if not found and not left:
            counts["runs equal to the bit"] += 1
            shutil.rmtree(here)
    return counts, wrong


def trial_of_signals(reference: Path, directory: Path, request: Request) -> tuple[Counter, list[str]]:
    """Stops a run with SIGINT, then SIGTERM, and resumes it."""
    counts, wrong = Counter(), []
    for number in (signal.SIGINT, signal.SIGTERM):
        here = _fresh(directory / number.name)
        arguments, path = command(here, request), run_directory(here)
        process = begin(lambda given=arguments: miclab(given), directory / "log")
        while len(list(path.glob("rows/*.jsonl"))) < 6:
            time.sleep(0.002)
        os.kill(process, number)
        status, run = end(process), runs.open_run(path)
        last = run.checkpoints[-1]
        if (status, run.status, run.reason) != (1, "stopped", f"stopped by {number.name}"):
            wrong.append(f"{number.name}: exit status {status}, {run.status}, {run.reason}")
        if not 0 < last < request.steps or run.verify():
            wrong.append(f"{number.name}: last checkpoint {last}, damaged {run.verify()}")
        status = end(begin(lambda at=path: miclab(["resume", str(at)]), directory / "log"))
        # A checkpoint at the step of the signal cuts its rows in two files, one of them empty: rows are compared whole.
        rows = [runs.open_run(p).rows() for p in (reference, path)]
        found = differences(_joined(reference), _joined(path))
        wrong += [f"{number.name}, resumed: {what}" for what in found]
        if status or rows[0] != rows[1]:
            wrong.append(f"{number.name}, resumed: exit status {status}, rows equal: {rows[0] == rows[1]}")
        counts[number.name] += 1
    return counts, wrong


def _joined(path: Path) -> Path:
    """A copy of a run whose rows are one file."""
    copy = Path(shutil.copytree(path, _fresh(path.parent / "joined") / path.name))
    content = b"".join(file.read_bytes() for file in sorted((copy / "rows").iterdir()))
    shutil.rmtree(copy / "rows")
    (copy / "rows.jsonl").write_bytes(content)
    return copy


def kind_of(name: str) -> str:
    """`config`, `world`, `manifest`, `optimiser`, `checkpoint` or `rows`."""
    if name.startswith("rows/"):
        return "rows"
    if name.startswith("checkpoints/"):
        return "optimiser" if ".optimiser." in name else "checkpoint"
    return name.split(".")[0]


def trial_of_flips(directory: Path, seed: int) -> tuple[Counter, list[str]]:
    """Flips one byte in every file of a run, one file at a time; counts by kind, and what was not as it should be."""
    draw, counts, wrong = random.Random(seed), Counter(), []
    arguments = command(_fresh(directory / "whole"), SHORT)
    end(begin(lambda: miclab(arguments), directory / "log"))
    whole = run_directory(directory / "whole")
    for file in sorted(f for f in whole.rglob("*") if f.is_file() and f.stat().st_size):
        name = str(file.relative_to(whole))
        here = _fresh(directory / "flipped")
        path = Path(shutil.copytree(whole, run_directory(here)))
        content = bytearray((path / name).read_bytes())
        offset = draw.randrange(len(content))
        content[offset] ^= draw.randint(1, 255)
        (path / name).write_bytes(content)
        counts[kind_of(name)] += 1
        found = _refused(path, name) if "/" not in name else _passed_over(path, name)
        log, arguments = here / "log", ["resume", str(path)] if "/" in name else command(here, SHORT)
        status = end(begin(lambda given=arguments: miclab(given), log))
        if str(path / name) not in log.read_text():
            found.append("the command does not name it")
        if "/" not in name:
            found += [f"exit status {status}, not 2"] if status != 2 else []
        else:
            found += [f"exit status {status}"] if status else differences(whole, path, _is_spare)
        wrong += [f"{name} with byte {offset} flipped: {what}" for what in found]
    return counts, wrong


def _is_spare(name: str) -> bool:
    """Whether a file belongs to a checkpoint that nobody requested to keep: damaged, it may be dropped."""
    return name.startswith("checkpoints/") and (".optimiser." in name or not SHORT.keeps(int(name[12:21])))


def _refused(path: Path, name: str) -> list[str]:
    try:
        runs.open_run(path)
    except DamagedError as error:
        return [] if error.path == str(path / name) else [f"{error.path} is named"]
    return ["it is read as if it were good"]


def _passed_over(path: Path, name: str) -> list[str]:
    """What is not as it should be when a run with this damaged file is read."""
    wrong, run = [], runs.open_run(path)
    if [text.split(" ")[0] for text in run.verify()] != [str(path / name)]:
        wrong.append(f"verify says {run.verify()}")
    step = int(Path(name).name.split(".")[0])
    if kind_of(name) == "rows" and (any(row["step"] >= step for row in run.rows()) or not run.warnings):
        wrong.append("its rows are read")
    if kind_of(name) == "checkpoint":
        expected = run.checkpoints[-2] if step == run.step else run.step
        if run.parameters()[0] != expected or bool(run.warnings) != (step == run.step):
            wrong.append("the one before is not used, or not said")
        try:
            run.parameters(step)
            wrong.append("its weights are read")
        except DamagedError as error:
            wrong += [] if error.path == str(path / name) else [f"{error.path} is named"]
    return wrong


def _fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def survey(directory: Path, kills: int, seed: int, request: Request = REQUEST) -> dict[str, Any]:
    """All trials: counts of kills, signals and flips, and under `wrong` what was not as it should be."""
    arguments = command(_fresh(directory / "reference"), request)
    subprocess.run([sys.executable, "-m", "miclab", *arguments], check=True, capture_output=True)
    reference = run_directory(directory / "reference")
    # Everything that a training imports is imported before the first fork, by training a little.
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        miclab(command(_fresh(directory / "warm"), SHORT))
    killed, wrong = trial_of_kills(reference, directory, request, kills, seed)
    stopped, more = trial_of_signals(reference, directory, request)
    flipped, most = trial_of_flips(directory, seed)
    return {"kills": dict(killed), "signals": dict(stopped), "flips": dict(flipped), "wrong": wrong + more + most}


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """How many kills, and where they strike."""

    kills: int = 24
    """Kills."""
    seed: int = 0
    """Decides where and when they strike, and which bytes are flipped."""


def measure(options: Options) -> Lines:
    """The counts, then what was not as it should be."""
    with tempfile.TemporaryDirectory() as directory:
        found = survey(Path(directory), options.kills, options.seed)
    for trial in ("kills", "signals", "flips"):
        counts = found[trial]
        total = counts["kills"] if trial == "kills" else sum(counts.values())
        text = ", ".join(f"{count} {name}" for name, count in counts.items())
        yield Line(f"{trial:<8} {total:>4}   {text}", {"trial": trial, **counts})
    for text in found["wrong"]:
        yield Line(text, {"wrong": text}, failed=True)
    if not found["wrong"]:
        yield Line("all equal to the bit; every flipped byte noticed and named")


main = program.program("resilience", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
