"""What one sees while a study runs: a live table on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.errors import MiclabError

if TYPE_CHECKING:
    from miclab.studies.engine import Tally
    from miclab.studies.plan import Plan

LINES = 30.0
"""Seconds between lines where there is no terminal."""
SHOWN = 20
"""Running runs that the table shows."""


def duration(seconds: float) -> str:
    """A time in words: `3 d 4 h`, `2 h 05 min`, `12 min`, `40 s`."""
    whole = int(seconds)
    if whole >= 86400:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min" if whole >= 120 else f"{whole} s"


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
        # A hundred thousand runs are not counted every second: the cores are for training.
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
            print(f"miclab: {self.summary(tally)}", file=sys.stderr, flush=True)

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
            table.add_row(run.name, f"{step:,}", f"{run.request.steps:,}", bar)
        if len(running) > SHOWN:
            table.add_row(f"... and {len(running) - SHOWN} more")
        ended = sum(found.status in ("done", "failed") for found in tally.states.values())
        whole = ProgressBar(total=max(1, len(tally.states)), completed=ended, width=60)
        failed = [i for i, s in tally.states.items() if s.status == "failed"][-3:]
        notes = [Text(f"failed: {self.plan.runs[i].name}: {tally.states[i].reason}", style="red") for i in failed]
        return Group(Text(self.summary(tally)), whole, table, *notes)
