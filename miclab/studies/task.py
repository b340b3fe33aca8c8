"""One run of a study in a worker process: lease it, train it, analyse it, and mark it where it fails.

A worker is given the path of a task file and nothing else, whatever the launcher; it answers with a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from miclab import storage
from miclab.config import schema
from miclab.config.content import Content, json_of
from miclab.config.extensions import Handed, taken_up
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.errors import BusyError, ConfigError, MiclabError, MistakenError, RunContentError
from miclab.runs.find import directory_name, glance, open_run
from miclab.runs.run import Run
from miclab.studies import state
from miclab.studies.lease import reserve
from miclab.studies.plan import PlannedAnalysis, PlannedRun
from miclab.studies.study import Analysis

if TYPE_CHECKING:
    from miclab.training.trajectory import Outcome

Ending = Literal["done", "failed", "stopped", "busy"]


class LostError(MiclabError):
    """Another process took the run over."""


@dataclass(frozen=True)
class Answer:
    """How a task ended.

    Arguments:
        run: trajectory hash.
        status: `done`; `failed`; `stopped` by a signal; `busy`: another process holds the run.
        reason: in words.
        steps: training steps that this task did.
        seconds: time from the lease to the end.
    """

    run: str
    status: Ending
    reason: str
    steps: int = 0
    seconds: float = 0.0


def tasks_folder(root: Path) -> Path:
    """Where tasks in hand lie."""
    return root / state.FOLDER / "tasks"


def write_task(root: Path, run: PlannedRun, engine: str) -> Path:
    """Writes what a worker has to know about a run; returns the file's path.

    Arguments:
        engine: a token of the process that gives the task, so that two of them do not share a file.
    """
    content = {"root": str(root), **run_mapping(run)}
    path = tasks_folder(root) / f"{run.hash}.{engine}.json"
    with storage.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not made to survive a loss of power: nobody reads it before it was submitted, or after a crash.
        try:
            path.write_bytes(storage.json_bytes(content))
        except OSError:
            path.unlink(missing_ok=True)
            raise
    return path


def run_mapping(run: PlannedRun) -> dict[str, Any]:
    """A planned run as plain data; `read_run` reads it."""
    return {
        "hash": run.hash,
        "config": schema.to_mapping(run.config),
        "request": schema.to_mapping(run.request),
        "probes": list(run.analyses),
        "starts": list(run.starts),
    }


GROUP = "group-"
"""How the name of a task begins that is a group of others (see `miclab.studies.group`)."""


def is_group(path: str) -> bool:
    """Whether a task is a group of others."""
    return Path(path).name.startswith(GROUP)


def task_run(path: str) -> str:
    """Trajectory hash of the run of a task file."""
    return Path(path).name.partition(".")[0]


def read_task(path: str) -> tuple[Path, PlannedRun]:
    """The directory of runs and the run of a task file.

    Raises:
        FileNotFoundError: there is none.
        MistakenError: it holds another run than its name says.
        RunContentError: it holds something else.
    """
    try:
        data = json_of(storage.read_file(path), path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage.unreadable(path, error) from error
    run = read_run(data, path)
    if run.hash != task_run(path):
        raise MistakenError(path, task_run(path), run.hash)
    return Path(data["root"].text()), run


def read_run(data: Content, path: str) -> PlannedRun:
    """A planned run from its plain data.

    Arguments:
        path: the file that holds it, for messages.

    Raises:
        MistakenError: its configuration is that of another run than its hash says.
        RunContentError: it is something else.
    """
    try:
        config = schema.from_mapping(RunConfig, data["config"].mapping())
        request = schema.from_mapping(Request, data["request"].mapping())
    except ConfigError as error:
        raise RunContentError.of_field(path, error) from error
    found, identity = schema.trajectory_hash(config), data["hash"].text()
    if found != identity:
        raise MistakenError(path, identity, found)
    return PlannedRun(
        hash=identity,
        name=directory_name(config.stage, config.variety, identity),
        seed=config.seed,
        parent=config.parent.run,
        point=config,
        request=request,
        analyses=tuple(map(_analysis, data["probes"].entries())),
        starts=tuple(step.whole() for step in data["starts"].entries()),
        encoders={n: modality.encoder_run for n, modality in config.modalities.items() if modality.encoder_run},
    )


def _analysis(found: Content) -> PlannedAnalysis:
    fields = found.entries()
    if len(fields) != len(PlannedAnalysis._fields):
        raise found.fail(f"a list of {', '.join(PlannedAnalysis._fields)}")
    name = fields[0].text()
    if name.partition(".")[0] not in get_args(Analysis):
        raise fields[0].fail(f"an analysis: one of {', '.join(get_args(Analysis))}")
    return PlannedAnalysis(name, *(field.whole() for field in fields[1:]))


class Stoppable:
    """A worker process that SIGTERM stops only while it has a task; SIGINT, from the keyboard, is its engine's."""

    busy = False

    @classmethod
    def take_signals(cls) -> None:
        """Installs the handlers. Training has its own, which saves a checkpoint first."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, cls._terminate)

    @classmethod
    def _terminate(cls, number: int, frame: object) -> None:
        if cls.busy:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _in_hand() -> Iterator[None]:
    Stoppable.busy = True
    try:
        yield
    finally:
        Stoppable.busy = False


def perform(path: str, plugins: Handed = ()) -> str:
    """Does the task of a file.

    Arguments:
        plugins: what `miclab.config.extensions.handed_on` gives in the engine's process. They come with the call and
            not in the file: a file never causes code to be loaded.

    Returns:
        The fields of an `Answer` as JSON; of a group a list of them.
    """
    with _in_hand():
        if is_group(path):
            from miclab.studies.group import perform_group

            return perform_group(path, plugins)
        try:
            taken_up(plugins)
            root, run = read_task(path)
        except FileNotFoundError:
            # An engine found the run done and cleared up before this worker was at it.
            return json.dumps(asdict(Answer(task_run(path), "busy", "its task was withdrawn")))
        except MiclabError as error:
            return json.dumps(asdict(Answer(task_run(path), "failed", str(error))))
        return json.dumps(asdict(perform_run(root, run)))


def perform_run(root: Path, run: PlannedRun) -> Answer:
    """Leases, trains and analyses one run."""
    held = reserve(state.leases_folder(root), run.hash)
    if held is None:
        return Answer(run.hash, "busy", "another process trains it")
    start = time.perf_counter()

    def check() -> None:
        if held.lost:
            raise LostError("another process took the run over")

    steps = 0
    try:
        before = state.look(run, root)
        status, reason, step = _train_and_analyse(root, run, check)
        steps = max(0, step - max(before.step, 0))
        if status != "stopped" and before.status == "failed":
            state.forget_failure(root, run.hash)
    except KeyboardInterrupt:
        status, reason = "stopped", "stopped by a signal"
    except (BusyError, LostError) as error:
        status, reason = "busy", str(error)
    except Exception as error:
        status, reason = "failed", reason_of(error)
        state.mark_failure(root, run, reason, traceback.format_exc())
    finally:
        held.release()
    return Answer(run.hash, status, reason, steps, time.perf_counter() - start)


def reason_of(error: Exception) -> str:
    return str(error) if isinstance(error, MiclabError) else f"{type(error).__name__}: {error}"


def _train_and_analyse(root: Path, run: PlannedRun, check: Callable[[], None]) -> tuple[Ending, str, int]:
    from miclab.training.loop import prepared

    if (elsewhere := trained_elsewhere(root, run)) is not None:
        return analysed(root, run, *elsewhere, check)
    ready = prepared(run.config, root, run.request.steps)
    outcome = ready.train(run.request, lambda progress: check())
    return analysed(root, run, ready.run.path, outcome, check)


def trained_elsewhere(root: Path, run: PlannedRun) -> tuple[Path, Outcome] | None:
    """The directory of a run that was trained to its end on a device that is not here, and how that ended. Such a run
    can be analysed but not be opened for training."""
    from miclab.training.numerics import is_here
    from miclab.training.trajectory import Outcome

    disk = None if is_here(run.point.numerics.device) else glance(root, run.name, run.point)
    if disk is None or disk.hash != run.hash or disk.status != "finished" or not state.is_trained(run, disk):
        return None
    return disk.path, Outcome("finished", disk.step, disk.reason)


def analysed(
    root: Path, run: PlannedRun, path: Path, outcome: Outcome, check: Callable[[], None]
) -> tuple[Ending, str, int]:
    """How a task ends whose training has ended: analyses that are missing are made."""
    if outcome.status == "diverged":
        return "failed", f"diverged: {outcome.reason}", outcome.step
    if outcome.status == "stopped":
        return "stopped", outcome.reason, outcome.step
    disk = open_run(path)
    if state.missing_checkpoints(run, disk):
        _remake_checkpoints(root, run, disk, check)
    if state.missing_analyses(run, disk):
        from miclab.studies.analyses import store_missing

        store_missing(run, disk)
    return "done", outcome.reason, outcome.step


def _remake_checkpoints(root: Path, run: PlannedRun, disk: Run, check: Callable[[], None]) -> None:
    """Trains a run again, beside it, up to checkpoints that are needed and that an earlier request did not keep.
    They have the same bits, so nothing of the run is touched."""
    from miclab.training.lineage import Lineage
    from miclab.training.loop import prepared

    missing = state.missing_checkpoints(run, disk)
    former = schema.from_mapping(Request, disk.request)
    request = replace(former, steps=missing[-1], checkpoint_at=tuple(missing), plateau_rows=0, enough=0.0)
    beside = root / state.FOLDER / "again" / run.hash
    # The runs before it lie under `root`, and not beside what is made here.
    ready = prepared(run.config, beside, request.steps, Lineage.resolve(run.config, root))
    outcome = ready.train(request, lambda progress: check())
    if outcome.status == "stopped":
        raise KeyboardInterrupt
    again = open_run(ready.run.path)
    for step in missing:
        disk.adopt(again, step)
    shutil.rmtree(beside, ignore_errors=True)


def environment() -> dict[str, str]:
    """Variables for a worker process of one thread."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
    return {name: os.environ.get(name, "1") for name in names}


def answers(text: str) -> list[Answer]:
    """The answers of a worker: one, or those of the runs of a group."""
    data: dict[str, Any] | list[dict[str, Any]] = json.loads(text)
    return [Answer(**one) for one in (data if isinstance(data, list) else [data])]
