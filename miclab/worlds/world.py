"""The world: classes of every modality, their frequencies, their labels, and the label embeddings.

A modality's items come from a source. `GaussianSource` is the paper's (arXiv 2601.20796, section 2). Its prototypes are
mu_k ~ Normal(0, I/D). An item of class k is (mu_k + eps eta) / sqrt(1 + eps^2) with eta ~ Normal(0, I/D).
`miclab.worlds.exemplars.ExemplarSource` takes them from real data, whose classes are assigned to the labels in the
order of choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from miclab.config import memory
from miclab.config.run import RunConfig
from miclab.errors import RunError
from miclab.seeds import stream
from miclab.worlds.class_pairs import (
    check_novel_partners,
    class_partners,
    correlated_modalities,
    prototype_map,
    with_partners,
)
from miclab.worlds.draws import Generator, draw_bits, normal_vectors, stream_of, uniform_double
from miclab.worlds.exemplars import (
    ExemplarSource,
    check_kept,
    chosen_classes,
    known_exemplars,
    novel_classes,
    novel_source,
    partners,
    training_centre,
    training_source,
)
from miclab.worlds.mixtures import mixture_names, with_mixtures
from miclab.worlds.noise import items_around, noise_scales


@dataclass(frozen=True)
class GaussianSource:
    """Items of a modality around one prototype per class.

    Arguments:
        prototypes: class means, each of norm about 1.
        noise: within-class noise epsilon, relative to the norm of a prototype.
    """

    prototypes: Float[Tensor, "classes dimension"]
    noise: float

    def centres(
        self, classes: Int[Tensor, "*shape"], generator: Generator | None = None
    ) -> Float[Tensor, "*shape dimension"]:
        """The prototype of each entry of `classes`. The generator is not used."""
        # index_select is several times as fast as indexing with a matrix.
        return self.prototypes.index_select(0, classes.flatten()).view(*classes.shape, -1)

    def draw(self, classes: Int[Tensor, "*shape"], generator: Generator) -> Float[Tensor, "*shape dimension"]:
        """One fresh item for each entry of `classes`."""
        bits = draw_bits(tuple(classes.shape), self.prototypes.shape[1], generator)
        return items_around(self.centres(classes), bits, noise_scales(self.noise, self.prototypes.shape[1]))


class ClassTable:
    """Classes of one modality grouped by label, with their frequencies: draws by inverse distribution function.

    Arguments:
        label_of: label of each class.
        weights: frequency of each class, up to a factor.
    """

    def __init__(self, label_of: Int[Tensor, " classes"], weights: Float[Tensor, " classes"]):
        self.label_of = label_of
        self.by_label = torch.argsort(label_of, stable=True)
        mass = weights.double()[self.by_label]
        self.cumulative = torch.cumsum(mass / mass.sum(), 0)
        labels = int(label_of.max()) + 1
        counts = torch.bincount(label_of, minlength=labels)
        self.ends = torch.cumsum(counts, 0)
        edges = torch.cat([torch.zeros(1, dtype=torch.double), self.cumulative])
        self.low, self.high = edges[self.ends - counts], edges[self.ends]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> ClassTable:
        """The table with these attributes, which may be padded beyond its classes."""
        table = cls.__new__(cls)
        vars(table).update(tensors)
        return table

    @property
    def label_mass(self) -> Float[Tensor, " labels"]:
        """Frequency of each label."""
        return self.high - self.low

    def _classes_at(self, levels: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        place = torch.searchsorted(self.cumulative, levels, right=True)
        return self.by_label[torch.minimum(place, self.ends[-1] - 1)]

    def draw(self, shape: tuple[int, ...], generator: Generator) -> Int[Tensor, "*shape"]:
        """Classes by their frequencies."""
        return self._classes_at(uniform_double(shape, generator))

    def draw_with_label(self, labels: Int[Tensor, "*shape"], generator: Generator) -> Int[Tensor, "*shape"]:
        """For each label a class that carries it, by the classes' frequencies."""
        levels = uniform_double(tuple(labels.shape), generator)
        low, high = self.low[labels], self.high[labels]
        drawn = torch.searchsorted(self.cumulative, low + levels * (high - low), right=True)
        # Rounding at a label's edge must not hand out a neighbour's class.
        first = torch.where(labels > 0, self.ends[(labels - 1).clamp(min=0)], torch.zeros_like(labels))
        return self.by_label[torch.minimum(torch.maximum(drawn, first), self.ends[labels] - 1)]


def zipf_weights(classes: int, exponent: float) -> Float[Tensor, " classes"]:
    """Class frequencies p(k) ~ k^-exponent for k = 1..classes, not normalised."""
    return torch.arange(1, classes + 1, dtype=torch.double).pow(-exponent)


NOVEL_CONCEPTS = 32
"""Classes in a set of novel classes of real data. Eight sets make up the 256 held-out concepts."""


