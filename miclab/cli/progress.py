"""Estimates of how long a command will take, printed before it begins, and the progress of a running study. Progress is
a live table on a terminal and occasional lines elsewhere.

Work is counted in multiply-adds of decoders, metric rows included, and speed in multiply-adds a second. Without a run
to measure it on, a speed is assumed. An estimate distinguishes minutes from hours, no more.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab import storage
from miclab.cli.terminal import bar, duration, say
from miclab.config import schema
from miclab.config.request import Request, SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import MiclabError, visible
from miclab.runs.find import list_runs
from miclab.runs.manifest import read_manifest
from miclab.runs.run import Run

if TYPE_CHECKING:
    from miclab.studies.engine import Tally
    from miclab.studies.plan import Plan, PlannedRun


ASSUMED = 1.5e10
"""Multiply-adds per second of one thread of a processor of about 2022."""
STEP = 1.5e7
"""Work of a training step beside its multiply-adds: drawing sequences, and the optimiser."""
COMPILING = 25.0
"""Seconds of a compiled run's first step."""
FROM = 10.0
"""Least estimate, in seconds, that is printed."""
CONTROL_DRAWS = 5
"""As `miclab.circuits.controls` has them, which loads torch."""
RECENT, LOOKED_AT = 5, 40
"""Runs that the speed is measured on, and most runs that are searched for them."""
SHORTEST, FEWEST = 5.0, 50
"""Fewest seconds and steps of such a run, since the first steps of a process are slow."""


def forward(config: RunConfig) -> float:
    """Multiply-adds of the decoder on one sequence, roughly; encoders are left out."""
    decoder, length = config.decoder, config.sequence_length
    # Items of the other modalities may be large pictures; the bridge maps them into the host's space.
    width = decoder.residual_width(config.item_width)
    block = 4 * width**2 + 3 * width * (decoder.mlp_hidden or width) + 2 * length * width
    return float(length * (decoder.layers * block + width**2))


def sequences_of(sizes: SplitSizes) -> int:
    """Sequences in an evaluation of all splits."""
    return sizes.sequences * (3 + sizes.novel_sets)


def training(config: RunConfig, request: Request, done: int = 0) -> float:
    """Work of a run's missing steps, with their metric rows."""
    left = max(0, request.steps - max(0, done))
    step = STEP + 3 * forward(config) * config.optimiser.batch_size
    rows = left / request.evaluate_every + (request.evaluate_every.bit_length() if done < 1 and left else 0)
    return left * step + rows * sequences_of(request.sizes) * forward(config)


@dataclass(frozen=True)
class Speed:
    """Multiply-adds per second, and the number of runs they were measured on; 0: the speed is assumed."""

    rate: float
    runs: int

    @property
    def basis(self) -> str:
        """Its origin, in words."""
        if not self.runs:
            return "an assumed speed, as there is no run to measure it on"
        return f"the speed of {self.runs} recent run{'s' if self.runs > 1 else ''}"


def speed(root: Path | str) -> Speed:
    """The speed of the latest runs under `root`: the median of their rates."""
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
        content = json.loads(storage.read_file(path / "config.json"))
        run = Run(path, schema.from_mapping(RunConfig, content), read_manifest(path))
        request = schema.from_mapping(Request, run.request)
    except (MiclabError, OSError, ValueError, RecursionError):
        return None
    seconds = sum(entry.get("seconds", 0.0) for entry in run.timing)
    if run.config.is_classification or seconds < SHORTEST or run.timing[-1]["step"] < FEWEST:
        return None
    steps = min(request.steps, run.timing[-1]["step"])
    return training(run.config, request, 0) * steps / request.steps / seconds


def rough(seconds: float) -> str:
    """A time in words, with one significant digit: `40 seconds`, `7 minutes`, `2.5 hours`, `3 days`."""
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
    """Prints an estimate of a command's time on standard error, if that is `FROM` seconds or more.

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
        say(f"{title}: about {rough(seconds)} on this machine, by {measured.basis}")


def announce_training(title: str, run: Run, request: Request) -> None:
    """Prints an estimate of a training's time."""
    if run.config.is_classification:
        # The cost of an encoder depends on its layers, not on a decoder.
        return
    compiles = run.config.numerics.mode == "compiled" and run.step < request.steps
    announce(title, training(run.config, request, run.step), run.path.parent, more=COMPILING * compiles)


@contextmanager
def looking(
    title: str, runs: Sequence[Run], root: Path | str, sequences: Callable[[RunConfig], int]
) -> Iterator[Callable[[int, str], None]]:
    """A progress bar over evaluated sequences of splits, after an estimate of the time. It gives a function that shows
    a text. The function also takes the caller's number, which the bar does not need.

    Arguments:
        sequences: expected number of evaluated sequences of a run with this configuration.
    """
    from miclab.worlds.splits import counted

    counts = {run.hash: sequences(run.config) for run in runs}
    announce(title, sum(counts[run.hash] * forward(run.config) for run in runs), root)
    total, seen, shown = sum(counts.values()), 0, ""
    with bar(title, total) as update:

        def look(count: int) -> None:
            nonlocal seen
            seen = min(seen + count, total)
            update(seen, shown)

        def name(done: int, text: str) -> None:
            nonlocal shown
            shown = text
            update(seen, text)

        with counted(look):
            yield name
        update(total, "")


