"""Axes of studies: short names of the fields of a configuration in which runs differ, with their words.

Every short name is checked against the configuration when this module is imported. A field that no configuration has is
an error wherever it is read, so a misspelt axis never merges all cells into one.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from miclab.config.options import ATTENTION, LOSS_TERMS, AttentionOptions, LossOptions, attention_options, loss_options
from miclab.config.run import RunConfig
from miclab.config.schema import to_mapping
from miclab.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A field of the configuration in which runs differ.

    Arguments:
        field: its dotted name.
        words: its name on axes of figures and in tables.
    """

    field: str
    words: str


AXES: dict[str, Axis] = {
    # Studies of one modality, which needs no number.
    "K": Axis(field="modalities.m1.classes", words="K, classes"),
    "eps": Axis(field="modalities.m1.noise", words="eps, noise within classes"),
    "alpha": Axis(field="modalities.m1.zipf_exponent", words="alpha, Zipf exponent"),
    # Data.
    "K1": Axis(field="modalities.m1.classes", words="K1, classes of M1"),
    "K2": Axis(field="modalities.m2.classes", words="K2, classes of M2"),
    "K3": Axis(field="modalities.m3.classes", words="K3, classes of M3"),
    "eps1": Axis(field="modalities.m1.noise", words="eps1, noise within classes of M1"),
    "eps2": Axis(field="modalities.m2.noise", words="eps2, noise within classes of M2"),
    "alpha1": Axis(field="modalities.m1.zipf_exponent", words="alpha1, Zipf exponent of M1"),
    "alpha2": Axis(field="modalities.m2.zipf_exponent", words="alpha2, Zipf exponent of M2"),
    "source1": Axis(field="modalities.m1.source", words="data set of M1"),
    "source2": Axis(field="modalities.m2.source", words="data set of M2"),
    "centre1": Axis(field="modalities.m1.centre", words="what is subtracted from items of M1"),
    "mixtures1": Axis(field="modalities.m1.blends", words="mixtures of classes of M1"),
    "mixtures2": Axis(field="modalities.m2.blends", words="mixtures of classes of M2"),
    "dimension2": Axis(field="modalities.m2.dimension", words="dimension of M2"),
    "rho": Axis(field="modalities.m2.prototype_correlation", words="rho, correlation of prototypes"),
    # Encoders.
    "encoder2": Axis(field="modalities.m2.encoder", words="encoder of M2"),
    "encoder_step2": Axis(field="modalities.m2.encoder_step", words="steps of pretraining of M2's encoder"),
    "encoder_step3": Axis(field="modalities.m3.encoder_step", words="steps of pretraining of M3's encoder"),
    "projector": Axis(field="bridge.projector", words="projector"),
    # Sequences.
    "B": Axis(field="sequence.burstiness", words="B, burstiness"),
    "N": Axis(field="sequence.context", words="N, examples in the context"),
    "order": Axis(field="sequence.order", words="order of the modalities"),
    "pairing": Axis(field="sequence.pairing", words="pairing"),
    "first": Axis(field="sequence.first_token", words="first token"),
    "token_noise": Axis(field="sequence.token_noise", words="noise on every token"),
    "jitter": Axis(field="sequence.jitter", words="jitter"),
    # The decoder.
    "layers": Axis(field="decoder.layers", words="layers"),
    "heads": Axis(field="decoder.heads", words="heads"),
    "width": Axis(field="decoder.width", words="width"),
    "hidden": Axis(field="decoder.mlp_hidden", words="hidden width of the MLP"),
    "mlp_bias": Axis(field="decoder.mlp_bias", words="biases of the MLP"),
    "code": Axis(field="decoder.positions", words="position code"),
    "placement": Axis(field="decoder.placement", words="placement"),
    "constant": Axis(field="decoder.token_constant", words="constant on tokens"),
    "constant_on": Axis(field="decoder.token_constant_on", words="tokens with the constant"),
    "bias": Axis(field="decoder.attention_bias", words="bias of attention"),
    "centre": Axis(field="decoder.centre_keys", words="centred keys"),
    # Training.
    "optimiser": Axis(field="optimiser.name", words="optimiser"),
    "stage1_steps": Axis(field="parent.step", words="steps of stage 1"),
    "frozen": Axis(field="frozen", words="frozen parts"),
}
"""The table of short names. Claims, figures and reports name axes by it, or by the dotted field itself."""

