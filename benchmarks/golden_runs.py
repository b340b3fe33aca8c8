"""Small runs that together use every part of the model, the data and the training: what the goldens are made of.

Field names are those of a configuration file, so nothing here depends on where a module lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

M1 = {"classes": 64, "dimension": 16, "labels": 8}
M2 = {"classes": 32, "dimension": 8, "labels": 4}
M3 = {"classes": 16, "dimension": 6, "labels": 4}
WORDS = {"source": "small:concepts.words", "labels": 8, "noise": 0.3}
PICTURES = {"source": "small:concepts.pictures", "labels": 4, "noise": 0.3}
ONE, TWO = {"m1": M1}, {"m1": M1, "m2": M2}
STEPS = 20
BASE: dict[str, Any] = {
    "decoder": {"initial_std": 0.1, "output_projection": "auto"},
    "optimiser": {"name": "adamw", "learning_rate": 0.01, "warmup_steps": 0, "batch_size": 16},
    "numerics": {"mode": "eager"},
    "request": {"steps": STEPS, "evaluate_every": 10, "checkpoint_every": 10, "sequences": 20, "novel_sets": 2},
}
"""What every run starts from. The weights are large, so that every part of the model counts."""


@dataclass(frozen=True)
class Training:
    """One call of `miclab train`.

    Arguments:
        role: name of the run within its golden.
        stage: `unimodal`, `multimodal` or `encoder`.
        fields: what the configuration file holds.
        options: further options; `{ROLE}` becomes the directory of that earlier run.
    """

    role: str
    stage: str
    fields: Mapping[str, Any]
    options: tuple[str, ...] = ()


def _fields(modalities: Mapping[str, Any], **parts: Any) -> dict[str, Any]:
    """`BASE` with these parts laid over it, one level deep."""
    fields = {**BASE, "modalities": modalities}
    for name, part in parts.items():
        fields[name] = {**fields.get(name, {}), **part} if isinstance(part, dict) else part
    return fields


def _one(m1: Mapping[str, Any] | None = None, **parts: Any) -> tuple[Training, ...]:
    """Stage 1."""
    return (Training("run", "unimodal", _fields({"m1": {**M1, **(m1 or {})}}, **parts)),)


def _two(modalities: Mapping[str, Any] = TWO, **parts: Any) -> tuple[Training, ...]:
    """Stage 2 after a stage 1 that the command trains itself."""
    options = ("--stage-one-steps", str(STEPS))
    return (Training("run", "multimodal", _fields(modalities, **parts), options),)


def _fusion(modalities: Mapping[str, Any] = TWO, **parts: Any) -> tuple[Training, ...]:
    """Early fusion."""
    return (Training("run", "multimodal", _fields(modalities, **parts), ("--stage-one", "none")),)


def _encoder(role: str, modality: Mapping[str, Any]) -> Training:
    """Pretraining of an encoder, of the modality `m2` that the command starts from."""
    optimiser = {"name": "adam", "learning_rate": 1e-3, "batch_size": 16}
    fields = {"modalities": {"m2": modality}, "optimiser": optimiser, "request": BASE["request"]}
    return Training(role, "encoder", fields)


def _real(pairing: str, kind: str, labels: int) -> tuple[Training, ...]:
    """Words and pictures, with pretrained encoders that are kept as they are: stage 3 on real data."""
    words, pictures = {**WORDS, "encoder": "mlp", "features": 16}, {**PICTURES, "encoder": kind, "features": 16}
    modalities = {"m1": {**words, "classes": 48}, "m2": {**pictures, "classes": 48, "labels": labels}}
    last = Training(
        "run",
        "multimodal",
        _fields(modalities, sequence={"pairing": pairing}, frozen=["encoder.m2"]),
        ("--stage-one-steps", str(STEPS), "--encoder", "m1={words},m2={pictures}"),
    )
    return (
        _encoder("words", {**words, "classes": 48, "noise": 0.0}),
        _encoder("pictures", {**pictures, "classes": 48, "noise": 0.0}),
        last,
    )


def _after_encoder(kind: str, **parts: Any) -> tuple[Training, ...]:
    """Stage 3 on Gaussian classes: an encoder is pretrained, then joined to a stage-1 decoder, and trained on."""
    own = {"classes": 32, "dimension": 140, "labels": 4, "encoder": kind, "features": 8}
    options = ("--stage-one-steps", str(STEPS), "--encoder", "m2={encoder}")
    return (
        _encoder("encoder", own),
        Training("run", "multimodal", _fields({"m1": M1, "m2": own}, **parts), options),
    )


_COSINE = {"schedule": "cosine", "warmup_steps": 5, "decay_steps": 18, "weight_decay": 0.1, "beta1": 0.8, "beta2": 0.9}
_JOINT = {"task": "joint_label", "groups": [4, 2], "swapped_shift": 2}
RUNS: dict[str, tuple[Training, ...]] = {
    "positions-none": _one(decoder={"positions": "none"}),
    "positions-onehot": _one(decoder={"positions": "onehot"}),
    "positions-learned-4-heads": _one(decoder={"positions": "learned", "heads": 4}),
    "positions-sinusoidal": _one(decoder={"positions": "sinusoidal", "position_slots": 40}),
    "positions-rope": _one(decoder={"positions": "rope"}),
    "positions-rope-4-heads": _one(decoder={"positions": "rope", "heads": 4, "rope_theta": 100.0}),
    "positions-rope-released": _one(decoder={"positions": "rope_released"}),
    "positions-alibi-4-heads": _one(decoder={"positions": "alibi", "heads": 4}),
    "positions-hybrid": _one(decoder={"positions": "hybrid"}),
    "norm-layernorm": _one(decoder={"norm": "layernorm"}),
    "norm-none-4-layers": _one(decoder={"norm": "none", "layers": 4, "initial_std": 0.05}),
    "mlp-swiglu-hidden-24": _one(decoder={"mlp": "swiglu", "mlp_hidden": 24}),
    "mlp-none": _one(decoder={"mlp": "none"}),
    "input-linear-width-24": _one(decoder={"input_map": "linear", "width": 24, "positions": "onehot"}),
    "width-padded-32": _one(decoder={"width": 32}),
    "projection-on-1-head": _one(decoder={"output_projection": "on"}),
    "projection-off-4-heads": _one(decoder={"output_projection": "off", "heads": 4}),
    "optimiser-sgd": _one(optimiser={"name": "sgd", "learning_rate": 0.5}),
    "optimiser-adam-cosine": _one(optimiser={"name": "adam", **_COSINE}),
    "optimiser-adamw-cosine": _one(optimiser={"name": "adamw", **_COSINE}),
    "bursty-0.5-novel-0.4": _one(sequence={"bursty_fraction": 0.5, "novel_fraction": 0.4}),
    "context-6-burstiness-1": _one(sequence={"context": 6, "burstiness": 1}, seed=3),
    "alpha-1-distinct-on": _one({"zipf_exponent": 1.0}, sequence={"distinct_labels": "on"}),
    "alpha-0.7-distinct-released": _one(
        {"zipf_exponent": 0.7, "noise": 0.5}, sequence={"distinct_labels": "released", "bursty_fraction": 0.7}
    ),
    "blends": _one({**WORDS, "classes": 48, "blends": 100}),
    "stage-2": _two(),
    "stage-2-frozen-order-large": _two(
        bridge={"projector": "large"},
        decoder={"heads": 4, "positions": "rope_released"},
        sequence={"order": ["m2", "m1"], "leader": "m1", "bursty_fraction": 0.5, "unpaired_independent": True},
        modalities={"m1": {**M1, "labels": 4}, "m2": {**M2, "zipf_exponent": 1.0}},
        frozen=["decoder.blocks.0", "decoder.readout"],
    ),
    "stage-2-three-modalities": _two(
        {"m1": M1, "m2": M2, "m3": M3}, sequence={"context": 4, "burstiness": 2, "distinct_labels": "on"}
    ),
    "stage-3-mlp-frozen": _after_encoder("mlp", frozen=["encoder.m2", "decoder"]),
    "stage-3-transformer": _after_encoder("transformer", decoder={"positions": "onehot"}),
    "stage-3-real-label-cnn": _real("label", "cnn", 4),
    "stage-3-real-concept-mlp": _real("concept", "mlp", 8),
    "early-fusion-linear": _fusion(
        bridge={"projector": "linear"}, host="m2", modalities={"m1": M1, "m2": {**M2, "labels": 8}}
    ),
    "early-fusion-cnn": _fusion({"m1": M1, "m2": {**M2, "dimension": 20, "encoder": "cnn", "features": 8}}),
    "early-fusion-vit-shift": _fusion(
        {"m1": M1, "m2": {"source": "small:glyphs", "labels": 4, "encoder": "vit", "features": 8, "shift": 2}},
        optimiser={"batch_size": 4},
        request={"sequences": 5},
    ),
    "joint-label": _fusion({"m1": M1, "m2": {**M2, "labels": 8}}, sequence=_JOINT),
    "joint-label-stage-2": _two({"m1": M1, "m2": {**M2, "labels": 8}}, sequence=_JOINT),
    "compiled-rope": _one(numerics={"mode": "compiled"}),
    "compiled-early-fusion": _fusion(
        numerics={"mode": "compiled"},
        decoder={"positions": "onehot", "heads": 3, "norm": "layernorm"},
        sequence={"novel_fraction": 0.3},
        optimiser={"name": "adam"},
        frozen=["decoder.blocks.1"],
    ),
}
"""Every golden by name: its trainings in order. The last one is the run that it is about."""