def knockouts_of(config: RunConfig) -> int:
    """Passes over the sequences that `Interventions.knockouts` takes, roughly: the untouched decoder, every head, the
    circuit's two together, and the control of these two."""
    layers, heads = config.decoder.layers, config.decoder.heads
    return 2 + layers * heads + min(CONTROL_DRAWS, (heads - 1) ** 2)


def names_of(config: RunConfig) -> int:
    """Passes over novel classes that naming the heads of a circuit takes, roughly. They are those of the untouched
    decoder, and of its two heads and their controls with uniform patterns."""
    return 3 + 2 * min(CONTROL_DRAWS, config.decoder.heads - 1)


def ablations_of(config: RunConfig) -> int:
    """Passes that `Interventions.ablations` takes."""
    return 2 + 2 * len(config.modalities)


def announce_study(
    runs: Iterable[tuple[PlannedRun, int]], root: Path | str, workers: int, title: str = "study"
) -> None:
    """Prints an estimate of a study's time without analyses after training.

    Arguments:
        runs: those to be trained, each with its present steps; runs come after those that they start from.
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
        # A run waits for those that it starts from, with any number of processes.
        chains[run.hash] = own + max((chains.get(before, 0.0) for before in run.origins), default=0.0)
        compiles |= run.point.numerics.mode == "compiled"
    longest = max([work / max(1, workers), *chains.values()])
    announce(title, longest, root, more=COMPILING * compiles)


LINES = 30.0
"""Seconds between lines without a terminal."""
SHOWN = 20
"""Running runs that the table shows."""


class Watch:
    """Shows an engine's tally. Use as a context; call it with every tally.

    Arguments:
        plan: what the engine does.
        root: directory of runs, from which the steps of running runs are read.
    """

    def __init__(self, plan: Plan, root: Path):
        from rich.console import Console

        self.plan, self.root = plan, root
        self.console = Console(stderr=True)
        self.began = time.monotonic()
        self.first: dict[str, int] = {}
        self.steps: dict[str, int] = {}
        self._live: Any = None
        self._looked = self._printed = 0.0
        self._counts: tuple[int, ...] = ()

    def __enter__(self) -> Watch:
        if self.console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *details: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, tally: Tally) -> None:
        """Shows the tally, at most once a second, and less often where there are many runs."""
        now = time.monotonic()
        # A hundred thousand runs are not counted every second, since training needs the cores.
        if now - self._looked < max(1.0, len(tally.states) / 10_000):
            return
        self._looked = now
        self._look_at_running(tally)
        if self._live is not None:
            self._live.update(self._table(tally), refresh=True)
            return
        counts = tuple(sum(s.status == status for s in tally.states.values()) for status in ("done", "failed"))
        if counts != self._counts and now - self._printed > LINES:
            self._counts, self._printed = counts, now
            say(self.summary(tally))

    def _look_at_running(self, tally: Tally) -> None:
        from miclab.runs.find import glance

        for identity in sorted(tally.running)[:200]:
            run = self.plan.runs[identity]
            self.first.setdefault(identity, max(0, tally.states[identity].step))
            try:
                disk = glance(self.root, run.name, run.point)
            except MiclabError:
                continue
            self.steps[identity] = 0 if disk is None else max(0, disk.step)

    def time_left(self, tally: Tally) -> float | None:
        """Seconds until all is done, from the steps made since the engine began; None before the first."""
        made = tally.steps + sum(max(0, self.steps.get(i, 0) - self.first.get(i, 0)) for i in tally.running)
        if not made:
            return None
        left = 0
        for identity, found in tally.states.items():
            if found.status in ("new", "begun"):
                at = self.steps.get(identity, 0) if identity in tally.running else max(0, found.step)
                left += max(0, self.plan.runs[identity].request.steps - at)
        return left * (time.monotonic() - self.began) / made

    def summary(self, tally: Tally) -> str:
        """A line: done, running, failed, left, time left."""
        count = {s: sum(found.status == s for found in tally.states.values()) for s in ("done", "failed")}
        parts = [f"{count['done']} of {len(tally.states)} done", f"{len(tally.running)} running"]
        if tally.elsewhere:
            parts.append(f"{len(tally.elsewhere)} held by other processes")
        if count["failed"]:
            parts.append(f"{count['failed']} failed")
        left = self.time_left(tally)
        if left is not None:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def _table(self, tally: Tally) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(show_edge=False, box=None, pad_edge=False)
        for column in ("running", "step", "of", ""):
            table.add_column(column, justify="right" if column in ("step", "of") else "left")
        running = sorted(tally.running)
        for identity in running[:SHOWN]:
            run, step = self.plan.runs[identity], self.steps.get(identity, 0)
            bar = ProgressBar(total=max(1, run.request.steps), completed=step, width=30)
            table.add_row(Text(run.name), f"{step:,}", f"{run.request.steps:,}", bar)
        if len(running) > SHOWN:
            table.add_row(f"... and {len(running) - SHOWN} more")
        ended = sum(found.status in ("done", "failed") for found in tally.states.values())
        whole = ProgressBar(total=max(1, len(tally.states)), completed=ended, width=60)
        failed = [i for i, s in tally.states.items() if s.status == "failed"][-3:]
        notes = [
            Text(visible(f"failed: {self.plan.runs[i].name}: {tally.states[i].reason}"), style="red") for i in failed
        ]
        return Group(Text(self.summary(tally)), whole, table, *notes)
