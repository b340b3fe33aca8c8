"""The demonstration: train, join a second modality, find the circuit, cut it, and compare each result with the paper.

Two processes of one thread each. The runs are ordinary runs: a second call finds them and trains nothing again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

import numpy as np

from miclab.circuits.effects import effects_table
from miclab.circuits.find import circuit_heads
from miclab.circuits.knockout import Effect, Interventions
from miclab.claims.demonstration import EXPECTATIONS, Judgement
from miclab.claims.tables import verdict_mark
from miclab.config.parts import ModalityConfig
from miclab.config.presets import request, run_config
from miclab.config.request import Request, SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import RunError
from miclab.measures.evaluate import Evaluation, evaluate
from miclab.runs.find import find
from miclab.runs.run import Run
from miclab.statistics.intervals import Interval, clustered_interval
from miclab.tables import Table, Tabled, table
from miclab.training.stages import Training, carry_out, trainings

if TYPE_CHECKING:
    from miclab.training.loop import Prepared

UNIMODAL = ("onehot", "rope", "rope_released")
SIZES = SplitSizes(sequences=250, novel_sets=8)
OnProgress = Callable[[str, int, int, str], None]
"""Called with the name of a training, its steps done (-1: a remark), its steps in all, and a short text."""


@dataclass(frozen=True)
class Scale:
    """How much the demonstration trains."""

    unimodal_steps: int = 1000
    stage_one_steps: int = 3000
    stage_two_steps: int = 1000
    every: int = 250
    """Steps between metric rows."""


@dataclass(frozen=True)
class Demonstration(Tabled):
    """What the demonstration made: its runs, the judgements on the claims, and the effects of interventions."""

    runs: dict[str, Run]
    judgements: list[Judgement]
    effects: list[Effect]
    emergence: dict[str, int | None]
    """Step of the first metric row with ICL of at least 0.9, by run; None: never."""

    def tables(self) -> tuple[Table, ...]:
        """A row for each result beside the paper's, and one for each intervention on the multimodal decoder."""
        title = (
            "quick preset (AdamW, projection after attention), one seed; novel classes, mean of 8 sets [95 % interval]"
        )
        rows = [
            [f"{j.claim.id}  {j.claim.statement}", j.measured, j.paper, j.claim.criterion, verdict_mark(j.verdict),
             j.conclusion]
            for j in self.judgements
        ]  # fmt: skip
        columns = ["result", "measured", "paper", "holds where", "verdict", "what we conclude"]
        effects = effects_table("interventions on the multimodal decoder", self.effects)
        return table(title, columns, rows), effects


def unimodal_config(positions: str) -> RunConfig:
    """K = 4096, B = 4, quick training, with one position code."""
    config = run_config("unimodal", "quick")
    decoder = replace(config.decoder, positions=positions)
    return replace(config, modalities={"m1": ModalityConfig(classes=4096)}, decoder=decoder)


def _request(steps: int, scale: Scale) -> Request:
    return replace(
        request("unimodal", "quick"),
        steps=steps,
        evaluate_every=scale.every,
        checkpoint_every=2 * scale.every,
    )


def _carry_out(plan: Sequence[Training], root: str, queue: Any) -> dict[str, str]:
    """Carries a plan out; the path of each run by its title."""

    @contextlib.contextmanager
    def watch(title: str, ready: Prepared, requested: Request) -> Iterator[Callable[[int, str], None]]:
        run, steps = ready.run, requested.steps
        if ready.line:
            queue.put((title, -1, steps, ready.line))
        if run.config.numerics.mode == "compiled" and run.step < steps:
            queue.put((title, max(run.step, 0), steps, "compiling (tens of seconds)"))
        yield lambda step, text: queue.put((title, step, steps, text))

    done = carry_out(plan, root, watch)
    for one in done:
        if one.outcome.status != "finished":
            ended = f"{one.run.path} ended as {one.outcome.status}: {one.outcome.reason}"
            raise RunError(f"{ended}. Run the command again to go on.")
    return {training.title: str(one.run.path) for training, one in zip(plan, done, strict=True)}


