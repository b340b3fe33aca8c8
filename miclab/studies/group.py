"""Runs of a study that one worker trains as the lanes of one group (see `miclab.training.lanes`).

A group is a task like any other: a file that lists the tasks of its runs. Each run is leased, analysed and marked by
itself; only the training is shared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from miclab import storage
from miclab.config.content import json_of
from miclab.config.extensions import Handed, taken_up
from miclab.config.run import RunConfig
from miclab.errors import BusyError, ContentError, MiclabError
from miclab.studies import state
from miclab.studies.lease import Lease, reserve
from miclab.studies.plan import PlannedRun
from miclab.studies.task import (
    GROUP,
    Answer,
    Ending,
    LostError,
    analysed,
    read_task,
    reason_of,
    task_run,
    tasks_folder,
    trained_elsewhere,
)

if TYPE_CHECKING:
    from miclab.training.loop import Prepared
    from miclab.training.trajectory import Outcome


class Grouping:
    """Which runs can be lanes of one group."""

    def __init__(self):
        self._known: dict[int, tuple[RunConfig, object]] = {}

    def key(self, run: PlannedRun) -> object:
        """What the runs of a group have in common; None where a run is trained by itself."""
        if not run.point.numerics.lanes:
            return None
        # Runs of one point share everything but seed and parent, which are in no key.
        if id(run.point) not in self._known:
            from miclab.training.step import graph_key

            self._known[id(run.point)] = (run.point, (graph_key(run.config), run.point.numerics))
        return self._known[id(run.point)][1]


def write_group(root: Path, paths: Sequence[str], engine: str) -> str:
    """Writes the task of a group of tasks; returns the file's path."""
    name = hashlib.sha256("".join(map(task_run, paths)).encode()).hexdigest()[:32]
    path = tasks_folder(root) / f"{GROUP}{name}.{engine}.json"
    with storage.explained(path):
        path.write_bytes(storage.json_bytes({"tasks": list(paths)}))
    return str(path)


def perform_group(path: str, plugins: Handed) -> str:
    """Does the tasks of a group; the arguments are those of `miclab.studies.task.perform`.

    Returns:
        The fields of every run's `Answer`, as a JSON list.
    """
    try:
        members = [member.text() for member in json_of(storage.read_file(path), path)["tasks"].entries()]
    except (OSError, ContentError):
        # Its engine is gone, and nobody waits for an answer; or it will find that no run of the group was done.
        return "[]"
    found: list[Answer] = []
    runs: list[PlannedRun] = []
    root = Path()
    for member in members:
        try:
            taken_up(plugins)
            root, run = read_task(member)
            runs.append(run)
        except FileNotFoundError:
            found.append(Answer(task_run(member), "busy", "its task was withdrawn"))
        except MiclabError as error:
            found.append(Answer(task_run(member), "failed", str(error)))
    return json.dumps([asdict(answer) for answer in (*found, *_leased(root, runs))])


def _leased(root: Path, runs: Sequence[PlannedRun]) -> list[Answer]:
    """Trains those of the runs that no other process holds, and answers for all."""
    found: list[Answer] = []
    with contextlib.ExitStack() as stack:
        lanes = []
        for run in runs:
            held = reserve(state.leases_folder(root), run.hash)
            if held is None:
                found.append(Answer(run.hash, "busy", "another process trains it"))
                continue
            stack.callback(held.release)
            lanes.append(_Lane(root, run, held))
        _train([lane for lane in lanes if lane.prepare()])
        return [*found, *(lane.answer() for lane in lanes)]


class _Lane:
    """A run of a group, and how its task ends: `status` and `reason`."""

    def __init__(self, root: Path, run: PlannedRun, held: Lease):
        self.root, self.run, self.held = root, run, held
        self.before, self.since = state.look(run, root), time.perf_counter()
        self.step = self.before.step
        self.ready: Prepared | None = None
        self.status: Ending = "stopped"
        self.reason = ""

    def check(self, *progress: object) -> None:
        """Raises LostError where another process took the run over."""
        if self.held.lost:
            raise LostError("another process took the run over")

    def prepare(self) -> bool:
        """Readies the run; whether it is to be trained. One that was trained on another device is analysed at once."""
        from miclab.training.loop import prepared

        with self.noting():
            if (elsewhere := trained_elsewhere(self.root, self.run)) is not None:
                self.end(elsewhere[1])
                return False
            self.ready = prepared(self.run.config, self.root, self.run.request.steps)
        return self.ready is not None

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Turns what ends the task into its status, and marks a failure."""
        try:
            yield
        except KeyboardInterrupt:
            self.status, self.reason = "stopped", "stopped by a signal"
        except (BusyError, LostError) as error:
            self.status, self.reason = "busy", str(error)
        except Exception as error:
            self.status, self.reason = "failed", reason_of(error)
            state.mark_failure(self.root, self.run, self.reason, traceback.format_exc())

    def end(self, outcome: Outcome) -> None:
        """Analyses the run after its training."""
        with self.noting():
            self.step = outcome.step
            self.status, self.reason, _ = analysed(self.root, self.run, self.root / self.run.name, outcome, self.check)
            if self.status != "stopped" and self.before.status == "failed":
                state.forget_failure(self.root, self.run.hash)

    def answer(self) -> Answer:
        """The answer of its task."""
        steps = max(0, self.step - max(self.before.step, 0))
        return Answer(self.run.hash, self.status, self.reason, steps, time.perf_counter() - self.since)


def _train(lanes: Sequence[_Lane]) -> None:
    """Trains the runs together, then analyses each."""
    from miclab.training.loop import train_together

    if not lanes:
        return
    ready = [lane.ready for lane in lanes if lane.ready is not None]
    try:
        checks = [lane.check for lane in lanes]
        outcomes = train_together(ready, [lane.run.request for lane in lanes], checks)
    except (Exception, KeyboardInterrupt) as error:
        # What ends the training of one in the middle ends that of all.
        for lane in lanes:
            with lane.noting():
                raise error
        return
    for lane, outcome in zip(lanes, outcomes, strict=True):
        lane.end(outcome)
