"""The training loop. Stages 1 to 3, early fusion and encoders are configurations of it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

import torch

from miclab.config import memory, schema
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, RunError
from miclab.runs.find import create, find
from miclab.runs.run import Run
from miclab.training import numerics
from miclab.training.lane_rows import LaneRows
from miclab.training.lanes import Lanes, check_group
from miclab.training.lineage import Lineage
from miclab.training.objective import Objective
from miclab.training.signals import Signals
from miclab.training.step import training_step
from miclab.training.trajectory import Outcome, Progress, Trajectory
from miclab.worlds.world import draw_world, novel_world, world_from_tensors


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
    if config.parent.imported:
        raise ConfigError("parent.imported", config.parent.imported, "empty where a run is trained")
    lineage = lineage or Lineage.resolve(config, root)
    memory.check_training(lineage.config)
    config, line = numerics.resolved(lineage.config, steps)
    _check_lanes(config)
    # Errors that only the model can find are raised before a directory is made.
    Objective(config)
    world = draw_world(config, lineage.kept_tensors())
    has_source = any(modality.source for modality in config.modalities.values())
    if (has_source or config.sequence.pairing == "class") and not config.is_classification:
        # Real data may hold out too few classes, or novel classes lack partners. This error, too, is raised before a
        # directory is made.
        novel_world(config, world, "evaluation", 0)
    return Prepared(create(root, config, world.tensors()), line, lineage)


def _check_same_bits(run: Run) -> None:
    """Raises RunError if this process would compute other bits than the one that began the run."""
    if run.config.parent.imported:
        how = "its optimiser and its sequences are not known. `miclab train multimodal --stage-one` can start from it"
        raise RunError(f"{run.path} was imported and cannot be trained further: {how}.")
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


@contextlib.contextmanager
def opened(
    run: Run,
    request: Request,
    signals: Signals,
    on_progress: Callable[[Progress], None] | None = None,
    lineage: Lineage | None = None,
) -> Iterator[Trajectory | Outcome]:
    """A run under its lock, ready for the first step, or how its training ended if nothing is left to be done. What
    ends it is noted in the run. The arguments and errors are those of `train`."""
    config = run.config
    memory.check_training(config)
    memory.check_evaluation(config, request.sequences, request.novel_sets)
    with run.locked():
        if run.status == "diverged":
            yield Outcome("diverged", run.step, run.reason)
            return
        _check_same_bits(run)
        numerics.resolved(config)
        numerics.prepare(config)
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
            yield Outcome("finished", step, reason)
            return
        environment = numerics.environment(config)
        run.note("running", f"training from step {max(step, 0)}", request=asdict(request), environment=environment)
        if found is None:
            lineage = lineage or Lineage.resolve(config, run.path.parent)
            parameters, state = lineage.first_parameters(), None
        else:
            parameters, state = found[1], found[2]
        try:
            yield Trajectory(run, request, world, parameters, state, step, kept, signals, on_progress)
        except Exception as error:
            with contextlib.suppress(RunError):
                run.note("stopped", f"stopped by an error: {error}")
            raise


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
    return train_together([Prepared(run, lineage=lineage)], [request], [on_progress])[0]


def train_together(
    prepared: Sequence[Prepared],
    requests: Sequence[Request],
    on_progress: Sequence[Callable[[Progress], None] | None] = (),
) -> list[Outcome]:
    """Trains runs of mode `lanes` as one group (see `miclab.training.lanes`), each to its own end; or one run of any
    mode. A lane that diverges is marked, and the others go on. A signal stops them all.

    Arguments:
        requests: of each run.
        on_progress: of each run; called after each of its steps.

    Raises:
        RunError: as `train`, or the runs cannot be lanes of one group.
        ConfigError, TooLargeError: as `train`.
    """
    check_group([one.run.config for one in prepared])
    _check_lanes(prepared[0].run.config)
    with contextlib.ExitStack() as stack:
        signals, found = stack.enter_context(Signals()), list[Trajectory | Outcome]()
        for one, request, hear in zip_longest(prepared, requests, on_progress):
            found.append(stack.enter_context(opened(one.run, request, signals, hear, one.lineage)))
        going = [one for one in found if isinstance(one, Trajectory)]
        if going and going[0].config.numerics.mode == "lanes":
            _drive(going)
        elif going:
            going[0].start()
            step = training_step(going[0].config, going[0].trained, going[0].optimiser)
            while (update := going[0].update) is not None:
                going[0].take(step(update.own_raw, update.rate, update.finished))
        return [one if isinstance(one, Outcome) else one.ended for one in found]


def _check_lanes(config: RunConfig) -> None:
    """Makes sure that the group of a run in mode `lanes` fits into its device. Raises TooLargeError."""
    if config.numerics.mode == "lanes":
        memory.check_lanes(config, numerics.memory_of(config.numerics.device))


def _drive(runs: Sequence[Trajectory]) -> None:
    """Trains runs as the lanes of one group."""
    configs, trained, states = ([getattr(run, part) for run in runs] for part in ("config", "trained", "optimiser"))
    width, device = configs[0].numerics.lanes, configs[0].numerics.device

    def note(text: str, name: str, value: object) -> None:
        for run in runs:
            if run.outcome is None:
                run.run.note("running", text, environment={**run.run.environment, name: value})

    def halved(at_once: int) -> None:
        text = f"{device} ran out of memory: of {width} lanes, {at_once} are computed at once from here on"
        note(text, "lanes at once", at_once)
        warnings.warn(f"{text}. Last bits may differ from those of a group that fits.", stacklevel=2)

    def eager(why: str) -> None:
        text = f"the step of {width} lanes could not be compiled on {device} and is eager from here on ({why})"
        note(text, "lane step", "eager")
        warnings.warn(f"{text}. Last bits may differ from those of a compiled group.", stacklevel=2)

    def separate(text: str) -> None:
        note(text, "metric rows", text)
        warnings.warn(f"{text}. Last bits may differ from those of rows computed together.", stacklevel=2)

    try:
        worlds = [run.world for run in runs]
        lanes = Lanes(configs, trained, states, worlds=worlds, on_halved=halved, on_eager=eager)
        rows = None
        # On a CPU each run measures itself: its rows keep the bits of those that it has.
        if lanes.together:
            rows = LaneRows(configs, worlds, [run.request.sizes for run in runs], lanes.flat.device, separate)

        def measure(due: Sequence[int]) -> None:
            for lane, row in (rows.rows(lanes.parameters, due) if rows and due else {}).items():
                runs[lane].measured = row

        measure([lane for lane, run in enumerate(runs) if run.fresh])
        for run in runs:
            run.draws = lanes.sampler is None
            run.start()
        while updates := {lane: run.update for lane, run in enumerate(runs) if run.update is not None}:
            found = lanes.step(updates)
            measure([lane for lane, losses in found.items() if runs[lane].needs_row(losses)])
            for lane, losses in found.items():
                runs[lane].take(losses)
    except torch.OutOfMemoryError as error:
        raise memory.TooLargeError(
            f"{device} ran out of memory with {width} lanes, also with one at a time. Every run keeps its last"
            " checkpoint. Lower numerics.lanes (or --lanes), or free the device of other programs."
        ) from error


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
