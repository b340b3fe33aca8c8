"""`miclab train` and `miclab resume`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from miclab.cli.duration import announce_training
from miclab.cli.encoder import EncoderOptions, encoder_options, with_encoders
from miclab.cli.options import Directory, File, LabelOptions, RunName
from miclab.cli.terminal import bar, parse, print_json, warn
from miclab.config import presets
from miclab.config.parts import ModalityConfig, ParentConfig, SequenceConfig
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.config.schema import from_mapping
from miclab.errors import ConfigError, MiclabError, RunError, nearest

if TYPE_CHECKING:
    from miclab.runs.label import Label
    from miclab.runs.run import Run
    from miclab.training.loop import Outcome

STAGES = ("unimodal", "multimodal", "encoder")
USAGE = f"""usage: miclab train {{{",".join(STAGES)}}} [options]

  unimodal     stage 1: a decoder on one modality
  multimodal   stage 2: a second modality is wired in; with --encoder RUN stage 3, with --stage-one none early fusion
  encoder      pretrains the encoder of a modality as a classifier of its classes, for `train multimodal --encoder RUN`

`miclab train STAGE --help` shows the options of each."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(LabelOptions):
    """Train a decoder. Every field of the configuration is an option; the values shown are the profile's."""

    profile: presets.Profile = "quick"
    """Where the other defaults come from. `quick`: AdamW, minutes. `paper`: the paper's SGD and steps, hours."""
    config: File = ""
    """YAML file with fields of the configuration, and of the request under `request:`. Options override it."""
    runs: Directory = "runs"
    """Directory of runs."""
    stage_one: Annotated[str, tyro.conf.arg(metavar="{RUN,RUN@STEP,auto,none}")] = "auto"
    """Multimodal only. RUN or RUN@STEP to start from; `auto`: the stage-1 run of the same decoder, primary modality,
    profile and seed, trained first if it is not there; `none`: early fusion, from scratch."""
    encoder: Annotated[str, tyro.conf.arg(metavar="[NAME=]RUN[@STEP],...")] = ""
    """Runs of `miclab train encoder` whose encoders (and data, and dimensions) modalities take up, in front of their
    projectors; NAME is the modality, by default the last one. Stage 3: `--stage-one` a stage-2 run, or `auto`.
    `--frozen encoder.m2` leaves the encoder as it was pretrained."""
    stage_one_steps: int = 5000
    """Multimodal with `--stage-one auto` only. Training steps of stage 1; `--request.steps` are those of stage 2."""
    json: bool = False
    """Print the outcome as JSON."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    request: Request = field(default_factory=Request)


def _early_option(arguments: list[str], name: str, default: str) -> str:
    """An option's value before the others are parsed: their defaults depend on it."""
    for index, argument in enumerate(arguments):
        given, equals, value = argument.partition("=")
        # Words of an option may be joined with underscores too.
        if given.replace("_", "-") != name:
            continue
        if equals:
            return value
        if index + 1 < len(arguments):
            return arguments[index + 1]
    return default


