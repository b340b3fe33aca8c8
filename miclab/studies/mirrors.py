"""Trackers that show a copy of a study's rows: Weights & Biases, MLflow, TensorBoard, Trackio.

A mirror has its own thread and cannot make a run fail. Its first error is printed and turns it off. The rows beside the
runs are authoritative; a mirror gets each finished run once.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from miclab.config import schema
from miclab.errors import MiclabError
from miclab.studies.plan import Plan
from miclab.studies.rows import StudyTable
from miclab.studies.state import FOLDER, State

Name = Literal["wandb", "mlflow", "tensorboard", "trackio"]
WAIT = 60.0
"""Seconds that a study waits at its end for a mirror to finish."""


@dataclass(frozen=True)
class Copy:
    """The data of a run for a mirror.

    Arguments:
        study: the study's name.
        run: directory name of the run.
        config: fields of its configuration by dotted name, as text or numbers.
        rows: for each metric row its step and its numbers by column.
    """

    study: str
    run: str
    config: dict[str, Any]
    rows: list[tuple[int, dict[str, float]]]


class Mirror(Protocol):
    """Takes copies of runs. Any exception may be raised."""

    def send(self, copy: Copy) -> None:
        """Takes a run."""
        ...


class Tensorboard:
    """Event files under `folder/STUDY/RUN`, for `tensorboard --logdir`."""

    def __init__(self, folder: Path):
        self._writer, self.folder = import_module("tensorboard.summary").Writer, folder

    def send(self, copy: Copy) -> None:
        """Writes the event file of a run."""
        writer = self._writer(str(self.folder / copy.study / copy.run))
        for step, numbers in copy.rows:
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)
        writer.close()


class Wandb:
    """Runs of the project `miclab`, grouped by study. Account and offline mode are wandb's own settings."""

    def __init__(self, folder: Path):
        self._wandb: Any = import_module("wandb")
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def send(self, copy: Copy) -> None:
        """Logs a run and ends it."""
        run = self._wandb.init(
            project="miclab", group=copy.study, name=copy.run, config=copy.config, dir=str(self.folder),
            reinit="create_new", settings=self._wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        for step, numbers in copy.rows:
            run.log(numbers, step=step)
        run.finish()


class Mlflow:
    """Runs of an experiment for each study, at MLFLOW_TRACKING_URI or in a database under `folder`."""

    def __init__(self, folder: Path):
        entities = import_module("mlflow.entities")
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri:
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        self._client: Any = import_module("mlflow").MlflowClient(uri)
        self._metric, self._param = entities.Metric, entities.Param

    def send(self, copy: Copy) -> None:
        """Logs a run and ends it."""
        found = self._client.get_experiment_by_name(copy.study)
        experiment = found.experiment_id if found else self._client.create_experiment(copy.study)
        run = self._client.create_run(experiment, run_name=copy.run).info.run_id
        parameters = [self._param(name, str(value)) for name, value in copy.config.items()]
        for first in range(0, len(parameters), 100):
            self._client.log_batch(run, params=parameters[first : first + 100])
        metrics = [self._metric(n.replace("(", "").replace(")", ""), v, 0, s) for s, row in copy.rows
                   for n, v in row.items()]  # fmt: skip
        for first in range(0, len(metrics), 1000):
            self._client.log_batch(run, metrics=metrics[first : first + 1000])
        self._client.set_terminated(run)


class Trackio:
    """Runs of a project for each study, in Trackio's local database."""

    def __init__(self, folder: Path):
        self._trackio: Any = import_module("trackio")

    def send(self, copy: Copy) -> None:
        """Logs a run and ends it."""
        self._trackio.init(project=copy.study, name=copy.run, config=copy.config)
        for step, numbers in copy.rows:
            self._trackio.log(numbers, step=step)
        self._trackio.finish()


KINDS: dict[str, Callable[[Path], Mirror]] = {
    "wandb": Wandb, "mlflow": Mlflow, "tensorboard": Tensorboard, "trackio": Trackio,
}  # fmt: skip


def copies(table: StudyTable, identity: str, found: State) -> Copy:
    """The data of a finished run for a mirror."""
    rows = []
    for row in table.run_rows(identity, found):
        numbers = {
            name: float(value) for name, value in row.items()
            if isinstance(value, float) and name not in table.study.axes
        }  # fmt: skip
        if row["step"] is not None:
            rows.append((row["step"], numbers))
    run = table.plan.runs[identity]
    return Copy(table.study.name, run.name, _flat("", schema.to_mapping(run.config)), rows)


def _flat(owner: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for n, part in value.items() for k, v in _flat(f"{owner}.{n}" if owner else n, part).items()}
    return {owner: value if isinstance(value, (int, float, str)) else json.dumps(value)}


class Mirrors:
    """Mirrors of the tables of a plan's studies. Use as a context; call it with the states of the runs.

    Arguments:
        names: which trackers.
        tables: the studies' tables.
        plan: their plan.
        root: directory of runs; trackers that write files write them under `ROOT/.studies/mirrors`.
    """

    def __init__(self, names: Iterable[str], tables: list[StudyTable], plan: Plan, root: Path):
        for name in names:
            if name not in get_args(Name):
                raise MiclabError(f"--mirror {name}: one of {', '.join(get_args(Name))}.")
        self.tables = tables
        folder = root / FOLDER / "mirrors"
        self.feeds = [_Feed(name, KINDS[name], folder) for name in dict.fromkeys(names)]

    def __enter__(self) -> Mirrors:
        return self

    def __call__(self, states: dict[str, State]) -> None:
        """Sends the runs that ended since the last time."""
        for table in self.tables if self.feeds else ():
            for identity in table.plan.members[table.study.name]:
                if states[identity].status == "done":
                    for feed in self.feeds:
                        feed.offer(table, identity, states[identity])

    def __exit__(self, *details: object) -> None:
        for feed in self.feeds:
            feed.close()


class _Feed:
    """One mirror with its thread, and the list of runs that it has got."""

    def __init__(self, name: str, make: Callable[[Path], Mirror], folder: Path):
        self.name, self._make, self._folder = name, make, folder / name
        self._list = folder / f"{name}.sent"
        self._known: set[str] = set()
        with contextlib.suppress(OSError):
            self._known = set(self._list.read_text().split("\n"))
        self._queue: queue.Queue[Callable[[], tuple[str, Copy]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"mirror {name}")
        self._thread.start()

    def offer(self, table: StudyTable, identity: str, found: State) -> None:
        """Queues a run, unless this mirror has it."""
        key = f"{table.study.name}/{table.study.profile}/{identity}"
        if key not in self._known:
            self._known.add(key)
            self._queue.put(lambda: (key, copies(table, identity, found)))

    def _work(self) -> None:
        mirror: Mirror | None = None
        while True:
            order = self._queue.get()
            if order is None:
                return
            try:
                mirror = mirror or self._make(self._folder)
                key, copy = order()
                mirror.send(copy)
                self._list.parent.mkdir(parents=True, exist_ok=True)
                with open(self._list, "a") as file:
                    file.write(f"{key}\n")
            except BaseException as error:  # No exception of a tracker, not even SystemExit, fails a run.
                missing = f" (in the clone of miclab: pip install '.[{self.name}]')"
                hint = missing if isinstance(error, ImportError) else ""
                reason = f"{type(error).__name__}: {error}"
                print(f"miclab: warning: the mirror {self.name} is off: {reason}{hint}", file=sys.stderr, flush=True)
                return

    def close(self) -> None:
        """Waits a limited time for queued runs."""
        self._queue.put(None)
        self._thread.join(WAIT)
        if self._thread.is_alive():
            print(f"miclab: warning: the mirror {self.name} is still busy; the rest of its rows is not sent",
                  file=sys.stderr)  # fmt: skip
