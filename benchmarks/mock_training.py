"""A plugin that takes the place of training: milliseconds a run, and the same files as real training writes.

`miclab study run FILE --plugin benchmarks/mock_training.py` then shows what the engine costs by itself. Every training
is noted as a line in the file that the variable MICLAB_MOCK_LOG names: the run's hash, the time, the process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.runs.find import create, open_run
from miclab.runs.run import Run
from miclab.training import loop

LOG = "MICLAB_MOCK_LOG"
SPLITS = ("icl", "swapped", "iwl", "train")
MEASURES = ("induction", "previous_token", "target", "context_labels", "same_class", "entropy")


def row(config: RunConfig, step: int) -> dict[str, Any]:
    """A metric row of the shape that training writes."""
    accuracies = dict.fromkeys(SPLITS, 0.5)
    heads = [[0.25] * config.decoder.heads for _ in range(config.decoder.layers)]
    return {"step": step, "loss": 1.0, "accuracy": accuracies, "context_label_accuracy": accuracies,
            "icl_sets": [0.5] * 8, "measures": dict.fromkeys(MEASURES, heads)}  # fmt: skip


class Mock:
    """What stands in for a prepared run."""

    def __init__(self, run: Run):
        self.run = run

    def train(self, request: Request, on_progress: Callable[[Any], None] | None = None) -> loop.Outcome:
        """Two checkpoints and two rows, unless the run has them."""
        run = self.run
        with run.locked():
            if run.step >= request.steps:
                return loop.Outcome("finished", run.step, "all steps done")
            note(run.hash)
            run.note("running", "mock", request=asdict(request))
            for step in (0, request.steps):
                tensors = {"weight": torch.zeros(4)}
                timing = {"seconds": 0.0, "time": "2026-01-01T00:00:00+00:00"}
                run.save_checkpoint(step, tensors, tensors, [row(run.config, step)], timing, {step})
            run.note("finished", "all steps done")
        return loop.Outcome("finished", request.steps, "all steps done")


def note(identity: str) -> None:
    """Writes a line to the log, in one call, so that lines of many processes do not mix."""
    if name := os.environ.get(LOG):
        handle = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, f"{identity} {time.time():.6f} {os.getpid()}\n".encode())
        finally:
            os.close(handle)


def prepared(config: RunConfig, root: Path | str = "runs", *rest: Any) -> Mock:
    """As `miclab.training.loop.prepared`, with a world of one number."""
    path = create(root, config, {"world": torch.zeros(1)}).path
    return Mock(open_run(path))


loop.prepared = prepared  # type: ignore[assignment]
