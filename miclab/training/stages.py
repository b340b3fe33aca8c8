"""The runs that a configuration needs, in order: its stage 1, if none is named, and itself.

`miclab train`, the Python function and the demonstration plan by `trainings` and carry the plan out in their process.
Studies plan many configurations at once by `stage_one` and `pretraining`, and hand the runs to launchers. Planning
needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.config import memory, presets, schema
from miclab.config.parts import ModalityConfig, ParentConfig, SequenceConfig
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, RunError, nearest
from miclab.runs.find import find, open_run
from miclab.runs.run import Run

if TYPE_CHECKING:
    from miclab.training.loop import Prepared
    from miclab.training.trajectory import Outcome

Fields = Mapping[str, Any]
STAGES = ("unimodal", "multimodal", "encoder")
"""The names of what can be trained."""
AUTO = "auto"
NONE = "none"
TAKEN = ("source", "content", "shape", "dimension", "encoder", "features")
"""Fields of a modality that its encoder's run fixes."""


@dataclass(frozen=True)
class Training:
    """One training of a plan.

    Arguments:
        title: `stage 1`, `stage 2`, `unimodal`, `early fusion` or `encoder`.
        config: its configuration; the parent is filled in where the training before it is the parent.
        request: its length.
        grows: whether it starts from the training before it.
    """

    title: str
    config: RunConfig
    request: Request
    grows: bool = False


@dataclass(frozen=True)
class Done:
    """A training that was carried out now or earlier.

    Arguments:
        run: the run on disk.
        outcome: how it ended.
        requested: steps in all.
        made: steps that were trained now.
    """

    run: Run
    outcome: Outcome
    requested: int
    made: int


Watch = Callable[[str, "Prepared", Request], AbstractContextManager[Callable[[int, str], None]]]
"""A function of a training's title, prepared run and request. It gives a context for the training; the context's value
is called after every step with the step and a short text."""


def kind_of(stage: str, stage_one: str) -> presets.Stage:
    """The preset of a stage's configuration. Early fusion is the multimodal stage without a stage 1. One modality that
    starts from a run goes on with stage 1.

    Arguments:
        stage: `unimodal` or `multimodal`.
        stage_one: the value given for the stage-1 run: a run, `auto` or `none`.
    """
    if stage == "unimodal":
        return "unimodal" if stage_one in (AUTO, NONE) else "continued"
    return "early_fusion" if stage_one == NONE else "multimodal"


# -- what is trained ----------------------------------------------------------------------------------------------
def stage_one(
    config: RunConfig, preset: presets.Profile, request: Request, change: Fields | None = None
) -> tuple[RunConfig, Request]:
    """The stage-1 run that a multimodal configuration starts from.

    Arguments:
        request: what is requested of it.
        change: fields in which it differs from its preset, as plain data; `steps` is its length.

    Raises:
        ConfigError: a field is unknown or impossible, or the decoder would differ.
    """
    change = dict(change or {})
    steps = change.pop("steps", request.steps)
    before = schema.from_mapping(RunConfig, change, "parent", presets.first_stage(config, preset))
    if (before.decoder, before.label_count) != (config.decoder, config.label_count):
        raise ConfigError("parent", "another decoder or number of labels", "the decoder and labels of the children")
    return before, schema.from_mapping(Request, {"steps": steps}, "parent", request)


def pretraining(
    config: RunConfig, name: str, preset: presets.Profile, change: Fields, request: Fields
) -> tuple[RunConfig, Request]:
    """The run that pretrains the encoder of a modality, for as many steps as its `encoder_step`.

    Arguments:
        change: fields in which it differs from its preset, as plain data; `modality` holds those of the modality.
        request: likewise of its request.

    Raises:
        ConfigError: a field is unknown or not possible.
    """
    change = dict(change)
    modality = change.pop("modality", {})
    before = presets.encoder_config(config, name)
    own = {
        n: schema.from_mapping(ModalityConfig, modality, "encoder.config.modality", m)
        for n, m in before.modalities.items()
    }
    found = schema.from_mapping(RunConfig, change, "encoder.config", replace(before, modalities=own))
    requested = schema.from_mapping(Request, request, "encoder.request", presets.encoder_request(preset))
    steps = config.modalities[name].encoder_step
    return found, schema.from_mapping(Request, {"steps": steps}, "encoder.request", requested)