ALONE = ("K", "eps", "alpha")
"""Short names in studies of one modality."""
DOUBLING = ("classes", "burstiness", "context", "layers", "heads")
"""Last names of fields that are drawn on a scale of doublings."""


@functools.cache
def default_of(field: str) -> Any:
    """The default of a dotted field of the configuration as plain data. None for a field of a modality, and for an
    option of one attention mechanism or loss term. Without that modality, mechanism or term there is no default.

    Raises:
        ConfigError: there is no such field; the message names the nearest one.
    """
    kind: Any = RunConfig
    value: Any = None
    inside, names = False, field.split(".")
    for place, name in enumerate(names):
        if typing.get_origin(kind) is dict:
            kind, inside = typing.get_args(kind)[1], True
            continue
        if not dataclasses.is_dataclass(kind):
            raise ConfigError("axis", field, f"a field: {'.'.join(names[:place])} has no parts")
        known = {item.name: item for item in dataclasses.fields(kind)}
        if name not in known and name in _options(kind):
            return None
        if name not in known:
            same = [f"{short} ({one.field})" for short, one in AXES.items() if one.field.rpartition(".")[2] == field]
            if same:
                raise ConfigError("axis", field, f"the axis of that field: did you mean {' or '.join(same)}?")
            within = f"in {'.'.join(names[:place])}: " if place else ""
            raise ConfigError("axis", field, within + nearest(name, known if len(names) > 1 else {**known, **AXES}))
        item = known[name]
        made = item.default_factory is not dataclasses.MISSING
        value = item.default_factory() if made else item.default  # type: ignore[misc]
        kind = typing.get_type_hints(kind)[name]  # type: ignore[arg-type]
    if dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict:
        raise ConfigError("axis", field, f"one of its fields, not {field} as a whole")
    return None if inside else to_mapping(value)


def _options(kind: Any) -> set[str]:
    """The options that any mechanism or term adds to the common ones."""
    lookups = {AttentionOptions: (ATTENTION, attention_options), LossOptions: (LOSS_TERMS, loss_options)}
    names, options_of = lookups.get(kind, ((), attention_options))
    return {item.name for name in names for item in dataclasses.fields(options_of(name))}


def field_named(axis: str) -> str:
    """The dotted field of an axis: its own where `axis` is no short name.

    Raises:
        ConfigError: it is neither a short name nor a field; the message names the nearest one.
    """
    if axis in AXES:
        return AXES[axis].field
    default_of(axis)
    return axis


def field_of(config: Mapping[str, Any], axis: str) -> Any:
    """Value of an axis in a configuration as plain data, a list as a tuple.

    Arguments:
        config: a configuration, or part of one; a field that it lacks, since it came later, has its default.
        axis: a short name or a dotted field.

    Returns:
        The value; None for a field of a modality, mechanism or loss term that the configuration does not have.

    Raises:
        ConfigError: there is no such axis.
    """
    field = field_named(axis)
    value: Any = config
    names = field.split(".")
    for place, name in enumerate(names):
        if name not in value:
            value = _lacking(value, names, place)
            break
        value = value[name]
    return tuple(value) if isinstance(value, list) else value


def _lacking(found: Any, names: list[str], place: int) -> Any:
    if names[0] != "modalities" or place < 2:
        return default_of(".".join(names))
    # A field of a modality that is there.
    part: Any = _modality_defaults()
    for name in names[2:]:
        part = part[name]
    return part


@functools.cache
def _modality_defaults() -> dict[str, Any]:
    kind = typing.get_args(typing.get_type_hints(RunConfig)["modalities"])[1]
    return to_mapping(kind())


def distinguishing(candidates: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
    """The first fields that together distinguish as many configurations as all fields do.

    Arguments:
        candidates: for each field its value in every configuration.
    """
    kept: list[str] = []
    parts = 1
    for name, values in candidates.items():
        split = len(set(zip(*(candidates[k] for k in kept), values, strict=True)))
        if split > parts:
            kept.append(name)
            parts = split
    return tuple(kept)


def axis_name(axis: str, *, alone: bool = False) -> str:
    """The words for an axis.

    Arguments:
        axis: a short name or a field. A field that is no axis is named as it is.
        alone: the study has one modality, which needs no number.
    """
    if axis in AXES:
        return AXES[axis].words
    named = [short for short, one in AXES.items() if one.field == axis and (alone or short not in ALONE)]
    return AXES[named[0]].words if named else axis


for _axis in AXES.values():
    default_of(_axis.field)
