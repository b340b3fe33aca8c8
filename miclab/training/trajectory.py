"""The training of one run from a checkpoint on: steps, rows and checkpoints, whoever makes the steps."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from miclab.config.request import Request
from miclab.measures.encoder import classifier_row
from miclab.measures.evaluate import metric_row
from miclab.runs.run import Run
from miclab.training import optimiser
from miclab.training.flat_parameters import TrainedParameters
from miclab.training.lanes import Update
from miclab.training.objective import Losses, Objective
from miclab.training.signals import Signals
from miclab.worlds.sequences import raw_training_batches
from miclab.worlds.world import World


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


def _all_finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in tensors.values())


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors where they can be written and measured; those of a CPU are not copied."""
    return {name: value.cpu() for name, value in tensors.items()}


class Trajectory:
    """The training of one run between its first step and its last. Whoever makes the steps reads `update` and gives the
    losses to `take`, until `update` is None. It calls `start` before.

    Arguments:
        step: that of the checkpoint that `parameters` and `state` are of; -1: it is a fresh run.
        kept: checkpoints that are kept for good.
        signals: what may stop it.

    Attributes:
        update: what the next step needs; None: the training has ended.
        draws: whether updates hold batches; if not, whoever makes the steps draws them.
        fresh: whether it has a metric row before its first step.
        measured: the numbers of the next metric row, if they were computed elsewhere.
        outcome: how it ended.
        trained, optimiser: weights and the optimiser's state, which the step changes in place.
    """

    def __init__(
        self,
        run: Run,
        request: Request,
        world: World,
        parameters: dict[str, Tensor],
        state: dict[str, Tensor] | None,
        step: int,
        kept: set[int],
        signals: Signals,
        on_progress: Callable[[Progress], None] | None,
    ):
        self.run, self.request, self.world, self.step = run, request, world, max(step, 0)
        self.config, self.signals = run.config, signals
        self.kept = kept
        # Rows that a run of any length has. The mean of losses starts again at each.
        self.endless = replace(request, steps=2**62)
        self.on_progress = on_progress or (lambda progress: None)
        self.device = self.config.numerics.device
        self.trained = TrainedParameters(self.config, {name: part.to(self.device) for name, part in parameters.items()})
        self.rows_before = run.rows()
        # The sum of losses since the last row travels with the optimiser's state: a checkpoint may fall between rows.
        self.totals = {}
        for name in Objective(self.config).names:
            self.totals |= {f"{name}.sum": torch.zeros((), dtype=torch.double), f"{name}.count": torch.zeros(())}
        if state is None:
            self.optimiser = optimiser.initial_state(self.config.optimiser, {"trained": self.trained.flat})
        else:
            self.totals = {name: state.pop(name) for name in self.totals}
            # The number of updates is read in every step: it stays on the CPU.
            self.optimiser = {n: v if n.startswith("step.") else v.to(self.device) for n, v in state.items()}
        self.rows: list[dict] = []
        self.saved = self.step
        self.since = time.perf_counter()
        self.draws = True
        self.update: Update | None = None
        self.outcome: Outcome | None = None
        self.fresh = step < 0
        self.measured: dict[str, Any] | None = None
        self._course = self._updates()

    def start(self) -> None:
        """Goes to the first `update`; a fresh run has a metric row and a checkpoint before."""
        self.update = next(self._course)

    def needs_row(self, losses: Losses) -> bool:
        """Whether `take` will write a metric row, for a step with these losses that has been made."""
        if not self.request.evaluates(self.step + 1) or not math.isfinite(float(losses["loss"])):
            return False
        return _all_finite(self.trained.named)

    @property
    def ended(self) -> Outcome:
        """How it ended. Raises RuntimeError if it goes on."""
        if self.outcome is None:
            raise RuntimeError(f"{self.run.path} is still being trained.")
        return self.outcome

    def take(self, losses: Losses) -> None:
        """Goes on after a step, to the next `update`; the outcome is noted in the run where there is none.

        Arguments:
            losses: those before the step's update.
        """
        try:
            self.update = self._course.send(losses)
        except StopIteration as end:
            self.update, self.outcome = None, end.value
            self.run.note(end.value.status, end.value.reason)

    def _updates(self) -> Generator[Update, Losses, Outcome]:
        """Rows and checkpoints around the steps until the end."""
        if self.fresh:
            self._row()
            self._checkpoint()
        drawn = raw_training_batches(self.config, self.world, self.step, self.request.steps)
        while self.step < self.request.steps:
            raw = next(drawn) if self.draws else None
            if raw is not None and self.device != "cpu":
                raw = raw.to(self.device)
            rate = optimiser.learning_rate(self.config.optimiser, self.step)
            losses = yield Update(raw, rate, self.step)
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
                if not _all_finite(self.trained.named):
                    return self._diverged(f"a weight was not finite at step {self.step}")
                row = self._row() if evaluates else None
                self._checkpoint()
                reason = self.request.plateau(self.rows_before) if evaluates else ""
                if reason:
                    self.on_progress(Progress(self.step, self.request.steps, row))
                    return Outcome("finished", self.step, reason)
            self.on_progress(Progress(self.step, self.request.steps, row))
            if self.signals.received and self.step < self.request.steps:
                self.signals.heeded = True
                if self.step != self.saved and _all_finite(self.trained.named):
                    self._checkpoint()
                return Outcome("stopped", self.saved, f"stopped by {self.signals.received}")
        return Outcome("finished", self.step, "all steps done")

    def _diverged(self, what: str) -> Outcome:
        return Outcome("diverged", self.saved, f"{what}; the last good checkpoint is step {self.saved}")

    def _row(self) -> dict:
        row: dict[str, Any] = {"step": self.step}
        for name in (key.removesuffix(".count") for key in self.totals if key.endswith(".count")):
            count = float(self.totals[f"{name}.count"])
            row[name] = float(self.totals[f"{name}.sum"]) / count if count else None
        row |= self.measured or self._measured()
        self.measured = None
        if self.endless.evaluates(self.step):
            self.totals = {name: torch.zeros_like(value) for name, value in self.totals.items()}
        self.rows.append(row)
        self.rows_before.append(row)
        return row

    def _measured(self) -> dict[str, Any]:
        measure = classifier_row if self.config.is_classification else metric_row
        return measure(self.config, self.world, _on_cpu(self.trained.named), self.request.sizes)

    def _checkpoint(self) -> None:
        now = time.perf_counter()
        timing = {
            "seconds": round(now - self.since, 3),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        keep = {step for step in self.run.checkpoints if step in self.kept or self.request.keeps(step)}
        state = {**_on_cpu(self.optimiser), **self.totals}
        self.run.save_checkpoint(self.step, _on_cpu(self.trained.named), state, self.rows, timing, keep)
        self.rows, self.saved, self.since = [], self.step, now