def trainings(
    config: RunConfig, request: Request, preset: presets.Profile, first: Request | None = None
) -> tuple[Training, ...]:
    """The trainings of a configuration, in order.

    Arguments:
        first: for a multimodal configuration without a parent, the request of stage 1, which is trained first. None:
            training is from scratch.

    Raises:
        ConfigError: stage 1 is not possible.
    """
    title = config.stage.replace("_", " ")
    if len(config.modalities) == 1 or config.is_classification or (first is None and not config.parent.run):
        return (Training(title, config, request),)
    if config.parent.run or first is None:
        return (Training("stage 2", config, request),)
    sizes = {name: getattr(request, name) for name in ("sequences", "novel_sets")}
    before = Training("stage 1", *stage_one(config, preset, replace(first, **sizes)))
    return before, Training("stage 2", config, request, grows=True)


# -- earlier runs that are named ----------------------------------------------------------------------------------
def check_modalities(stage: str, config: RunConfig) -> None:
    """Raises ConfigError where a configuration has too many modalities for a stage, or too few.

    Arguments:
        stage: `unimodal`, `continued`, `multimodal` or `early_fusion`.
    """
    names = list(config.modalities)
    is_alone = stage in ("unimodal", "continued")
    if is_alone and len(names) > 1:
        raise ConfigError("modalities", names, "one, for the stage `unimodal`")
    if not is_alone and len(names) < 2:
        raise ConfigError("modalities", names, "two or more, for the stage `multimodal`")


def grown_from(config: RunConfig, reference: str, root: Path | str) -> tuple[RunConfig, Run]:
    """The configuration with decoder, host, numerics and seed of a stage-1 run, and that run.

    Arguments:
        reference: RUN or RUN@STEP; without a step the run's last.
        root: directory of runs.

    Raises:
        RunError: there is no such run.
        ConfigError: the step is no number.
    """
    name, _, step = reference.partition("@")
    run = find(name, root)
    if step and not step.isdigit():
        raise ConfigError("stage_one", reference, "RUN or RUN@STEP, with a whole number of steps")
    parent = ParentConfig(run=run.hash, step=int(step) if step else run.step)
    old = run.config
    host: dict[str, ModalityConfig] = {old.host_name: old.modalities[old.host_name]}
    sequence = replace(SequenceConfig(), context=old.sequence.context, burstiness=old.sequence.burstiness)
    secondary = {n: m for n, m in config.modalities.items() if n not in host and n != config.host_name}
    grown = replace(
        config,
        modalities=host | secondary,
        decoder=old.decoder,
        numerics=old.numerics,
        sequence=sequence if secondary else old.sequence,
        seed=old.seed,
        parent=parent,
    )
    return grown, run


def check_same(config: RunConfig, before: Run) -> None:
    """Checks that a configuration agrees with its stage-1 run in the fields that this has fixed.

    Raises:
        ConfigError: it does not agree; the message names the field.
    """
    old, host = before.config, before.config.host_name
    decides = f"the stage-1 run {before.path.name} decides it. Leave the option out, or name another --stage-one"
    if config.host_name != host:
        raise ConfigError("host", config.host_name, f"{host!r}: {decides}")
    pairs = {
        f"modalities.{host}": (config.modalities[host], old.modalities[host]),
        "decoder": (config.decoder, old.decoder),
    }
    names = {
        f"modalities.{host}": ("source", "classes", "dimension", "labels"),
        "decoder": [f.name for f in fields(old.decoder)],
    }
    for owner, (mine, its) in pairs.items():
        for name in names[owner]:
            if getattr(mine, name) != getattr(its, name):
                raise ConfigError(f"{owner}.{name}", getattr(mine, name), f"{getattr(its, name)!r}: {decides}")
    if config.label_count != old.label_count:
        raise ConfigError("labels in all", config.label_count, f"{old.label_count}: {decides}")