def _from_yaml(path: str, config: RunConfig, request: Request) -> tuple[RunConfig, Request]:
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError("config", path, f"a YAML file that can be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("config", path, f"a YAML file in UTF-8 without syntax errors ({error})") from error
    if not isinstance(data, dict) or not data:
        raise ConfigError("config", path, "a YAML file that holds a mapping of fields to values")
    asked = data.pop("request", {})
    return from_mapping(RunConfig, data, "", config), from_mapping(Request, asked, "request", request)


@dataclass(frozen=True)
class _Done:
    """A training, or one that was there already.

    Arguments:
        asked: steps that were asked for, in all.
        made: steps that were trained now.
    """

    run: Run
    outcome: Outcome
    asked: int
    made: int


def _go(run: Run, request: Request, title: str) -> _Done:
    """Trains a run with a progress bar, after a line on what will be done."""
    from miclab.training.loop import Progress, train

    before, made = max(run.step, 0), 0
    steps = f"{request.steps:,} step{'s' * (request.steps > 1)}"
    if run.step < 0:
        told = f"training {run.path} for {steps}"
    elif before < request.steps:
        told = f"{run.path} goes on from step {before:,} to {request.steps:,}"
    else:
        told = f"{run.path} is there already with {before:,} steps"
    print(f"miclab: {title}: {told}", file=sys.stderr)
    announce_training(title, run, request)
    compiles = run.config.numerics.mode == "compiled" and before < request.steps
    with bar(title, request.steps, before, "compiling (tens of seconds)" if compiles else "") as tell:

        def count(progress: Progress) -> None:
            nonlocal made
            made += 1
            tell(progress.step, progress.text)

        outcome = train(run, request, count)
    warn(run)
    return _Done(run, outcome, request.steps, made)


def _execute(config: RunConfig, request: Request, root: str, title: str, label: Label | None = None) -> _Done:
    from miclab.training.loop import prepare

    run, line = prepare(config, root, request.steps)
    if label is not None:
        run.label = label
    if line:
        print(f"miclab: {line}", file=sys.stderr)
    return _go(run, request, title)


def _report(done: _Done, as_json: bool, stage_one: dict[str, Any] | None = None) -> int:
    from miclab.runs.find import open_run
    from miclab.training.loop import row_text

    run, outcome = open_run(done.run.path), done.outcome
    rows = run.rows()
    if as_json:
        last = rows[-1] if rows else None
        print_json({"run": str(run.path), "status": outcome.status, "step": outcome.step, "reason": outcome.reason,
                    "asked_steps": done.asked, "trained_steps": done.made,
                    **({"stage_one": stage_one} if stage_one else {}), "row": last})  # fmt: skip
    else:
        print(f"{outcome.status} at step {outcome.step}: {outcome.reason}")
        if outcome.status == "finished" and not done.made:
            shorter = f": asked {done.asked:,} steps, the run has {outcome.step:,}" if done.asked < outcome.step else ""
            print(f"  already there, nothing trained{shorter}")
        if rows:
            print(f"  {row_text(rows[-1])}")
        print(f"  {run.path}")
        if outcome.status == "stopped":
            print(f"  go on with: miclab resume {run.path}")
    return 0 if outcome.status == "finished" else 1


def run_train(arguments: list[str]) -> int:
    """`miclab train STAGE [options]`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    stage, rest = arguments[0], arguments[1:]
    if stage not in STAGES:
        raise MiclabError(f"{stage!r} is no stage: {nearest(stage, STAGES)}")
    profile = _early_option(rest, "--profile", "quick")
    if profile not in ("quick", "paper"):
        raise ConfigError("profile", profile, nearest(profile, ("quick", "paper")))
    if stage == "encoder":
        return _run_encoder(rest, profile)
    stage_one = _early_option(rest, "--stage-one", "auto")
    root = _early_option(rest, "--runs", "runs")
    kind = "unimodal" if stage == "unimodal" else "early_fusion" if stage_one == "none" else "multimodal"
    config, request = presets.run_config(kind, profile), presets.request(kind, profile)
    first = presets.request("unimodal", profile)
    before = None
    path = _early_option(rest, "--config", "")
    if kind == "multimodal" and stage_one != "auto":
        # The file may say what the secondary modality must be to suit the parent, so it is read before and after.
        if path:
            config, request = _from_yaml(path, config, request)
        config, before = _grown_from(config, stage_one, root)
    if path:
        config, request = _from_yaml(path, config, request)
    encoders = _early_option(rest, "--encoder", "")
    if encoders:
        config = with_encoders(config, encoders, root)
    defaults = TrainOptions(profile=profile, stage_one_steps=first.steps, run=config, request=request)
    options = parse(TrainOptions, f"train {stage}", rest, defaults)
    config, label = options.run, options.label
    if kind == "unimodal" and len(config.modalities) > 1:
        raise ConfigError("modalities", list(config.modalities), "one, for `miclab train unimodal`")
    if options.stage_one_steps != first.steps and (kind != "multimodal" or before is not None):
        told = "given only where `miclab train multimodal` trains stage 1 itself (--stage-one auto)"
        raise ConfigError("stage_one_steps", options.stage_one_steps, told)
    if kind != "multimodal":
        return _report(_execute(config, options.request, root, kind.replace("_", " "), label), options.json)
    if before is not None:
        _check_same(config, before, stage_one)
        stage = {"run": str(before.path), "step": config.parent.step, "trained_steps": 0}
        if config.parent.step in before.checkpoints:
            print(f"miclab: stage 1: {before.path} at step {config.parent.step:,} is reused", file=sys.stderr)
    else:
        sizes = {n: getattr(options.request, n) for n in ("sequences", "novel_sets")}
        done = _stage_one(config, profile, replace(first, steps=options.stage_one_steps, **sizes), root)
        if done.outcome.status != "finished":
            return _report(done, options.json)
        config = replace(config, parent=ParentConfig(run=done.run.hash, step=done.asked))
        stage = {"run": str(done.run.path), "step": done.asked, "trained_steps": done.made}
    return _report(_execute(config, options.request, root, "stage 2", label), options.json, stage)


def _run_encoder(arguments: list[str], profile: presets.Profile) -> int:
    """`miclab train encoder [options]`."""
    defaults, path = encoder_options(profile), _early_option(arguments, "--config", "")
    if path:
        config, request = _from_yaml(path, defaults.run, defaults.request)
        defaults = replace(defaults, run=config, request=request)
    options = parse(EncoderOptions, "train encoder", arguments, defaults)
    label = options.label
    return _report(_execute(options.run, options.request, options.runs, "encoder", label), options.json)


def _stage_one(config: RunConfig, profile: presets.Profile, asked: Request, root: str) -> _Done:
    """Trains the stage-1 run of a multimodal configuration, or finds it.

    Raises:
        RunError: it is there, longer, and has not kept the checkpoint that is asked for.
    """
    from miclab.runs.find import open_run

    done = _execute(presets.first_stage(config, profile), asked, root, "stage 1")
    kept = open_run(done.run.path).checkpoints
    if done.outcome.status == "finished" and asked.steps not in kept:
        told = (
            f"Stage 1, {done.run.path}, has {done.outcome.step:,} steps already, and no checkpoint at {asked.steps:,}"
        )
        raise RunError(f"{told}. Give --stage-one-steps one of {[s for s in kept if s]}.")
    return done


def _check_same(config: RunConfig, before: Run, reference: str) -> None:
    """Makes sure that options say nothing else than the stage-1 run on what it has decided.

    Raises:
        ConfigError: they do; the message names the field.
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


def _grown_from(config: RunConfig, reference: str, root: str) -> tuple[RunConfig, Run]:
    """The configuration with decoder, host, numerics and seed of the stage-1 run RUN[@STEP], and that run."""
    from miclab.runs.find import find

    name, _, step = reference.partition("@")
    run = find(name, root)
    if step and not step.isdigit():
        raise ConfigError("stage_one", reference, "RUN or RUN@STEP, with a whole number of steps")
    parent = ParentConfig(run=run.hash, step=int(step) if step else run.step)
    old = run.config
    host: dict[str, ModalityConfig] = {old.host_name: old.modalities[old.host_name]}
    secondary = {n: m for n, m in config.modalities.items() if n not in host and n != config.host_name}
    grown = replace(
        config,
        modalities=host | secondary,
        decoder=old.decoder,
        numerics=old.numerics,
        sequence=replace(SequenceConfig(), context=old.sequence.context, burstiness=old.sequence.burstiness),
        seed=old.seed,
        parent=parent,
    )
    return grown, run


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Go on with a run from its last checkpoint; with more steps, a finished run is extended."""

    run: RunName
    """Path, name, or start of a name or hash."""
    runs: Directory = "runs"
    """Directory of runs."""
    steps: int = 0
    """Steps in all; 0: as many as were asked for before."""
    json: bool = False
    """Print the outcome as JSON."""


def run_resume(arguments: list[str]) -> int:
    """`miclab resume RUN [--steps N]`."""
    from miclab.runs.find import find

    options = parse(ResumeOptions, "resume", arguments)
    run = find(options.run, options.runs)
    asked = run.request or {}
    stage = run.config.stage
    usual = presets.encoder_request("quick") if stage == "encoder" else presets.request(stage, "quick")  # type: ignore[arg-type]
    request = from_mapping(Request, asked) if asked else usual
    if options.steps:
        # More steps are an order to go on, also for a run that stopped at a plateau.
        request = replace(request, steps=options.steps, plateau_rows=0)
    return _report(_go(run, request, "resume"), options.json)
