"""Carries a plan out: gives ready runs to a launcher and records their outcomes, until no run is left that can be
done."""

from __future__ import annotations

import heapq
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from miclab.runs import interrupts
from miclab.studies import state
from miclab.studies.group import Grouping, write_group
from miclab.studies.launchers import Launcher
from miclab.studies.plan import Plan
from miclab.studies.state import State
from miclab.studies.task import Answer, answers, task_run, tasks_folder, write_task

if TYPE_CHECKING:
    # Tables need polars, and training does not.
    from miclab.studies.rows import StudyTable

ELSEWHERE = 2.0
"""Seconds between checks of runs that other processes hold."""
DEATHS = 3
"""Number of dead processes after which their run is marked as failed. A launcher may lose several runs together."""


@dataclass
class Tally:
    """The state of the plan, as the engine knows it.

    Arguments:
        states: of every run, by hash.
        running: hashes of the runs that this engine gave to its launcher.
        elsewhere: hashes of the runs that other processes hold.
        steps: training steps done by this engine's runs.
        seconds: seconds that their workers took.
        ended: runs that this engine saw done or failed. Tables change only with this number.
    """

    states: dict[str, State]
    running: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
    steps: int = 0
    seconds: float = 0.0
    ended: int = 0


class _Stop:
    """Turns SIGINT and SIGTERM into a request to stop. A second signal ends the process as usual."""

    def __init__(self):
        self.wished = interrupts.claim()
        self.received = 0
        self._old: dict[int, object] = {}

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._take)
        return self

    def _take(self, number: int, frame: object) -> None:
        self.wished, self.received = True, number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def __exit__(self, *details: object) -> None:
        self._restore()


