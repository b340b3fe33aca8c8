"""`miclab train` and `miclab resume`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from miclab.cli.options import Directory, File, LabelOptions, RunName
from miclab.cli.progress import announce_training
from miclab.cli.terminal import bar, parse, print_json, refuse_ignored, say, warn
from miclab.config import presets
from miclab.config.extensions import as_options
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.config.schema import from_mapping
from miclab.errors import ConfigError, ContentError, MiclabError, nearest, visible
from miclab.training.stages import (
    STAGES,
    Done,
    Training,
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
    from miclab.runs.label import Label
    from miclab.runs.run import Run
    from miclab.training.loop import Prepared

USAGE = f"""usage: miclab train {{{",".join(STAGES)}}} [options]

  unimodal     stage 1: a decoder on one modality; with --stage-one RUN it goes on as stage 2 would, for comparison
  multimodal   stage 2: a second modality is wired in; with --encoder RUN stage 3, with --stage-one none early fusion
  encoder      pretrains the encoder of a modality as a classifier of its classes, for `train multimodal --encoder RUN`

`miclab train STAGE --help` shows the options of each."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(LabelOptions):
    """Train a decoder. Every field of the configuration is an option; the values shown are the preset's."""

    preset: presets.Profile = "quick"
    """Source of the other defaults. `quick`: AdamW, minutes. `paper`: the paper's SGD and steps, hours."""
    config: File = ""
    """YAML file with fields of the configuration, and of the request under `request:`. Options override it."""
    runs: Directory = "runs"
    """Directory of runs."""
    stage_one: Annotated[str, tyro.conf.arg(metavar="{RUN,RUN@STEP,auto,none}")] = "auto"
    """RUN or RUN@STEP to start from. With `unimodal` the new run is a sibling of the stage-2 runs of RUN. It has their
    optimiser and length, and further sequences of one modality. The others are for `multimodal`. `auto` is the stage-1
    run of the same decoder, primary modality, preset and seed, trained first if it does not exist. `none` is early
    fusion, from scratch."""
    encoder: Annotated[str, tyro.conf.arg(metavar="[NAME=]RUN[@STEP],...")] = ""
    """Runs of `miclab train encoder` whose encoders modalities use before their projectors, with their data and
    dimensions. NAME is the modality, by default the last one. Stage 3: `--stage-one` a stage-2 run, or `auto`.
    `--frozen encoder.m2` leaves the encoder as it was pretrained."""
    stage_one_steps: int = 5000
    """Multimodal with `--stage-one auto` only. Training steps of stage 1; `--request.steps` are those of stage 2."""
    json: bool = False
    """Print the outcome as JSON."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    request: Request = field(default_factory=Request)


def _early_option(arguments: list[str], name: str, default: str) -> str:
    """An option's value before the others are parsed: their defaults depend on it. As there, the last one counts."""
    found = default
    for index, argument in enumerate(arguments):
        given, equals, value = argument.partition("=")
        # Words of an option may be joined with underscores too.
        if given.replace("_", "-") != name:
            continue
        if equals:
            found = value
        elif index + 1 < len(arguments):
            found = arguments[index + 1]
    return found


def from_yaml(path: str, config: RunConfig, request: Request) -> tuple[RunConfig, Request]:
    """A configuration and a request with the fields of a YAML file.

    Raises:
        ConfigError: it holds no mapping, or a field that is unknown or not possible.
    """
    from miclab.config.strict_yaml import read_yaml

    data = read_yaml(Path(path))
    if not isinstance(data, dict) or not data:
        raise ContentError(path, "expected a mapping of fields to values")
    requested = data.pop("request", {})
    try:
        found = from_mapping(RunConfig, data, "", config, also=("request",))
        request = from_mapping(Request, requested, "request", request)
    except ConfigError as error:
        raise ContentError.of_field(path, error) from error
    _name_new_modalities(path, found, config)
    return found, request


