"""The training loop. Stages 1 to 3, early fusion and encoders are configurations of it."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from miclab.config import memory, schema
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.errors import RunError
from miclab.measures.encoder import classifier_row
from miclab.measures.evaluate import metric_row
from miclab.runs import interrupts
from miclab.runs.find import create, find
from miclab.runs.run import Run
from miclab.training import numerics, optimiser
from miclab.training.flat_parameters import TrainedParameters
from miclab.training.lineage import Lineage
from miclab.training.objective import Objective
from miclab.training.step import training_step
from miclab.worlds.sequences import raw_training_batches
from miclab.worlds.world import World, draw_world, novel_world, world_from_tensors


@dataclass(frozen=True)
class Progress:
    """What a training process reports while it runs.

    Arguments:
        step: finished steps.
        steps: steps that were requested.
        row: the metric row just written, or None.
    """

    step: int
    steps: int
    row: dict | None = None

    @property
    def text(self) -> str:
        """Accuracies of the row, in a few characters; empty without a row."""
        return row_text(self.row) if self.row else ""


def row_text(row: dict) -> str:
    """Accuracies of a metric row, in a few characters."""
    return " ".join(f"{name} {value:.2f}" for name, value in row["accuracy"].items())


@dataclass(frozen=True)
class Outcome:
    """How training ended: `finished`, `stopped` (by a signal) or `diverged`, at which step, and why."""

    status: str
    step: int
    reason: str


class _Signals:
    """Turns SIGINT and SIGTERM into a request to stop after the current step.

    A signal that comes too late to stop this run is passed on at the end, since another run may follow.
    """

    def __enter__(self) -> _Signals:
        # A signal that was swallowed before training began counts too.
        self.received = "SIGINT" if interrupts.claim() else ""
        self.heeded = False
        self._old = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._take)
        return self

    def _take(self, number: int, frame: object) -> None:
        self.received = signal.Signals(number).name

    def __exit__(self, *details: object) -> None:
        for number, handler in self._old.items():
            # None: the handler was not set by Python, and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self.received and not self.heeded:
            os.kill(os.getpid(), signal.Signals[self.received])


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to be trained.

    Arguments:
        run: its directory, made if it is new.
        line: a remark on its numeric mode, or empty.
        lineage: the runs before it; None: those beside it, opened where they are needed.
    """

    run: Run
    line: str = ""
    lineage: Lineage | None = None

    def train(self, request: Request, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        """Trains it (see `train`)."""
        return train(self.run, request, on_progress, self.lineage)


def prepared(
    config: RunConfig, root: Path | str = "runs", steps: int = numerics.PAYS_FROM, lineage: Lineage | None = None
) -> Prepared:
    """The run of a configuration, ready to be trained.

    Arguments:
        root: directory of runs, where the run's own is made if it is new.
        steps: how long it will be trained, which decides whether numeric mode `auto` compiles.
        lineage: the earlier runs; None: they are sought under `root`.

    Raises:
        RunError: a run before this one is missing, is not finished at the step named, or does not fit.
        ConfigError: the configuration cannot work on this machine or with its data.
        TooLargeError: it needs more memory than the machine has.
    """
    lineage = lineage or Lineage.resolve(config, root)
    memory.check_training(lineage.config)
    config, line = numerics.resolved(lineage.config, steps)
    # Errors that only the model can find are raised before a directory is made.
    Objective(config)
    world = draw_world(config, lineage.kept_tensors())
    if any(modality.source for modality in config.modalities.values()) and not config.is_classification:
        # Real data may hold out too few classes. This error, too, is raised before a directory is made.
        novel_world(config, world, "evaluation", 0)
    return Prepared(create(root, config, world.tensors()), line, lineage)


def _all_finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in tensors.values())


def _check_same_bits(run: Run) -> None:
    """Raises RunError if this process would compute other bits than the one that began the run."""
    before, now = run.environment, numerics.environment(run.config)
    changed = [k for k in ("mode", "threads", "device", "torch") if before and before[k] != now[k]]
    if changed:
        differences = ", ".join(f"{k} {before[k]} (now {now[k]})" for k in changed)
        raise RunError(f"{run.path} was trained with {differences}; resuming would not give the same bits.")
    if schema.trajectory_hash(run.config) != run.hash:
        raise RunError(f"{run.path} was begun by a version of miclab in which its configuration meant another result.")
    if before and before["processor"] != now["processor"]:
        run.warnings.append(
            f"{run.path} was begun with {before['processor']} instructions, and this processor has {now['processor']}:"
            " the last bits may differ from those of a run that was never interrupted."
        )


