"""Options of `miclab train encoder`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from miclab.cli.options import Directory, File, LabelOptions
from miclab.config import presets
from miclab.config.request import Request
from miclab.config.run import RunConfig


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
    """The options' defaults in a preset."""
    return EncoderOptions(profile=profile, run=presets.lone_encoder_config(), request=presets.encoder_request(profile))
