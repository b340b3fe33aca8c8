"""Checks of how the classes of several modalities are paired in an exemplar, and of correlated prototypes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miclab.errors import ConfigError

if TYPE_CHECKING:
    from miclab.config.run import RunConfig


def check_pairing(config: RunConfig) -> None:
    """Raises ConfigError for a pairing that the modalities do not allow, or for a correlation without pairs."""
    if config.sequence.pairing == "concept":
        _check_concepts(config)
    if config.sequence.pairing == "class":
        _check_classes(config)
    for name, modality in config.modalities.items():
        if modality.prototype_correlation:
            _check_correlation(config, name)


def _check_concepts(config: RunConfig) -> None:
    for name, modality in config.modalities.items():
        if not modality.source:
            raise ConfigError("sequence.pairing", "concept", f"'label' or 'class', or a source for {name}")
    counts = {name: modality.labels for name, modality in config.modalities.items()}
    if len(set(counts.values())) > 1 or config.sequence.task != "shared_label":
        allowed = f"'label', or the same number of labels everywhere ({counts}) and the task 'shared_label'"
        raise ConfigError("sequence.pairing", "concept", allowed)


def _check_classes(config: RunConfig) -> None:
    if len(config.modalities) < 2:
        raise ConfigError("sequence.pairing", "class", "'label' with one modality: there is nothing to pair")
    if config.sequence.task != "shared_label":
        raise ConfigError("sequence.pairing", "class", "'label', or the task 'shared_label'")
    for name, modality in config.modalities.items():
        if modality.source:
            raise ConfigError("sequence.pairing", "class", f"'label' or 'concept': {name} has a source")
    for name in config.modalities:
        _check_enough(config, config.leader, name)


def _check_enough(config: RunConfig, name: str, other: str) -> None:
    """Raises ConfigError unless every class of `name` has a partner in `other`."""
    mine, partner = config.modalities[name], config.modalities[other]
    if mine.labels > partner.labels:
        allowed = f"at most modalities.{other}.labels = {partner.labels} where classes are paired"
        raise ConfigError(f"modalities.{name}.labels", mine.labels, allowed)
    ranks = partner.classes // partner.labels
    if mine.classes // mine.labels > ranks:
        allowed = f"at most {ranks * mine.labels}: each class needs a class of {other} with the same label to itself"
        raise ConfigError(f"modalities.{name}.classes", mine.classes, allowed)


def _check_correlation(config: RunConfig, name: str) -> None:
    modality, host = config.modalities[name], config.host_name
    field, value = f"modalities.{name}.prototype_correlation", modality.prototype_correlation
    if name == host:
        why = "no other modality" if len(config.modalities) < 2 else f"{name} is the primary one"
        raise ConfigError(field, value, f"0: {why}. A secondary modality beside a primary one can have it")
    if config.modalities[host].source:
        raise ConfigError(
            field, value, f"0 with modalities.{host}.source: {host} has no prototypes of a Gaussian mixture"
        )
    if config.sequence.pairing != "class":
        raise ConfigError(field, value, "0, or sequence.pairing = 'class', so that an exemplar shows a pair")
    if modality.encoder_run or modality.encoder_step:
        allowed = (
            f"0 with a pretrained encoder: it is trained on {name} alone, whose prototypes then lack their partners"
        )
        raise ConfigError(field, value, allowed)
    _check_enough(config, name, host)
