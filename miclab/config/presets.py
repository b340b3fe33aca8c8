"""Two presets of every training: `quick` (AdamW, minutes) and `paper` (the paper's optimiser and steps)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from miclab.config.decoder import DecoderConfig
from miclab.config.parts import (
    BridgeConfig,
    ModalityConfig,
    OptimiserConfig,
    ParentConfig,
    SequenceConfig,
)
from miclab.config.request import Request
from miclab.config.run import RunConfig, one_modality, two_modalities
from miclab.config.seeds import FOLLOWS, SeedsConfig

Profile = Literal["quick", "paper"]
Stage = Literal["unimodal", "multimodal", "early_fusion", "continued"]
"""Stages of a study; stage 3 is `multimodal` with encoders. `continued`: stage 1 goes on from a checkpoint with the
optimiser and length of stage 2, on further sequences of one modality. Such a run is the sibling of a stage-2 run."""
GROWN: tuple[Stage, ...] = ("multimodal", "continued")
"""Stages that start from a stage-1 run."""

QUICK_OPTIMISER = OptimiserConfig(name="adamw", learning_rate=2e-3, warmup_steps=200)
"""With the warm-up, twice 1e-3 is stable and the circuit forms in half the steps (docs/guide/train.md)."""
ENCODER_OPTIMISER = OptimiserConfig(name="adam", learning_rate=1e-3)
"""The optimiser of encoders, in either preset (arXiv 2601.20796, section 3)."""
ENCODER_STEPS = {"quick": 2000, "paper": 50_000}
"""Steps of their pretraining."""
FURTHER = 1_000_000_007
"""Seed of a sibling's training sequences, so that it does not see those of stage 1 again."""
QUICK_DECODER = DecoderConfig(output_projection="on")
"""With the projection after attention AdamW needs a half to a third of the steps (docs/guide/train.md)."""


def run_config(stage: Stage, profile: Profile) -> RunConfig:
    """The default configuration of a stage; options and YAML files change it."""
    is_alone = stage in ("unimodal", "continued")
    config = RunConfig(modalities=one_modality() if is_alone else two_modalities())
    if stage == "continued":
        config = replace(config, seeds=SeedsConfig(sequences=FURTHER))
    if profile == "quick":
        # A decoder that already reads its context forgets less at half the rate.
        optimiser = (
            replace(QUICK_OPTIMISER, learning_rate=1e-3) if stage in ("multimodal", "continued") else QUICK_OPTIMISER
        )
        config = replace(config, optimiser=optimiser, decoder=QUICK_DECODER)
    return config


def request(stage: Stage, profile: Profile) -> Request:
    """The default request of a stage: its length and what is recorded."""
    if profile == "paper":
        steps = {"multimodal": 80_000, "continued": 80_000}.get(stage, 300_000)
        return Request(steps=steps)
    steps = {"multimodal": 1500, "continued": 1500}.get(stage, 5000)
    return Request(steps=steps, evaluate_every=250, checkpoint_every=500, sequences=100)


def encoder_config(config: RunConfig, name: str) -> RunConfig:
    """The run that pretrains the encoder of a modality as a classifier of its classes. Real items have no noise there,
    since a run that keeps features adds noise to the features. The modality's name is the same in every role. The mode
    is never compiled, since each number of classes would need another compilation: it is eager, or lanes as in the
    run."""
    modality = replace(
        config.modalities[name],
        labels=config.modalities[name].classes,
        zipf_exponent=0.0,
        novel_classes=0,
        blends=0,
        shift=0,
        encoder_run="",
        encoder_step=0,
    )
    if modality.source:
        name, modality = REAL, replace(modality, noise=0.0)
    return RunConfig(
        modalities={name: modality},
        sequence=SequenceConfig(task="classification"),
        optimiser=ENCODER_OPTIMISER,
        numerics=config.numerics if config.numerics.lanes else replace(config.numerics, mode="eager"),
        seed=config.seed,
    )


def lone_encoder_config() -> RunConfig:
    """The default of `miclab train encoder`: M2 with 512 dimensions."""
    modality = ModalityConfig(classes=256, dimension=512, labels=2, encoder="mlp")
    return encoder_config(RunConfig(modalities=one_modality() | {"m2": modality}), "m2")


def encoder_request(profile: Profile) -> Request:
    """The default request of an encoder: its length and what is recorded."""
    steps = ENCODER_STEPS[profile]
    return Request(steps=steps, evaluate_every=steps // 4, checkpoint_every=steps // 4, sequences=100)


REAL = "items"
"""Name of the modality in the run of an encoder of real data."""


def stage_one_config(config: RunConfig) -> RunConfig:
    """The stage-1 run that a multimodal configuration starts from: its host alone, with the same decoder and
    optimiser."""
    host = config.host_name
    # The sequences of a sibling are its own.
    seeds = replace(config.seeds, sequences=FOLLOWS) if len(config.modalities) == 1 else config.seeds
    sequence = replace(
        config.sequence,
        order=(),
        leader="",
        task="shared_label",
        groups=(),
        swapped_shift=1,
        unpaired_independent=False,
        pairing="label",
    )
    return replace(
        config,
        modalities={host: config.modalities[host]},
        host="",
        sequence=sequence,
        bridge=BridgeConfig(),
        parent=ParentConfig(),
        frozen=(),
        seeds=seeds,
    )


def first_stage(config: RunConfig, profile: Profile) -> RunConfig:
    """`stage_one_config`, with the preset's optimiser of stage 1 where `config` has the preset's of stage 2."""
    before = stage_one_config(config)
    if config.optimiser == run_config("multimodal", profile).optimiser:
        before = replace(before, optimiser=run_config("unimodal", profile).optimiser)
    return before
