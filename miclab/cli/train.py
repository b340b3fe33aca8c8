"""`miclab train` and `miclab resume`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from miclab import profiles
from miclab.cli.terminal import bar, parse, print_json, warn
from miclab.config import RunConfig
from miclab.errors import ConfigError, MiclabError, nearest
from miclab.request import Request
from miclab.schema import from_mapping
from miclab.settings import ModalityConfig, ParentConfig, SequenceConfig

STAGES = ("unimodal", "multimodal")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a decoder. Every field of the configuration is an option; the values shown are the profile's."""

    profile: profiles.Profile = "quick"
    """Where the other defaults come from. `quick`: AdamW, minutes. `paper`: the paper's SGD and steps, hours."""
    config: str = ""
    """YAML file with fields of the configuration, and of the request under `request:`. Options override it."""
    runs: str = "runs"
    """Directory of runs."""
    stage_one: str = "auto"
    """Multimodal only. RUN or RUN@STEP to start from; `auto`: the stage-1 run of the same decoder, primary modality,
    profile and seed, trained first if it is not there; `none`: early fusion, from scratch."""
    json: bool = False
    """Print the outcome as JSON."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    request: Request = field(default_factory=Request)


def _early_option(arguments: list[str], name: str, default: str) -> str:
    """An option's value before the others are parsed: their defaults depend on it."""
    for index, argument in enumerate(arguments):
        if argument == name and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(f"{name}="):
            return argument.split("=", 1)[1]
    return default


def _from_yaml(path: str, config: RunConfig, request: Request) -> tuple[RunConfig, Request]:
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text()) or {}
    except OSError as error:
        raise ConfigError("config", path, f"a YAML file that can be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("config", path, f"a YAML file in UTF-8 without syntax errors ({error})") from error
    if not isinstance(data, dict):
        raise ConfigError("config", path, "a YAML file that holds a mapping of fields to values")
    asked = data.pop("request", {})
    return from_mapping(RunConfig, data, "", config), from_mapping(Request, asked, "request", request)


def _execute(config: RunConfig, request: Request, root: str, title: str):
    from miclab.train import prepare, train

    run, line = prepare(config, root, request.steps)
    if line:
        print(f"miclab: {line}", file=sys.stderr)
    print(f"miclab: {title} -> {run.path}", file=sys.stderr)
    with bar(title, request.steps, max(run.step, 0)) as tell:
        outcome = train(run, request, lambda p: tell(p.step, p.text))
    warn(run)
    return run, outcome


def _report(run, outcome, as_json: bool) -> int:
    from miclab.runs import open_run
    from miclab.train import row_text

    run = open_run(run.path)
    rows = run.rows()
    if as_json:
        last = rows[-1] if rows else None
        print_json({"run": str(run.path), "status": outcome.status, "step": outcome.step, "reason": outcome.reason,
                    "row": last})  # fmt: skip
    else:
        print(f"{outcome.status} at step {outcome.step}: {outcome.reason}")
        if rows:
            print(f"  {row_text(rows[-1])}")
        print(f"  {run.path}")
        if outcome.status == "stopped":
            print(f"  go on with: miclab resume {run.path}")
    return 0 if outcome.status == "finished" else 1


def run_train(arguments: list[str]) -> int:
    """`miclab train STAGE [options]`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: miclab train {unimodal,multimodal} [options]\n\n`miclab train unimodal --help` shows the options."
        )
        return 0 if arguments else 2
    stage, rest = arguments[0], arguments[1:]
    if stage not in STAGES:
        raise MiclabError(f"{stage!r} is no stage: {nearest(stage, STAGES)}")
    profile = _early_option(rest, "--profile", "quick")
    if profile not in ("quick", "paper"):
        raise ConfigError("profile", profile, nearest(profile, ("quick", "paper")))
    stage_one = _early_option(rest, "--stage-one", "auto")
    root = _early_option(rest, "--runs", "runs")
    kind = "unimodal" if stage == "unimodal" else "early_fusion" if stage_one == "none" else "multimodal"
    config, request = profiles.run_config(kind, profile), profiles.request(kind, profile)
    parent = None
    path = _early_option(rest, "--config", "")
    if kind == "multimodal" and stage_one != "auto":
        # The file may say what the secondary modality must be to suit the parent, so it is read before and after.
        if path:
            config, request = _from_yaml(path, config, request)
        config, parent = _grown_from(config, stage_one, root)
    if path:
        config, request = _from_yaml(path, config, request)
    options = parse(TrainOptions, f"train {stage}", rest, TrainOptions(profile=profile, run=config, request=request))
    config = options.run
    if kind == "unimodal" and len(config.modalities) > 1:
        raise ConfigError("modalities", list(config.modalities), "one, for `miclab train unimodal`")
    if kind == "multimodal" and parent is None:
        first = profiles.request("unimodal", profile)
        first = replace(first, **{n: getattr(options.request, n) for n in ("sequences", "novel_sets")})
        before = profiles.first_stage(config, profile)
        run, outcome = _execute(before, first, root, "stage 1")
        if outcome.status != "finished":
            return _report(run, outcome, options.json)
        config = replace(config, parent=ParentConfig(run=run.hash, step=first.steps))
    run, outcome = _execute(config, options.request, root, "stage 2" if kind == "multimodal" else kind)
    return _report(run, outcome, options.json)


def _grown_from(config: RunConfig, reference: str, root: str) -> tuple[RunConfig, ParentConfig]:
    """The configuration with decoder, host, numerics and seed of the stage-1 run RUN[@STEP]."""
    from miclab.runs import find

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
    return grown, parent


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Go on with a run from its last checkpoint; with more steps, a finished run is extended."""

    run: tyro.conf.Positional[str]
    """RUN: path, name or start of a hash."""
    runs: str = "runs"
    """Directory of runs."""
    steps: int = 0
    """Steps in all; 0: as many as were asked for before."""
    json: bool = False
    """Print the outcome as JSON."""


def run_resume(arguments: list[str]) -> int:
    """`miclab resume RUN [--steps N]`."""
    from miclab.runs import find
    from miclab.train import train

    options = parse(ResumeOptions, "resume", arguments)
    run = find(options.run, options.runs)
    asked = run.request or {}
    stage = run.config.stage
    request = from_mapping(Request, asked) if asked else profiles.request(stage, "quick")  # type: ignore[arg-type]
    if options.steps:
        # More steps are an order to go on, also for a run that stopped at a plateau.
        request = replace(request, steps=options.steps, plateau_rows=0)
    with bar("resume", request.steps, max(run.step, 0)) as tell:
        outcome = train(run, request, lambda p: tell(p.step, p.text))
    warn(run)
    return _report(run, outcome, options.json)