def _name_new_modalities(path: str, found: RunConfig, preset: RunConfig) -> None:
    """Reports modalities of a file that the preset lacks. Names are free, so a misspelt name would be a new modality
    with other defaults."""
    new = [name for name in found.modalities if name not in preset.modalities]
    if new:
        gone = [name for name in preset.modalities if name not in found.modalities]
        out = f", and {', '.join(gone)} {'is' if len(gone) == 1 else 'are'} left out" if gone else ""
        say(
            f"{path}: {', '.join(new)}: no modality of the preset, which has {', '.join(preset.modalities)}. It"
            f" begins from the defaults of any modality{out}"
        )


@contextmanager
def _watch(title: str, ready: Prepared, request: Request) -> Iterator[Callable[[int, str], None]]:
    """A progress bar around a training, after a line on the plan."""
    run = ready.run
    if ready.line:
        say(ready.line)
    before = max(run.step, 0)
    if run.step < 0:
        line = f"training {run.path} for {request.steps:,} step{'s' * (request.steps > 1)}"
    elif before < request.steps:
        line = f"{run.path} goes on from step {before:,} to {request.steps:,}"
    else:
        line = f"{run.path} is there already with {before:,} steps"
    say(f"{title}: {line}")
    announce_training(title, run, request)
    compiles = run.config.numerics.mode == "compiled" and before < request.steps
    with bar(title, request.steps, before, "compiling (tens of seconds)" if compiles else "") as on_step:
        yield on_step
    warn(run)


def _report(done: Done, as_json: bool, stage_one: dict[str, Any] | None = None) -> int:
    from miclab.training.trajectory import row_text

    run, outcome = done.run, done.outcome
    rows = run.rows()
    if as_json:
        last = rows[-1] if rows else None
        print_json({"run": str(run.path), "status": outcome.status, "step": outcome.step, "reason": outcome.reason,
                    "asked_steps": done.requested, "trained_steps": done.made,
                    **({"stage_one": stage_one} if stage_one else {}), "row": last})  # fmt: skip
    else:
        print(visible(f"{outcome.status} at step {outcome.step}: {outcome.reason}"))
        if outcome.status == "finished" and not done.made:
            shorter = f": requested {done.requested:,} steps, the run has {outcome.step:,}"
            print(f"  already there, nothing trained{shorter if done.requested < outcome.step else ''}")
        if rows:
            print(f"  {row_text(rows[-1])}")
        print(visible(f"  {run.path}"))
        if outcome.status == "stopped":
            print(visible(f"  go on with: {shlex.join(['miclab', 'resume', str(run.path), *as_options()])}"))
    return 0 if outcome.status == "finished" else 1