def _train_unimodal(root: str, scale: Scale, queue: Any) -> dict[str, str]:
    requested = _request(scale.unimodal_steps, scale)
    return _carry_out([Training(name, unimodal_config(name), requested) for name in UNIMODAL], root, queue)


def _train_multimodal(root: str, scale: Scale, queue: Any) -> dict[str, str]:
    first, second = (_request(steps, scale) for steps in (scale.stage_one_steps, scale.stage_two_steps))
    return _carry_out(trainings(run_config("multimodal", "quick"), second, "quick", first), root, queue)


def train_all(root: Path | str, scale: Scale, on_progress: OnProgress) -> dict[str, Run]:
    """Trains what is missing, in two processes."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(min(2, os.cpu_count() or 1), context) as executor:
        queue = manager.Queue()
        jobs = [executor.submit(job, str(root), scale, queue) for job in (_train_multimodal, _train_unimodal)]
        while not all(job.done() for job in jobs) or not queue.empty():
            with contextlib.suppress(Empty):
                on_progress(*queue.get(timeout=0.2))
        paths = {name: path for job in jobs for name, path in job.result().items()}
    return {name: find(path) for name, path in paths.items()}


def _difference(one: Evaluation, other: Evaluation) -> Interval:
    """Accuracy on novel classes of one run minus another's, set by set (both see the same sets)."""
    return clustered_interval([one.scores["icl"].correct - other.scores["icl"].correct])


def _induction_entropy(found: Evaluation) -> np.ndarray:
    """Entropy of the induction head, by set of novel classes."""
    measured = found.scores["icl"].strengths
    layer, head = circuit_heads({name: value.mean(0) for name, value in measured.items()}).induction
    return measured["entropy"][:, layer, head]


def emergence(run: Run, level: float = 0.9) -> int | None:
    """Step of the first metric row whose `icl` reaches `level`."""
    return next((row["step"] for row in run.rows() if row["accuracy"]["icl"] >= level), None)


def judge(runs: dict[str, Run]) -> tuple[list[Judgement], list[Effect]]:
    """Measures the runs and judges the claims."""
    found = {name: evaluate(runs[name], splits=("icl",), sizes=SIZES) for name in (*UNIMODAL, "stage 2")}
    work = Interventions(runs["stage 2"], sizes=SIZES)
    knockouts, ablations = work.knockouts(), work.ablations()
    effects = {effect.name: effect for effect in [*knockouts, *ablations]}
    share = effects["previous-token head"].share
    if share is None:
        raise RunError("The multimodal decoder answers nothing right on novel classes: train it for longer.")
    sharpness = _induction_entropy(found["rope"]) - _induction_entropy(found["onehot"])
    measured = {
        "U5a": found["onehot"].scores["icl"].interval(),
        "U5b": _difference(found["onehot"], found["rope"]),
        "U5c": _difference(found["onehot"], found["rope_released"]),
        "U6": clustered_interval([sharpness]),
        "M1": found["stage 2"].scores["icl"].interval(),
        "M7a": share,
        "M7b": effects["induction head"].accuracy,
        "M8a": effects["items of m2 zeroed"].accuracy,
        "M8b": effects["items of m1 zeroed"].accuracy,
        "M8c": effects["items of m1 and labels zeroed"].accuracy,
    }
    return [Judgement(EXPECTATIONS[name], value) for name, value in measured.items()], list(effects.values())


def demonstrate(root: Path | str, scale: Scale, on_progress: OnProgress) -> Demonstration:
    """Trains, measures and judges."""
    runs = train_all(root, scale, on_progress)
    judgements, effects = judge(runs)
    return Demonstration(runs, judgements, effects, {name: emergence(run) for name, run in runs.items()})
