"""Train several runs as the lanes of one group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from miclab.api.fields import changed
from miclab.api.run import Run
from miclab.config import presets
from miclab.config.presets import Profile
from miclab.errors import ConfigError, RunError, nearest
from miclab.runs.find import open_run
from miclab.training.stages import check_modalities, check_same, grown_from, kind_of, with_encoders

STAGES = ("unimodal", "multimodal", "encoder")


def train_lanes(
    lanes: Sequence[Mapping[str, Any]],
    stage: str = "unimodal",
    *,
    width: int | None = None,
    preset: Profile = "quick",
    steps: int | None = None,
    stage_one: Sequence[str | Path | Run] = (),
    encoders: Sequence[str] = (),
    runs: str | Path = "runs",
    on_progress: Callable[[int, int, int], None] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> list[Run]:
    """Trains several runs as one program (see `miclab.training.lanes`). Each is a run like any other.

        eight = miclab.train_lanes([{"seed": seed} for seed in range(8)], steps=3000)

    Arguments:
        lanes: what is particular to each run: values by dotted name (`modalities.m1.classes`), or `seed`. Shapes, the
            optimiser and the number of labels have to be the same.
        stage: `unimodal`, `multimodal` or `encoder`.
        width: lanes of the group, at least as many as runs; it is in the hash of the runs. None: as many as runs.
        preset: where the other values come from: `quick` (minutes) or `paper` (hours).
        steps: training steps in all.
        stage_one: of `multimodal`, the run that each lane starts from; empty: early fusion.
        encoders: of `multimodal`, `[NAME=]RUN[@STEP],...` for each lane, as `encoder` of `miclab.train`; empty: none.
        runs: directory of runs.
        on_progress: called after every step of a run with its place in `lanes`, its steps done, and its steps in all.
        fields: values that all lanes have, by dotted name of the configuration or the request.

    Returns:
        The runs in the order of `lanes`. One that diverged is among them, with that status.

    Raises:
        ConfigError: an unknown field (the message names the nearest), or a value that is not possible.
        RunError: the runs cannot be one group (nothing was made then), an earlier run is missing, or a signal stopped
            the training.
    """
    from miclab.training.lanes import check_group
    from miclab.training.loop import prepared, train_together
    from miclab.training.trajectory import Progress

    if stage not in STAGES:
        raise ConfigError("stage", stage, nearest(stage, STAGES))
    if not lanes or isinstance(lanes, str | Mapping) or not all(isinstance(own, Mapping) for own in lanes):
        raise ConfigError(
            "lanes", lanes, "a list of at least one mapping of fields, such as [{'seed': 0}, {'seed': 1}]"
        )
    if stage_one and (stage != "multimodal" or len(stage_one) != len(lanes)):
        raise ConfigError("stage_one", list(map(str, stage_one)), "one run for each lane, with the stage 'multimodal'")
    if encoders and (stage != "multimodal" or len(encoders) != len(lanes)):
        raise ConfigError("encoders", list(encoders), "one text for each lane, with the stage 'multimodal'")
    configs, requests, hears = [], [], []
    shared = dict(fields or {}) | ({} if steps is None else {"request.steps": steps})
    shared |= {"numerics.mode": "lanes", "numerics.lanes": len(lanes) if width is None else width}
    for place, own in enumerate(lanes):
        before = str(getattr(stage_one[place], "path", stage_one[place])) if stage_one else "none"
        if stage == "encoder":
            config, request = presets.lone_encoder_config(), presets.encoder_request(preset)
        else:
            kind = kind_of(stage, before)
            config, request = presets.run_config(kind, preset), presets.request(kind, preset)
        parent = None
        if stage_one:
            # Fields may say what the secondary modality must be to suit the parent: they are read before and after.
            config, _ = changed(config, request, {}, shared | dict(own))
            config, parent = grown_from(config, before, runs)
        if encoders:
            config = with_encoders(config, encoders[place], runs)
        config, request = changed(config, request, {}, shared | dict(own))
        if stage != "encoder":
            check_modalities(kind_of(stage, before), config)
        if parent is not None:
            check_same(config, parent)

        def hear(progress: Progress, place: int = place) -> None:
            if on_progress:
                on_progress(place, progress.step, progress.steps)

        configs.append(config)
        requests.append(request)
        hears.append(hear)
    # Before the first directory is made.
    check_group(configs)
    ready = [prepared(config, runs, request.steps) for config, request in zip(configs, requests, strict=True)]
    outcomes = train_together(ready, requests, hears)
    if any(outcome.status == "stopped" for outcome in outcomes):
        raise RunError(f"{outcomes[0].reason.capitalize()}. The same call goes on.")
    return [Run(open_run(one.run.path)) for one in ready]