class Engine:
    """A plan that is being carried out.

    Arguments:
        plan: the plan.
        root: directory of runs.
        launcher: of its tasks.
        retry_failed: repeat runs that are marked as failed, except those that diverged, which would diverge again.
        on_change: called with the tally after every change, and every few seconds.
    """

    def __init__(
        self,
        plan: Plan,
        root: Path,
        launcher: Launcher,
        *,
        retry_failed: bool = False,
        on_change: Callable[[Tally], None] | None = None,
    ):
        self.plan, self.root, self.launcher = plan, root.resolve(), launcher
        self.on_change = on_change or (lambda tally: None)
        self.order = {identity: place for place, identity in enumerate(plan.runs)}
        self.children = plan.children()
        self.deaths: dict[str, int] = {}
        self.grouping = Grouping()
        self.groups: dict[str, list[str]] = {}
        """Of each group that is with the launcher, the tasks of its runs."""
        self.ready: list[int] = []
        self.identities = list(plan.runs)
        self.stopping = False
        self.token = secrets.token_hex(4)
        self.tally = Tally(state.survey(plan, self.root))
        if retry_failed:
            self._forget_failures()
        for identity, run in plan.runs.items():
            if self._open(identity) and all(map(self._is_done, run.origins)):
                heapq.heappush(self.ready, self.order[identity])

    def _forget_failures(self) -> None:
        for identity, found in self.tally.states.items():
            if found.status == "failed":
                state.forget_failure(self.root, identity)
        self.tally.states = state.survey(self.plan, self.root)

    def _open(self, identity: str) -> bool:
        return self.tally.states[identity].status in ("new", "begun")

    def _is_done(self, identity: str) -> bool:
        return self.tally.states[identity].status == "done"

    def go(self) -> Tally:
        """Works until all is done or has failed, or a signal arrives."""
        with _Stop() as stop:
            self._work(stop)
        self._clear_tasks()
        if stop.received and not self.stopping:
            # The signal came when nothing was left to stop; another study may follow.
            os.kill(os.getpid(), stop.received)
        return self.tally

    def _work(self, stop: _Stop) -> None:
        since = 0.0
        while True:
            if stop.wished and not self.stopping:
                self.stopping = True
                self.launcher.stop()
            if not self.stopping:
                self._give()
            if not self.tally.running and (self.stopping or not (self.ready or self.tally.elsewhere)):
                return
            self.on_change(self.tally)
            for path, text in self.launcher.wait(0.5):
                self._take(path, text)
            if time.monotonic() - since > ELSEWHERE:
                since = time.monotonic()
                self._look_elsewhere()

    def _is_suspect(self, identity: str) -> bool:
        """Whether one more dead process marks the run as failed. Such a run works alone, so that no other can be the
        cause."""
        return self.deaths.get(identity, 0) >= DEATHS - 1

    def _give(self) -> None:
        if any(map(self._is_suspect, self.tally.running)):
            return
        room, paths = self.launcher.room(), []
        while self.ready and len(paths) < room:
            identity = self.identities[self.ready[0]]
            if self._is_suspect(identity) and self.tally.running:
                break
            heapq.heappop(self.ready)
            paths.append(self._task([identity, *self._others(identity)]))
            if self._is_suspect(identity):
                break
        if paths:
            self.launcher.submit(paths)

    def _others(self, identity: str) -> list[str]:
        """Ready runs that can be lanes beside a run; they are taken off the queue."""
        run = self.plan.runs[identity]
        key, room = self.grouping.key(run), run.point.numerics.lanes - 1
        found: list[str] = []
        if key is None or self._is_suspect(identity):
            return found
        for place in sorted(self.ready):
            other = self.identities[place]
            if len(found) == room:
                break
            if not self._is_suspect(other) and self.grouping.key(self.plan.runs[other]) == key:
                found.append(other)
        taken = {self.order[other] for other in found}
        self.ready = [place for place in self.ready if place not in taken]
        heapq.heapify(self.ready)
        return found

    def _task(self, identities: list[str]) -> str:
        """The path of a task of one run, or of a group."""
        self.tally.running.update(identities)
        paths = [str(write_task(self.root, self.plan.runs[identity], self.token)) for identity in identities]
        if len(paths) == 1:
            return paths[0]
        path = write_group(self.root, paths, self.token)
        self.groups[path] = paths
        return path

    def _take(self, path: str, text: str | None) -> None:
        """How a task ended, of one run or of a group."""
        members = self.groups.pop(path, [path])
        if text is not None:
            for member in dict.fromkeys((path, *members)):
                Path(member).unlink(missing_ok=True)
        found = {ended.run: ended for ended in (answers(text) if text is not None else [])}
        for member in members:
            identity = task_run(member)
            self.tally.running.discard(identity)
            if identity in found:
                self._end(identity, found[identity])
            else:
                self._died(identity)

    def _end(self, identity: str, ended: Answer) -> None:
        self.tally.steps += ended.steps
        self.tally.seconds += ended.seconds
        if ended.status == "busy":
            self.tally.elsewhere.add(identity)
        elif ended.status == "stopped":
            # Stopped by this engine, or by the end of its job's time; then it resumes in another job.
            self._settle(identity, State("begun", ended.reason))
            if ended.steps:
                heapq.heappush(self.ready, self.order[identity])
            else:
                self._died(identity)
        else:
            self._settle(identity, state.look(self.plan.runs[identity], self.root))

    def _died(self, identity: str) -> None:
        """Handles the death of a worker. The run resumes from its last checkpoint, unless it kills its workers."""
        self.deaths[identity] = self.deaths.get(identity, 0) + (not self.stopping)
        if self.deaths[identity] < DEATHS:
            heapq.heappush(self.ready, self.order[identity])
            return
        reason = f"its process died {DEATHS} times, perhaps for lack of memory"
        state.mark_failure(self.root, identity, reason)
        self._settle(identity, State("failed", reason))

    def _settle(self, identity: str, found: State) -> None:
        """Records the outcome of a run and its effect on its children."""
        self.tally.states[identity] = found
        self.tally.ended += found.status in ("done", "failed")
        for child in self.children.get(identity, ()):
            run = self.plan.runs[child]
            if found.status == "failed":
                self._settle(child, state.inherited(self.tally.states[child], run, self.tally.states, self.plan))
            elif self._open(child) and all(map(self._is_done, run.origins)):
                heapq.heappush(self.ready, self.order[child])

    def _clear_tasks(self) -> None:
        """Removes task files of runs that are done, also those that a killed engine left."""
        for path in tasks_folder(self.root).glob("*.json"):
            found = self.tally.states.get(task_run(str(path)))
            if found is not None and found.status == "done":
                path.unlink(missing_ok=True)

    def _look_elsewhere(self) -> None:
        """Updates runs that others held: done, failed, or free again."""
        if not self.tally.elsewhere:
            return
        held = state.held(self.root)
        for identity in sorted(self.tally.elsewhere - set(held), key=self.order.__getitem__):
            self.tally.elsewhere.discard(identity)
            found = state.look(self.plan.runs[identity], self.root)
            if found.status in ("done", "failed"):
                self._settle(identity, found)
            else:
                heapq.heappush(self.ready, self.order[identity])


def carry_out(
    engine: Engine,
    tables: Sequence[StudyTable],
    on_change: Callable[[Tally], None],
    others: Mapping[str, State] = MappingProxyType({}),
) -> Tally:
    """Carries an engine's plan out and keeps the tables of its studies up to date. The launcher is closed at the end.

    Arguments:
        engine: the engine with its plan.
        tables: those of the plan's studies.
        on_change: called with the tally after every change, every few seconds, and at the end.
        others: states of runs that are in the tables and not in the plan.
    """

    def write(tally: Tally, now: bool = False) -> None:
        for table in tables:
            table.write({**others, **tally.states} if others else tally.states, now)

    def change(tally: Tally) -> None:
        write(tally)
        on_change(tally)

    engine.on_change = change
    try:
        tally = engine.go()
    finally:
        engine.launcher.close()
    write(tally, now=True)
    on_change(tally)
    return tally


def counted(on_progress: Callable[[int, int], None] | None, total: int) -> Callable[[Tally], None]:
    """A callback for tallies that reports only the number of ended runs.

    Arguments:
        on_progress: called with that number and with `total`, whenever it changes; None: nothing is.
        total: number of all runs.
    """
    seen = -1

    def change(tally: Tally) -> None:
        nonlocal seen
        ended = sum(found.status in ("done", "failed") for found in tally.states.values())
        if on_progress and ended != seen:
            seen = ended
            on_progress(ended, total)

    return change
