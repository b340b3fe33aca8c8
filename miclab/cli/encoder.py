"""`miclab train encoder`, and encoders that `miclab train multimodal` takes up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from miclab.cli.options import Directory, File, LabelOptions
from miclab.config import presets
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, nearest

TAKEN = ("source", "content", "shape", "dimension", "encoder", "features")
"""Fields of a modality that its encoder's run decides."""


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(LabelOptions):
    """Pretrain the encoder of a modality as a classifier of its classes. Every field of the configuration is an option;
    `nearest` in its rows is the accuracy of the nearest exemplar among 8 novel classes, on its features."""

    profile: presets.Profile = "quick"
    """How long by default: 2,000 steps (`quick`), 50,000 (`paper`)."""
    config: File = ""
    """YAML file with fields of the configuration, and of the request under `request:`. Options override it."""
    runs: Directory = "runs"
    """Directory of runs."""
    json: bool = False
    """Print the outcome as JSON."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    request: Request = field(default_factory=Request)


def encoder_options(profile: presets.Profile) -> EncoderOptions:
    """The options' defaults in a profile."""
    return EncoderOptions(profile=profile, run=presets.lone_encoder_config(), request=presets.encoder_request(profile))


def with_encoders(config: RunConfig, references: str, root: str) -> RunConfig:
    """A configuration whose modalities have pretrained encoders.

    Arguments:
        references: [NAME=]RUN[@STEP], several separated by commas; NAME is the modality, by default the last one.
        root: directory of runs.

    Raises:
        ConfigError: there is no such modality, or a run pretrains no encoder.
        RunError: there is no such run.
    """
    from miclab.runs.find import find

    modalities = dict(config.modalities)
    for reference in references.split(","):
        name, equals, told = reference.partition("=")
        name, told = (name, told) if equals else (tuple(modalities)[-1], name)
        if name not in modalities:
            raise ConfigError("encoder", reference, f"[NAME=]RUN[@STEP] with {nearest(name, tuple(modalities))}")
        told, _, step = told.partition("@")
        run = find(told, root)
        if not run.config.is_classification or (step and not step.isdigit()):
            raise ConfigError("encoder", reference, "[NAME=]RUN[@STEP], a run of `miclab train encoder`")
        own = next(iter(run.config.modalities.values()))
        taken = {part: getattr(own, part) for part in TAKEN}
        if not own.source:
            taken["classes"] = own.classes
        step = int(step) if step else run.step
        modalities[name] = replace(modalities[name], **taken, encoder_run=run.hash, encoder_step=step)
    return replace(config, modalities=modalities)