def novel_class_count(config: RunConfig, name: str) -> int:
    """Classes of modality `name` in one set of novel classes.

    The paper's rule: 128 for the host; max(L, floor(128 K / K_host / L) L) for any other modality. With a source: 32
    classes, rounded down to a multiple of L, or L if that is more.
    """
    modality, host = config.modalities[name], config.modalities[config.host_name]
    if modality.novel_classes:
        return modality.novel_classes
    if config.is_classification:
        return NOVEL_CONCEPTS
    labels = _labels_of(config, name)
    if modality.source:
        return max(labels, NOVEL_CONCEPTS // labels * labels)
    wanted = 128 if name == config.host_name else 128 * modality.classes // host.classes
    return max(labels, wanted // labels * labels)


def _labels_of(config: RunConfig, name: str) -> int:
    """Labels (or groups, in the joint-label task) that the classes of `name` are dealt over."""
    if config.sequence.task == "joint_label":
        return config.sequence.groups[config.order.index(name)]
    return config.modalities[name].labels


@dataclass(frozen=True)
class World:
    """Sources, class tables and label embeddings.

    Arguments:
        sources: where each modality's items come from.
        tables: labels (groups, in the joint-label task) and frequencies of each modality's classes.
        label_embeddings: one vector per label, in the space of the host.
        partners: where exemplars are paired by concept or class, for each follower its class for every class of the
            leader.
        maps: P of each modality whose prototypes are correlated with the host's (see `miclab.worlds.class_pairs`).
    """

    sources: Mapping[str, GaussianSource | ExemplarSource]
    tables: Mapping[str, ClassTable]
    label_embeddings: Float[Tensor, "labels width"]
    partners: Mapping[str, Int[Tensor, " classes"]] = field(default_factory=dict)
    maps: Mapping[str, Float[Tensor, "host_dimension dimension"]] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that restore this world. Of real data these are the classes, their labels, features in place of
        items, and the subtracted centre. The items themselves are in the data set."""
        found = {f"prototype_map.{name}": value for name, value in self.maps.items()}
        for name, source in self.sources.items():
            if isinstance(source, GaussianSource):
                found[f"prototypes.{name}"] = source.prototypes
                continue
            found |= {f"classes.{name}": source.classes, f"labels.{name}": self.tables[name].label_of}
            if source.exemplars.features is not None:
                found[f"features.{name}"] = source.exemplars.features
            if source.exemplars.centre is not None:
                found[f"centre.{name}"] = source.exemplars.centre
        return {**found, "label_embeddings": self.label_embeddings}

    def evaluated(self) -> World:
        """The same classes as evaluations see them: real data with queries that training never sees."""
        found = {n: s.evaluated() if isinstance(s, ExemplarSource) else s for n, s in self.sources.items()}
        return replace(self, sources=found)


def world_from_tensors(config: RunConfig, tensors: Mapping[str, Tensor]) -> World:
    """The world of `config` made of kept tensors.

    Raises:
        RunError: a tensor is missing or has another shape than `config` says.
    """
    sources: dict[str, Any] = {}
    tables: dict[str, ClassTable] = {}
    wanted: dict[str, tuple[int, ...]] = {"label_embeddings": (config.label_count, config.item_width)}
    for name, m in config.modalities.items():
        if not m.source:
            wanted[f"prototypes.{name}"] = (m.classes, m.dimension)
            if m.prototype_correlation:
                wanted[f"prototype_map.{name}"] = (config.item_width, m.dimension)
            continue
        wanted |= {f"classes.{name}": (m.classes,), f"labels.{name}": (m.classes + m.blends,)}
        if config.keeps_features(name):
            wanted[f"features.{name}"] = (len(known_exemplars(m).data.items), m.features)
        if m.centre != "off":
            wanted[f"centre.{name}"] = (m.dimension,)
    for name, shape in wanted.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            raise RunError(f"The world's tensor {name} should have shape {shape}, but it has {found}.")
    for name, modality in config.modalities.items():
        if modality.source:
            features = tensors[f"features.{name}"] if config.keeps_features(name) else None
            centre = tensors[f"centre.{name}"] if modality.centre != "off" else None
            source = training_source(modality, tensors[f"classes.{name}"], features, centre)
            sources[name] = with_mixtures(source, modality.blends)
            label_of = tensors[f"labels.{name}"]
        else:
            sources[name] = GaussianSource(tensors[f"prototypes.{name}"], modality.noise)
            label_of = torch.arange(modality.classes) % _labels_of(config, name)
        tables[name] = ClassTable(label_of, zipf_weights(len(label_of), modality.zipf_exponent))
    maps = {name: tensors[f"prototype_map.{name}"] for name in correlated_modalities(config)}
    return World(sources, tables, tensors["label_embeddings"], _partners(config, sources), maps)


def _partners(config: RunConfig, sources: Mapping[str, Any]) -> dict[str, Tensor]:
    if config.sequence.pairing == "class":
        return class_partners(config, {name: len(source.prototypes) for name, source in sources.items()})
    return partners(config, sources) if config.sequence.pairing == "concept" else {}


def _dealt(config: RunConfig, name: str, classes: Tensor, host: Mapping[str, int]) -> Tensor:
    """Labels of a source's classes, assigned in turn. Where exemplars are paired by concept, they are the host's labels
    of the same concepts."""
    names = _class_names(config, name, classes)
    labels = torch.arange(len(names)) % _labels_of(config, name)
    if host:
        labels = torch.tensor([host.get(n, int(label)) for n, label in zip(names, labels, strict=True)])
    return labels


def _class_names(config: RunConfig, name: str, classes: Tensor) -> tuple[str, ...]:
    """Names of a source's classes and their mixtures, without regard to case."""
    modality = config.modalities[name]
    known = known_exemplars(modality).data.class_names
    return mixture_names(tuple(known[i].casefold() for i in classes.tolist()), modality.blends)


def _draw_source(
    config: RunConfig, name: str, kept: Mapping[str, Tensor], host: Mapping[str, int]
) -> dict[str, Tensor]:
    """Classes and labels of a modality with a source; those of the parent stay."""
    if f"classes.{name}" in kept:
        classes, labels = kept[f"classes.{name}"], kept[f"labels.{name}"]
        check_kept(config, name, classes)
    else:
        classes = chosen_classes(config, name)
        labels = _dealt(config, name, classes, host)
    found = {f"classes.{name}": classes, f"labels.{name}": labels}
    if f"features.{name}" in kept:
        found[f"features.{name}"] = kept[f"features.{name}"]
    if config.modalities[name].centre != "off":
        # Of the parent where it has one: the same bits on every machine.
        centre = kept.get(f"centre.{name}")
        found[f"centre.{name}"] = training_centre(config.modalities[name], classes) if centre is None else centre
    return found


def draw_world(config: RunConfig, kept: Mapping[str, Tensor] | None = None) -> World:
    """The world of `config`.

    Arguments:
        config: names the seed and the modalities; of sources their content (see `miclab.worlds.exemplars.resolved`).
        kept: tensors of the parent's world, and features of real items whose encoder is not trained (`features.NAME`).
            They are used as they are, and only the rest is drawn.

    Raises:
        TooLargeError: it needs more memory than the machine has.
    """
    memory.check_world(config)
    kept = kept or {}
    tensors: dict[str, Tensor] = {}
    host: dict[str, int] = {}
    # The host first: where exemplars are paired by concept, all modalities use its labels. Correlated prototypes are
    # made of its own.
    for name in sorted(config.modalities, key=lambda name: name != config.host_name):
        m = config.modalities[name]
        if not m.source:
            tensors[f"prototypes.{name}"] = normal_vectors(
                (m.classes, m.dimension), stream(config.world_seed, "world", "prototypes", name)
            )
            if m.prototype_correlation:
                # Of the parent where it has them.
                key, of = f"prototype_map.{name}", f"prototypes.{config.host_name}"
                tensors[key] = kept[key] if key in kept else prototype_map(config, name)
                own, theirs = tensors[f"prototypes.{name}"], kept[of] if of in kept else tensors[of]
                tensors[f"prototypes.{name}"] = with_partners(config, name, own, theirs, tensors[key])
            continue
        tensors |= _draw_source(config, name, kept, host)
        if name == config.host_name and config.sequence.pairing == "concept":
            names = _class_names(config, name, tensors[f"classes.{name}"])
            host = dict(zip(names, tensors[f"labels.{name}"].tolist(), strict=True))
    shape = (config.label_count, config.item_width)
    tensors["label_embeddings"] = normal_vectors(shape, stream(config.world_seed, "world", "labels"))
    return world_from_tensors(config, tensors | {k: v for k, v in kept.items() if k in tensors})


def novel_world(config: RunConfig, world: World, *name: str | int) -> World:
    """A set of novel classes: fresh prototypes or held-out classes of real data, uniform frequencies, the same label
    embeddings.

    Arguments:
        name: name of the random stream, for example ("evaluation", 3) for the fourth set; its last part is the number
            of the set.
    """
    sources: dict[str, Any] = {}
    tables = {}
    counts = {modality: novel_class_count(config, modality) for modality in world.sources}
    if config.sequence.pairing == "class":
        check_novel_partners(config, counts)
    # The host first, as in `draw_world`.
    for modality in sorted(world.sources, key=lambda modality: modality != config.host_name):
        source, count = world.sources[modality], counts[modality]
        if isinstance(source, ExemplarSource):
            labels = _labels_of(config, modality)
            least = 2 if config.is_classification else labels
            classes = novel_classes(config, modality, count, int(name[-1]), least)
            sources[modality] = novel_source(source, classes)
            tables[modality] = ClassTable(torch.arange(len(classes)) % labels, torch.ones(len(classes)))
            continue
        shape = (count, source.prototypes.shape[1])
        seed = config.sequences_seed if name[0] == "training" else config.seed
        prototypes = normal_vectors(shape, stream_of(config, seed, "novel", *name, modality))
        if modality in world.maps:
            host = sources[config.host_name].prototypes
            prototypes = with_partners(config, modality, prototypes, host, world.maps[modality])
        sources[modality] = replace(source, prototypes=prototypes)
        label_of = torch.arange(count) % _labels_of(config, modality)
        tables[modality] = ClassTable(label_of, torch.ones(count))
    return World(sources, tables, world.label_embeddings, _partners(config, sources), world.maps)