def with_encoders(config: RunConfig, references: str, root: Path | str) -> RunConfig:
    """A configuration whose modalities have pretrained encoders.

    Arguments:
        references: [NAME=]RUN[@STEP], several separated by commas; NAME is the modality, by default the last one.
        root: directory of runs.

    Raises:
        ConfigError: there is no such modality, or a run pretrains no encoder.
        RunError: there is no such run.
    """
    modalities = dict(config.modalities)
    for reference in references.split(","):
        name, equals, rest = reference.partition("=")
        name, rest = (name, rest) if equals else (tuple(modalities)[-1], name)
        if name not in modalities:
            raise ConfigError("encoder", reference, f"[NAME=]RUN[@STEP] with {nearest(name, tuple(modalities))}")
        rest, _, step = rest.partition("@")
        run = find(rest, root)
        if not run.config.is_classification or (step and not step.isdigit()):
            raise ConfigError("encoder", reference, "[NAME=]RUN[@STEP], a run of `miclab train encoder`")
        own = next(iter(run.config.modalities.values()))
        taken = {part: getattr(own, part) for part in TAKEN}
        if not own.source:
            taken["classes"] = own.classes
        step = int(step) if step else run.step
        modalities[name] = replace(modalities[name], **taken, encoder_run=run.hash, encoder_step=step)
    return replace(config, modalities=modalities)


# -- before and while they are trained ----------------------------------------------------------------------------
def check(plan: Sequence[Training], root: Path | str) -> None:
    """Checks all trainings before the first begins, as far as possible. Sources, shapes, frozen parts, encoders and
    terms of the loss are checked. Each training must be able to start from the one before.

    Raises:
        RunError: an earlier run is missing, has no checkpoint at the step that is named, or does not fit.
        ConfigError: a training cannot work.
        DataError: a source cannot be had.
        TooLargeError: one needs more memory than the machine has.
    """
    from miclab.model.classifier import model_of
    from miclab.training.lineage import Lineage, check_parent, kept_of_parent
    from miclab.training.objective import Objective
    from miclab.worlds.world import draw_world

    before: RunConfig | None = None
    for training in plan:
        lineage = Lineage.resolve(training.config, root)
        lineage.check()
        config = lineage.config
        memory.check_training(config)
        memory.check_evaluation(config, training.request.sequences, training.request.novel_sets)
        if training.grows and before is not None:
            # The hash alone is not known yet: it depends on the numeric mode.
            config = replace(config, parent=ParentConfig(run="0" * 64, step=plan[0].request.steps))
            check_parent(config, before, "of stage 1")
        Objective(config)
        model_of(config)
        # Features of real items take long to compute. A named earlier run is read when its child is prepared.
        is_free = not (lineage.encoders or lineage.parent or any(map(config.keeps_features, config.modalities)))
        if is_free:
            grown = before if training.grows else None
            draw_world(config, kept_of_parent(config, grown, draw_world(grown).tensors()) if grown else None)
        before = config


def carry_out(plan: Sequence[Training], root: Path | str, watch: Watch) -> list[Done]:
    """Carries a plan out in this process. Finished runs are not trained again. The plan ends after a training that did
    not finish.

    Arguments:
        root: directory of runs.

    Raises:
        RunError: see `miclab.training.loop.train`; or stage 1 exists, is longer, and has not kept the requested
            checkpoint.
        ConfigError: see `check`.
    """
    from miclab.training.loop import prepared

    check(plan, root)
    done: list[Done] = []
    for training in plan:
        config, request = training.config, training.request
        if training.grows:
            parent = done[-1]
            _check_kept(parent)
            config = replace(config, parent=ParentConfig(run=parent.run.hash, step=parent.requested))
        done.append(train_watched(training.title, prepared(config, root, request.steps), request, watch))
        if done[-1].outcome.status != "finished":
            break
    return done


def train_watched(title: str, ready: Prepared, request: Request, watch: Watch) -> Done:
    """Trains one run within the context that `watch` gives."""
    from miclab.training.trajectory import Progress

    made = 0
    with watch(title, ready, request) as on_step:

        def count(progress: Progress) -> None:
            nonlocal made
            made += 1
            on_step(progress.step, progress.text)

        outcome = ready.train(request, count)
    return Done(open_run(ready.run.path), outcome, request.steps, made)


def _check_kept(parent: Done) -> None:
    if parent.requested not in parent.run.checkpoints:
        has = f"has {parent.outcome.step:,} steps already, and no checkpoint at {parent.requested:,}"
        steps = [step for step in parent.run.checkpoints if step]
        raise RunError(f"Stage 1, {parent.run.path}, {has}. Give --stage-one-steps one of {steps}.")
