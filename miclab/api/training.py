"""Train a run, or resume one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.api.fields import changed
from miclab.api.run import Run
from miclab.api.runs import opened
from miclab.config import presets, schema
from miclab.config.presets import Profile
from miclab.config.request import Request
from miclab.errors import ConfigError, RunError, nearest
from miclab.runs.label import Label
from miclab.training.stages import (
    AUTO,
    STAGES,
    Done,
    Watch,
    carry_out,
    check_modalities,
    check_same,
    grown_from,
    kind_of,
    train_watched,
    trainings,
    with_encoders,
)

if TYPE_CHECKING:
    from miclab.training.loop import Prepared

OnProgress = Callable[[str, int, int, str], None]
"""Called after every step with the title of the training (`stage 1`), its steps done and its steps in all. The last
argument is a short text of accuracies, empty between metric rows."""


def train(
    stage: str,
    *,
    preset: Profile = "quick",
    steps: int | None = None,
    seed: int | None = None,
    stage_one: str | Path | Run = AUTO,
    stage_one_steps: int | None = None,
    encoder: str = "",
    runs: str | Path = "runs",
    name: str = "",
    tags: Sequence[str] = (),
    on_progress: OnProgress | None = None,
    fields: Mapping[str, Any] | None = None,
    **short: Any,
) -> Run:
    """Trains a run, as `miclab train STAGE` does. A finished run is returned as it is.

        run = miclab.train("unimodal", heads=4, classes=4096)
        run = miclab.train("multimodal", fields={"modalities.m2.classes": 512}, seed=1)

    Arguments:
        stage: `unimodal`, `multimodal` or `encoder`.
        preset: source of the other values: `quick` (minutes) or `paper` (hours).
        steps: training steps in all.
        seed: seed of the run, 0 or more.
        stage_one: the run to start from: a run, its path, name or hash, with `@STEP` for an earlier checkpoint. With
            `unimodal` the new run is a sibling of its stage-2 runs. For `multimodal`, `auto` is the stage-1 run of the
            same decoder, trained first if it does not exist, and `none` is early fusion.
        stage_one_steps: steps of stage 1 where that is `auto`.
        encoder: `[NAME=]RUN[@STEP],...`: runs of `train("encoder")` whose encoders modalities use.
        runs: directory of runs.
        name: of the run in lists and reports. It does not affect training.
        tags: words by which runs are grouped.
        on_progress: called after every step with title, steps done, steps in all, and a short text.
        fields: values by dotted name of the configuration (`decoder.heads`) or the request (`request.evaluate_every`).
        short: values by a field's last name (`heads`), if it is unique, or of a whole part (`decoder={}`).

    Returns:
        The run, trained.

    Raises:
        ConfigError: an unknown stage or field (the message names the nearest), or a value that is not possible.
        RunError: an earlier run is missing or does not fit; or training diverged or was stopped by a signal.
    """
    if stage not in STAGES:
        raise ConfigError("stage", stage, nearest(stage, STAGES))
    if preset not in ("quick", "paper"):
        raise ConfigError("preset", preset, nearest(preset, ("quick", "paper")))
    if isinstance(stage_one, Run):
        stage_one = str(stage_one.path)
    dotted = dict(fields or {})
    dotted |= {} if steps is None else {"request.steps": steps}
    dotted |= {} if seed is None else {"seed": seed}
    before, first, kind = None, None, stage
    if stage == "encoder" and str(stage_one) != AUTO:
        raise ConfigError("stage_one", str(stage_one), "given only with the stages 'unimodal' and 'multimodal'")
    if stage == "encoder":
        config, request = presets.lone_encoder_config(), presets.encoder_request(preset)
    else:
        kind = kind_of(stage, str(stage_one))
        config, request = presets.run_config(kind, preset), presets.request(kind, preset)
        if kind == "multimodal" and str(stage_one) == AUTO:
            first = presets.request("unimodal", preset)
            first = first if stage_one_steps is None else replace(first, steps=stage_one_steps)
        elif kind in ("multimodal", "continued"):
            # Fields may adapt the secondary modality to the parent, so they are read before and after.
            config, _ = changed(config, request, short, dotted)
            config, before = grown_from(config, str(stage_one), runs)
    if stage_one_steps is not None and first is None:
        raise ConfigError("stage_one_steps", stage_one_steps, "given only where stage 1 is trained here")
    if encoder:
        config = with_encoders(config, encoder, runs)
    config, request = changed(config, request, short, dotted)
    if kind != "encoder":
        check_modalities(kind, config)
    if before is not None:
        check_same(config, before)
    label = Label(name, tuple(tags))
    done = carry_out(trainings(config, request, preset, first), runs, _watching(on_progress))
    run = _finished(done[-1])
    if name or tags:
        run.disk.label = label
    return run


def resume(
    run: Run | str | Path,
    steps: int | None = None,
    *,
    runs: str | Path = "runs",
    on_progress: OnProgress | None = None,
) -> Run:
    """Resumes a run from its last checkpoint, as `miclab resume` does. With more steps a finished run is extended.

    Arguments:
        run: the run, its path, name, or the start of a name or hash.
        steps: training steps in all; None: as many as were requested before.
        runs: directory of runs.
        on_progress: as in `train`.

    Raises:
        RunError: there is no such run, it cannot be resumed here, or it diverged or was stopped.
    """
    from miclab.training.loop import Prepared

    disk = opened(run, runs).disk
    if not disk.request and steps is None:
        raise RunError(f"Nothing was requested of {disk.path} yet: say how many steps.")
    request = schema.from_mapping(Request, disk.request) if disk.request else Request()
    if steps is not None:
        request = replace(request, steps=steps, plateau_rows=0, enough=0.0)
    return _finished(train_watched("resume", Prepared(disk), request, _watching(on_progress)))


def _watching(on_progress: OnProgress | None) -> Watch:
    @contextmanager
    def watch(title: str, ready: Prepared, request: Request) -> Iterator[Callable[[int, str], None]]:
        yield lambda step, text: on_progress(title, step, request.steps, text) if on_progress else None

    return watch


def _finished(done: Done) -> Run:
    if done.outcome.status != "finished":
        how = f"{done.run.path} ended as {done.outcome.status} at step {done.outcome.step}: {done.outcome.reason}"
        remedy = " Go on with miclab.resume(RUN)." if done.outcome.status == "stopped" else ""
        raise RunError(f"{how}.{remedy}")
    return Run(done.run)
