"""The training loop, and nothing else. Stage 1, stage 2 and early fusion are configurations of it."""

from __future__ import annotations

import datetime
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from miclab import numerics, optimiser
from miclab.config import RunConfig
from miclab.decoder import Decoder
from miclab.errors import RunError
from miclab.evaluate import metric_row
from miclab.request import Request
from miclab.runs import Run, create, find
from miclab.sequences import Batch, training_batch
from miclab.world import World, draw_world, world_from_tensors

Gradients = Callable[[Mapping[str, Tensor], Batch], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Progress:
    """What a training process tells while it runs.

    Arguments:
        step: finished steps.
        steps: steps that were asked for.
        row: the metric row just written, or None.
    """

    step: int
    steps: int
    row: dict | None = None


@dataclass(frozen=True)
class Outcome:
    """How training ended: `finished`, `stopped` (by a signal) or `diverged`, at which step, and why."""

    status: str
    step: int
    reason: str


def trained_names(config: RunConfig, names: list[str]) -> list[str]:
    """The parameters that no part in `config.frozen` covers."""
    return [n for n in names if not any(n == part or n.startswith(f"{part}.") for part in config.frozen)]


def gradient_function(config: RunConfig) -> Gradients:
    """Loss and gradients of the trained parameters, compiled if `config.numerics.mode` says so."""
    decoder = Decoder(config)
    names = trained_names(config, list(decoder.shapes()))

    def loss_and_gradients(
        parameters: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        fixed = {name: value for name, value in parameters.items() if name not in names}

        def loss_of(trained: dict[str, Tensor]) -> Tensor:
            return decoder.loss({**fixed, **trained}, batch)

        gradients, loss = torch.func.grad_and_value(loss_of)({name: parameters[name] for name in names})
        return loss, gradients

    if config.numerics.mode == "compiled":
        # Shapes and types never change within a run, so the checks before every call can go.
        options: dict = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
        return torch.compile(loss_and_gradients, dynamic=False, fullgraph=True, options=options)
    return loss_and_gradients


class _Signals:
    """Turns SIGINT and SIGTERM into a request to stop after the step in hand."""

    def __enter__(self) -> _Signals:
        self.received = ""
        self._old = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._take)
        return self

    def _take(self, number: int, frame: object) -> None:
        self.received = signal.Signals(number).name

    def __exit__(self, *details: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def prepare(config: RunConfig, root: Path | str = "runs") -> tuple[Run, str]:
    """The run directory of a configuration, made if it is new, and a line about its numeric mode (or empty).

    Raises:
        RunError: the parent run is missing, is not finished at the step named, or its decoder is another one.
    """
    config, line = numerics.resolved(config)
    kept = None
    if config.parent.run:
        parent = find(config.parent.run, root)
        if config.parent.step not in parent.checkpoints:
            raise RunError(
                f"The parent {parent.path} has no checkpoint at step {config.parent.step}; it has {parent.checkpoints}."
            )
        if parent.config.decoder != config.decoder or parent.config.label_count != config.label_count:
            raise RunError(f"The parent {parent.path} has another decoder or another number of labels.")
        kept = parent.world_tensors()
    return create(root, config, draw_world(config, kept).tensors()), line


def _first_parameters(run: Run) -> dict[str, Tensor]:
    """Parameters before the first step: fresh, with the parent's decoder in stage 2."""
    parameters = Decoder(run.config).initial_parameters(run.config.seed)
    if run.config.parent.run:
        _, inherited = find(run.config.parent.run, run.path.parent).parameters(run.config.parent.step)
        parameters |= {name: value for name, value in inherited.items() if name in parameters}
    return parameters


def _all_finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in tensors.values())


def train(run: Run, request: Request, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
    """Trains a run until `request.steps`, from its last good checkpoint.

    A run that already has so many steps is left as it is. The same run killed and resumed, at whatever instant, ends
    with the same bits in weights and rows.

    Arguments:
        on_progress: called after every step.

    Raises:
        RunError: another process trains it, it was begun in another numeric mode, or it cannot be written.
    """
    config = run.config
    with run.locked(), _Signals() as signals:
        if run.status == "diverged":
            return Outcome("diverged", run.step, run.reason)
        environment = numerics.environment(config)
        before = run.environment
        changed = [
            k for k in ("mode", "threads", "device", "torch") if before and before[k] != environment[k]
        ]
        if changed:
            told = ", ".join(f"{k} {before[k]} (now {environment[k]})" for k in changed)
            raise RunError(f"{run.path} was trained with {told}; resuming would not give the same bits.")
        torch.set_num_threads(config.numerics.threads)
        numerics.keep_freed_memory()
        world = world_from_tensors(config, run.world_tensors())
        found = run.resume_state()
        step = -1 if found is None else found[0]
        run.rewind(step)
        if found is not None and (
            step >= request.steps or run.status == "finished" and request.plateau(run.rows())
        ):
            run.note("finished", run.reason or "all steps done")
            return Outcome("finished", step, run.reason)
        run.note(
            "running", f"training from step {max(step, 0)}", request=asdict(request), environment=environment
        )
        if found is None:
            parameters, state = _first_parameters(run), None
        else:
            parameters, state = found[1], found[2]
        loop = _Loop(run, request, world, parameters, state, max(step, 0), on_progress)
        outcome = loop.go(signals, fresh=found is None)
        run.note(outcome.status, outcome.reason)
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
        on_progress: Callable[[Progress], None] | None,
    ):
        self.run, self.request, self.world, self.step = run, request, world, step
        self.config = run.config
        self.tell = on_progress or (lambda progress: None)
        names = trained_names(self.config, list(parameters))
        self.parameters = parameters
        self.rows_before = run.rows()
        # The sum of losses since the last row travels with the optimiser's state: a checkpoint may fall between rows.
        self.totals = {"loss.sum": torch.zeros((), dtype=torch.double), "loss.count": torch.zeros(())}
        if state is None:
            self.optimiser = optimiser.initial_state(self.config.optimiser, {n: parameters[n] for n in names})
        else:
            self.totals = {name: state.pop(name) for name in self.totals}
            self.optimiser = state
        self.rows: list[dict] = []
        self.saved = step
        self.since = time.perf_counter()

    def go(self, signals: _Signals, fresh: bool) -> Outcome:
        """Steps, rows and checkpoints until the end."""
        gradients = gradient_function(self.config)
        if fresh:
            self._row()
            self._checkpoint()
        while self.step < self.request.steps:
            batch = training_batch(self.config, self.world, self.step)
            loss, slopes = gradients(self.parameters, batch)
            value = float(loss)
            if not math.isfinite(value):
                return self._diverged(f"the loss was {value} at step {self.step + 1}")
            rate = optimiser.learning_rate(self.config.optimiser, self.step)
            optimiser.update(self.config.optimiser, self.parameters, slopes, self.optimiser, rate)
            self.totals["loss.sum"] += value
            self.totals["loss.count"] += 1
            self.step += 1
            row = None
            if self.request.evaluates(self.step):
                if not _all_finite(self.parameters):
                    return self._diverged(f"a weight was not finite at step {self.step}")
                row = self._row()
                self._checkpoint()
                reason = self.request.plateau(self.rows_before)
                if reason:
                    self.tell(Progress(self.step, self.request.steps, row))
                    return Outcome("finished", self.step, reason)
            self.tell(Progress(self.step, self.request.steps, row))
            if signals.received and self.step < self.request.steps:
                if self.step != self.saved and _all_finite(self.parameters):
                    self._checkpoint()
                return Outcome("stopped", self.saved, f"stopped by {signals.received}")
        return Outcome("finished", self.step, "all steps done")

    def _diverged(self, what: str) -> Outcome:
        return Outcome("diverged", self.step, f"{what}; the last good checkpoint is step {self.saved}")

    def _row(self) -> dict:
        count = float(self.totals["loss.count"])
        row = {"step": self.step, "loss": float(self.totals["loss.sum"]) / count if count else None}
        row |= metric_row(self.config, self.world, self.parameters, self.request.sizes)
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
        keep = {step for step in self.run.checkpoints if self.request.keeps(step)}
        state = {**self.optimiser, **self.totals}
        self.run.save_checkpoint(self.step, self.parameters, state, self.rows, timing, keep)
        self.rows, self.saved, self.since = [], self.step, now


def train_config(
    config: RunConfig,
    request: Request,
    root: Path | str = "runs",
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[Run, Outcome]:
    """`prepare`, then `train`; returns the run as it lies on disk."""
    run, _ = prepare(config, root)
    outcome = train(run, request, on_progress)
    return find(str(run.path)), outcome