def run_train(arguments: list[str]) -> int:
    """`miclab train STAGE [options]`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    stage, rest = arguments[0], arguments[1:]
    if stage not in STAGES:
        raise MiclabError(f"{stage!r} is no stage: {nearest(stage, STAGES)}")
    preset = _early_option(rest, "--preset", "quick")
    if preset not in ("quick", "paper"):
        raise ConfigError("preset", preset, nearest(preset, ("quick", "paper")))
    if stage == "encoder":
        return _run_encoder(rest, preset)
    stage_one = _early_option(rest, "--stage-one", "auto")
    if stage == "unimodal" and stage_one in ("auto", "none"):
        refuse_ignored(rest, ("stage_one",), "with `miclab train unimodal` it names a run")
    root = _early_option(rest, "--runs", "runs")
    kind = kind_of(stage, stage_one)
    config, request = presets.run_config(kind, preset), presets.request(kind, preset)
    first = presets.request("unimodal", preset)
    before = None
    path = _early_option(rest, "--config", "")
    if kind == "continued" or (kind == "multimodal" and stage_one != "auto"):
        # The file may adapt the secondary modality to the parent, so it is read before and after.
        if path:
            config, request = from_yaml(path, config, request)
        config, before = grown_from(config, stage_one, root)
    if path:
        config, request = from_yaml(path, config, request)
    encoders = _early_option(rest, "--encoder", "")
    if encoders:
        config = with_encoders(config, encoders, root)
    defaults = TrainOptions(preset=preset, stage_one_steps=first.steps, run=config, request=request)
    options = parse(TrainOptions, f"train {stage}", rest, defaults)
    config = options.run
    check_modalities(kind, config)
    if options.stage_one_steps != first.steps and (kind != "multimodal" or before is not None):
        allowed = "given only where `miclab train multimodal` trains stage 1 itself (--stage-one auto)"
        raise ConfigError("stage_one_steps", options.stage_one_steps, allowed)
    if before is not None:
        check_same(config, before)
        if config.parent.step in before.checkpoints:
            say(f"stage 1: {before.path} at step {config.parent.step:,} is reused")
    earlier = replace(first, steps=options.stage_one_steps) if kind == "multimodal" and before is None else None
    return _train(trainings(config, options.request, preset, earlier), root, options.json, before, options.label)


def _train(
    plan: Sequence[Training], root: str, as_json: bool, before: Run | None = None, label: Label | None = None
) -> int:
    """Carries a plan out, labels the run of its last training, and prints the outcome."""

    def watch(title: str, ready: Prepared, request: Request) -> AbstractContextManager[Callable[[int, str], None]]:
        if label is not None and title == plan[-1].title:
            ready.run.label = label
        return _watch(title, ready, request)

    done = carry_out(plan, root, watch)
    stage = None
    if before is not None:
        stage = {"run": str(before.path), "step": plan[-1].config.parent.step, "trained_steps": 0}
    elif len(done) > 1:
        stage = {"run": str(done[0].run.path), "step": done[0].requested, "trained_steps": done[0].made}
    return _report(done[-1], as_json, stage)


def _run_encoder(arguments: list[str], preset: presets.Profile) -> int:
    """`miclab train encoder [options]`."""
    defaults, path = encoder_options(preset), _early_option(arguments, "--config", "")
    if path:
        config, request = from_yaml(path, defaults.run, defaults.request)
        defaults = replace(defaults, run=config, request=request)
    options = parse(EncoderOptions, "train encoder", arguments, defaults)
    return _train(trainings(options.run, options.request, preset), options.runs, options.json, label=options.label)


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Resume a run from its last checkpoint. With more steps, a finished run is extended."""

    run: RunName
    """Path, name, or start of a name or hash."""
    runs: Directory = "runs"
    """Directory of runs."""
    steps: int = 0
    """Steps in all; 0: as many as were requested before."""
    json: bool = False
    """Print the outcome as JSON."""


def run_resume(arguments: list[str]) -> int:
    """`miclab resume RUN [--steps N]`."""
    from miclab.runs.find import find

    options = parse(ResumeOptions, "resume", arguments)
    run = find(options.run, options.runs)
    before = run.request or {}
    stage = run.config.stage
    usual = presets.encoder_request("quick") if stage == "encoder" else presets.request(stage, "quick")  # type: ignore[arg-type]
    request = from_mapping(Request, before) if before else usual
    if options.steps:
        # More steps continue a run, even one that stopped at a plateau.
        request = replace(request, steps=options.steps, plateau_rows=0, enough=0.0)
    from miclab.training.loop import Prepared

    return _report(train_watched("resume", Prepared(run), request, _watch), options.json)


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(LabelOptions):
    """Pretrain the encoder of a modality as a classifier of its classes. Every field of the configuration is an option.
    In the rows, `nearest` is the accuracy of the nearest exemplar among 8 novel classes, by features."""

    preset: presets.Profile = "quick"
    """Default length: 2,000 steps (`quick`), 50,000 (`paper`)."""
    config: File = ""
    """YAML file with fields of the configuration, and of the request under `request:`. Options override it."""
    runs: Directory = "runs"
    """Directory of runs."""
    json: bool = False
    """Print the outcome as JSON."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    request: Request = field(default_factory=Request)


def encoder_options(preset: presets.Profile) -> EncoderOptions:
    """The options' defaults in a preset."""
    return EncoderOptions(preset=preset, run=presets.lone_encoder_config(), request=presets.encoder_request(preset))
