"""Values of the configuration that a modality's source fixes: content, shape, dimension, number of classes.

For the data that come with miclab, `sources.json` holds this, so that studies are planned and claims judged without
reading any data. Training checks that the data are these (`miclab.worlds.exemplars.known_exemplars`).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path

from miclab import storage
from miclab.config.extensions import check_fingerprints, fingerprints_of, loaded
from miclab.config.parts import ModalityConfig
from miclab.config.run import RunConfig

FACTS = Path(__file__).parents[1] / "data" / "files" / "sources.json"


@dataclass(frozen=True)
class Facts:
    """What a source decides.

    Arguments:
        content: SHA-256 of its data.
        shape: of one item.
        classes: number of its training classes.
    """

    content: str
    shape: tuple[int, ...]
    classes: int


@functools.cache
def _written() -> dict[str, Facts]:
    """The facts of the shipped data. Raises DamagedError where the file is not the one that was made."""
    found = storage.read_sealed(FACTS, "Install miclab again, or restore the file from the repository.")
    return {name: Facts(one["content"], tuple(one["shape"]), one["classes"]) for name, one in found.items()}


def read_facts(name: str) -> Facts:
    """The facts of a data set, from its data.

    Raises:
        DataError: it cannot be had.
    """
    from miclab.worlds.exemplars import exemplars_of

    data = exemplars_of(name).data
    return Facts(data.content, data.item_shape, len(data.classes("training")))


def resolved_modality(modality: ModalityConfig) -> ModalityConfig:
    """The modality with the values that its source fixes. A content hash that it already has stays, and is checked in
    training."""
    if not modality.source:
        return modality
    facts = _written().get(modality.source) or read_facts(modality.source)
    found = replace(
        modality,
        content=modality.content or facts.content,
        shape=facts.shape,
        dimension=math.prod(facts.shape),
        classes=min(modality.classes, facts.classes),
    )
    return modality if found == modality else found


def resolved(config: RunConfig) -> RunConfig:
    """The configuration with what the sources of its modalities decide.

    Raises:
        DataError: a source cannot be had.
        ConfigError: the values that its data fix contradict the rest.
    """
    found = {name: resolved_modality(modality) for name, modality in config.modalities.items()}
    if config.is_classification:
        # Every class is a label of its own.
        found = {name: replace(modality, labels=modality.classes) for name, modality in found.items()}
    config = config if found == dict(config.modalities) else replace(config, modalities=found)
    return with_fingerprints(config)


def with_fingerprints(config: RunConfig) -> RunConfig:
    """The configuration with the fingerprints of the plugins that it uses.

    Raises:
        ConfigError: it already names plugins that are not loaded, or whose content differs.
    """
    fingerprints = plugin_fingerprints(config)
    if config.plugins == fingerprints:
        return config
    if config.plugins:
        check_fingerprints(config.plugins)
    return replace(config, plugins=fingerprints)


def plugin_fingerprints(config: RunConfig) -> tuple[str, ...]:
    """The fingerprints of the plugins that a configuration uses (see `miclab.config.extensions`)."""
    if not loaded():
        return ()
    # Plans of studies without plugins are made without torch.
    from miclab.data.registry import SOURCES

    sources = [(SOURCES, m.source.partition(":")[0]) for m in config.modalities.values() if m.source]
    return fingerprints_of([*config.uses(), *sources])
