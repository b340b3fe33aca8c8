"""Roughly how long a command will take, said before it begins: its work, over the speed of recent runs.

Work is counted in multiply-adds of decoders, metric rows included, and speed in multiply-adds a second. Without a
run to measure it on, a speed is assumed. An estimate says whether it is minutes or hours, no more.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from miclab.config import schema
from miclab.config.request import Request, SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import MiclabError
from miclab.runs.find import list_runs
from miclab.runs.run import Run, read_manifest

if TYPE_CHECKING:
    from miclab.studies.plan import PlannedRun

ASSUMED = 1.5e10
"""Multiply-adds a second of one thread of a processor of 2022 or so."""
STEP = 1.5e7
"""Work that a training step costs beside its multiply-adds: drawing sequences, and the optimiser."""
COMPILING = 25.0
"""Seconds that the first step of a compiled run takes."""
FROM = 10.0
"""Seconds from which on a command says how long it will take."""
RECENT, LOOKED_AT = 5, 40
"""Runs that the speed is measured on, and how many are looked at for them."""
SHORTEST, FEWEST = 5.0, 50
"""Seconds and steps that such a run has trained at least: the first steps of a process are slow."""


def forward(config: RunConfig) -> float:
    """Multiply-adds of the decoder on one sequence, roughly; encoders are left out."""
    decoder, length = config.decoder, config.sequence_length
    width = decoder.width or max(part.dimension for part in config.modalities.values())
    block = 4 * width**2 + 3 * width * (decoder.mlp_hidden or width) + 2 * length * width
    return float(length * (decoder.layers * block + width**2))


def sequences_of(sizes: SplitSizes) -> int:
    """Sequences in an evaluation of all splits."""
    return sizes.sequences * (3 + sizes.novel_sets)


def training(config: RunConfig, request: Request, done: int = 0) -> float:
    """Work of the steps that a run still lacks, with their metric rows."""
    left = max(0, request.steps - max(0, done))
    step = STEP + 3 * forward(config) * config.optimiser.batch_size
    rows = left / request.evaluate_every + (request.evaluate_every.bit_length() if done < 1 and left else 0)
    return left * step + rows * sequences_of(request.sizes) * forward(config)


@dataclass(frozen=True)
class Speed:
    """Multiply-adds a second, and what they were measured on: so many runs, or 0 where the speed is assumed."""

    rate: float
    runs: int

    @property
    def basis(self) -> str:
        """Where it is from, in words."""
        if not self.runs:
            return "an assumed speed, as there is no run to measure it on"
        return f"the speed of {self.runs} recent run{'s' if self.runs > 1 else ''}"


def speed(root: Path | str) -> Speed:
    """The speed of the runs under `root` that were written last: the median of the rates of each."""
    found = []
    try:
        newest = sorted(list_runs(root), key=_changed, reverse=True)[:LOOKED_AT]
    except MiclabError:
        newest = []
    for path in newest:
        if (rate := _rate(path)) is not None:
            found.append(rate)
        if len(found) == RECENT:
            break
    return Speed(statistics.median(found), len(found)) if found else Speed(ASSUMED, 0)


def _changed(path: Path) -> float:
    try:
        return (path / "manifest.json").stat().st_mtime
    except OSError:
        return 0.0


def _rate(path: Path) -> float | None:
    try:
        content = json.loads((path / "config.json").read_bytes())
        run = Run(path, schema.from_mapping(RunConfig, content), read_manifest(path))
        request = schema.from_mapping(Request, run.request)
    except (MiclabError, OSError, ValueError):
        return None
    seconds = sum(entry.get("seconds", 0.0) for entry in run.timing)
    if run.config.is_classification or seconds < SHORTEST or run.timing[-1]["step"] < FEWEST:
        return None
    steps = min(request.steps, run.timing[-1]["step"])
    return training(run.config, request, 0) * steps / request.steps / seconds


def rough(seconds: float) -> str:
    """A time in words, with one digit that means something: `40 seconds`, `7 minutes`, `2.5 hours`, `3 days`."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    if seconds < 5400:
        minutes = seconds / 60
        return f"{minutes:.0f} minutes" if minutes < 10 else f"{5 * round(minutes / 5)} minutes"
    hours = seconds / 3600
    if hours < 36:
        return f"{round(2 * hours) / 2:g} hours"
    return f"{hours / 24:.0f} days"


def announce(title: str, work: float, root: Path | str, *, workers: int = 1, more: float = 0.0) -> None:
    """Says on standard error about how long a command will take, if that is `FROM` seconds or more.

    Arguments:
        title: of the command, as its progress bar has it.
        work: multiply-adds.
        root: directory of runs, whose speed is measured.
        workers: processes that share the work.
        more: seconds beside the work.
    """
    measured = speed(root)
    seconds = work / measured.rate / max(1, workers) + more
    if seconds >= FROM:
        print(
            f"miclab: {title}: about {rough(seconds)} on this machine, by {measured.basis}", file=sys.stderr, flush=True
        )


def announce_training(title: str, run: Run, request: Request) -> None:
    """Says how long a training will take."""
    if run.config.is_classification:
        # What an encoder costs depends on its layers, not on a decoder.
        return
    compiles = run.config.numerics.mode == "compiled" and run.step < request.steps
    announce(title, training(run.config, request, run.step), run.path.parent, more=COMPILING * compiles)


def announce_sequences(title: str, runs: Iterable[Run], root: Path | str, count: int, passes: float = 1) -> None:
    """Says how long it takes to look at so many sequences of each of some runs, `passes` times."""
    announce(title, passes * count * sum(forward(run.config) for run in runs), root)


def announce_study(
    runs: Iterable[tuple[PlannedRun, int]], root: Path | str, workers: int, title: str = "study"
) -> None:
    """Says how long a study will take, analyses after training left out.

    Arguments:
        runs: what is to be trained, each with the steps that it has; runs come after those that they start from.
        workers: processes at once.
        title: of the command.
    """
    work, chains = 0.0, {}
    compiles = False
    for run, done in runs:
        if run.point.is_classification:
            continue
        own = training(run.point, run.request, done)
        work += own
        # A run waits for those that it starts from, however many processes there are.
        chains[run.hash] = own + max((chains.get(before, 0.0) for before in run.origins), default=0.0)
        compiles |= run.point.numerics.mode == "compiled"
    longest = max([work / max(1, workers), *chains.values()])
    announce(title, longest, root, more=COMPILING * compiles)