def train(
    run: Run,
    request: Request,
    on_progress: Callable[[Progress], None] | None = None,
    lineage: Lineage | None = None,
) -> Outcome:
    """Trains a run until `request.steps`, from its last good checkpoint.

    If the run already has `request.steps`, nothing is trained and the outcome is `finished`. The run's own status does
    not change. A run that is killed and resumed, at any instant, ends with the same bits in weights and rows.

    Arguments:
        on_progress: called after every step.
        lineage: the runs before it; None: those beside the run.

    Raises:
        RunError: another process trains it, it was begun in another numeric mode, or it cannot be written.
        ConfigError: its numeric mode or device is not available on this machine.
        TooLargeError: it needs more memory than the machine has.
    """
    config = run.config
    memory.check_training(config)
    memory.check_evaluation(config, request.sequences, request.novel_sets)
    with run.locked(), _Signals() as signals:
        if run.status == "diverged":
            return Outcome("diverged", run.step, run.reason)
        _check_same_bits(run)
        numerics.resolved(config)
        torch.set_num_threads(config.numerics.threads)
        numerics.keep_freed_memory()
        world = world_from_tensors(config, run.world_tensors())
        # Kept permanently: the checkpoints of the previous request, and all that are older than the last two.
        former = schema.from_mapping(Request, run.request) if run.request else request
        kept = {step for step in run.checkpoints if step in run.checkpoints[:-2] or former.keeps(step)}
        found = run.resume_state(kept.__contains__)
        step = -1 if found is None else found[0]
        run.rewind(step)
        plateau = request.plateau(run.rows())
        if found is not None and (plateau or step >= request.steps):
            reason = plateau or "all steps done"
            # A run that was stopped before its requested steps does not become finished by a request for fewer.
            if run.status != "finished" and (plateau or step >= former.steps):
                run.note("finished", reason)
            return Outcome("finished", step, reason)
        environment = numerics.environment(config)
        run.note("running", f"training from step {max(step, 0)}", request=asdict(request), environment=environment)
        if found is None:
            lineage = lineage or Lineage.resolve(config, run.path.parent)
            parameters, state = lineage.first_parameters(), None
        else:
            parameters, state = found[1], found[2]
        loop = _Loop(run, request, world, parameters, state, max(step, 0), kept, on_progress)
        try:
            outcome = loop.go(signals, fresh=found is None)
            run.note(outcome.status, outcome.reason)
        except Exception as error:
            with contextlib.suppress(RunError):
                run.note("stopped", f"stopped by an error: {error}")
            raise
        return outcome


class _Loop:
    """The state of a training process between two checkpoints."""

    def __init__(
        self,
        run: Run,
        request: Request,
        world: World,
        parameters: dict[str, Tensor],
        state: dict[str, Tensor] | None,
        step: int,
        kept: set[int],
        on_progress: Callable[[Progress], None] | None,
    ):
        self.run, self.request, self.world, self.step = run, request, world, step
        self.config = run.config
        self.kept = kept
        # Rows that a run of any length has. The mean of losses starts again at each.
        self.endless = replace(request, steps=2**62)
        self.on_progress = on_progress or (lambda progress: None)
        self.trained = TrainedParameters(self.config, parameters)
        self.parameters = self.trained.named
        self.rows_before = run.rows()
        # The sum of losses since the last row travels with the optimiser's state: a checkpoint may fall between rows.
        self.totals = {}
        for name in Objective(self.config).names:
            self.totals |= {f"{name}.sum": torch.zeros((), dtype=torch.double), f"{name}.count": torch.zeros(())}
        if state is None:
            self.optimiser = optimiser.initial_state(self.config.optimiser, {"trained": self.trained.flat})
        else:
            self.totals = {name: state.pop(name) for name in self.totals}
            self.optimiser = state
        self.rows: list[dict] = []
        self.saved = step
        self.since = time.perf_counter()

    def go(self, signals: _Signals, fresh: bool) -> Outcome:
        """Steps, rows and checkpoints until the end."""
        step = training_step(self.config, self.trained, self.optimiser)
        if fresh:
            self._row()
            self._checkpoint()
        for raw in raw_training_batches(self.config, self.world, self.step, self.request.steps):
            rate = optimiser.learning_rate(self.config.optimiser, self.step)
            losses = step(raw, rate, self.step)
            value = float(losses["loss"])
            if not math.isfinite(value):
                return self._diverged(f"the loss was {value} at step {self.step + 1}")
            for name, loss in losses.items():
                self.totals[f"{name}.sum"] += float(loss)
                self.totals[f"{name}.count"] += 1
            self.step += 1
            row = None
            evaluates = self.request.evaluates(self.step)
            if evaluates or self.request.keeps(self.step):
                if not _all_finite(self.parameters):
                    return self._diverged(f"a weight was not finite at step {self.step}")
                row = self._row() if evaluates else None
                self._checkpoint()
                reason = self.request.plateau(self.rows_before) if evaluates else ""
                if reason:
                    self.on_progress(Progress(self.step, self.request.steps, row))
                    return Outcome("finished", self.step, reason)
            self.on_progress(Progress(self.step, self.request.steps, row))
            if signals.received and self.step < self.request.steps:
                signals.heeded = True
                if self.step != self.saved and _all_finite(self.parameters):
                    self._checkpoint()
                return Outcome("stopped", self.saved, f"stopped by {signals.received}")
        return Outcome("finished", self.step, "all steps done")

    def _diverged(self, what: str) -> Outcome:
        return Outcome("diverged", self.saved, f"{what}; the last good checkpoint is step {self.saved}")

    def _row(self) -> dict:
        row: dict[str, Any] = {"step": self.step}
        for name in (key.removesuffix(".count") for key in self.totals if key.endswith(".count")):
            count = float(self.totals[f"{name}.count"])
            row[name] = float(self.totals[f"{name}.sum"]) / count if count else None
        measure = classifier_row if self.config.is_classification else metric_row
        row |= measure(self.config, self.world, self.parameters, self.request.sizes)
        if self.endless.evaluates(self.step):
            self.totals = {name: torch.zeros_like(value) for name, value in self.totals.items()}
        self.rows.append(row)
        self.rows_before.append(row)
        return row

    def _checkpoint(self) -> None:
        now = time.perf_counter()
        timing = {
            "seconds": round(now - self.since, 3),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        keep = {step for step in self.run.checkpoints if step in self.kept or self.request.keeps(step)}
        state = {**self.optimiser, **self.totals}
        self.run.save_checkpoint(self.step, self.parameters, state, self.rows, timing, keep)
        self.rows, self.saved, self.since = [], self.step, now


def train_config(
    config: RunConfig,
    request: Request,
    root: Path | str = "runs",
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[Run, Outcome]:
    """`prepared`, then `train`; returns the run on disk."""
    ready = prepared(config, root, request.steps)
    outcome = ready.train(request, on_progress)
    return find(str(ready.run.path)), outcome
