"""Real data as a modality's source: which classes a run has, which exemplars a sequence shows, and what is held out.

In training a sequence shows training exemplars of training classes. In evaluations on training classes the context
shows the same and the query is a held-out exemplar; on `icl` all are exemplars of held-out classes. The query's
exemplar is never in its own context. No exemplar is there twice while its class has others; a class with one exemplar
in that part repeats it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from miclab.config.parts import ModalityConfig
from miclab.config.run import RunConfig
from miclab.data import load
from miclab.data.items import CHUNK, Exemplars
from miclab.errors import ConfigError, RunError
from miclab.worlds.class_index import ClassIndex, distinct_slots, index_exemplars
from miclab.worlds.draws import Generator, draw_bits, whole_numbers
from miclab.worlds.noise import items_around, noise_scales


@functools.lru_cache(maxsize=8)
def exemplars_of(name: str) -> Exemplars:
    """The items of a data set, read once in a process.

    Raises:
        DataError: it cannot be read, or an item is constant over the training part.
    """
    return Exemplars(load(name))


def known_exemplars(modality: ModalityConfig) -> Exemplars:
    """The items of a modality's source.

    Raises:
        RunError: the data of that name are not those that the configuration was made with.
    """
    found = exemplars_of(modality.source)
    if modality.content and found.data.content != modality.content:
        raise RunError(
            f"{modality.source} holds other data (SHA-256 {found.data.content[:12]}) than this run was made with "
            f"({modality.content[:12]}). Restore them, or train a new run."
        )
    return found


# -- which classes ------------------------------------------------------------------------------------------------
def ordered(names: Sequence[str], seed: int, purpose: str) -> list[int]:
    """Indices of names, sorted by a random key per name that depends on seed and purpose. So a concept has the same
    rank in every modality, and the first K classes are among the first K + 1."""

    def key(index: int) -> str:
        return hashlib.sha256(f"{seed}/{purpose}/{names[index].casefold()}".encode()).hexdigest()

    return sorted(range(len(names)), key=key)


def held_out_names(config: RunConfig) -> frozenset[str]:
    """Names, case ignored, of the classes that any modality's source holds out. All modalities hold them out."""
    names: set[str] = set()
    for modality in config.modalities.values():
        if modality.source:
            data = known_exemplars(modality).data
            marked = data.held_out_classes.nonzero()[:, 0].tolist()
            names |= {data.class_names[index].casefold() for index in marked}
    return frozenset(names)


def chosen_classes(config: RunConfig, name: str) -> Int[Tensor, " classes"]:
    """Training classes of a modality, as indices into its data set.

    Raises:
        ConfigError: other modalities hold out so many that too few are left.
    """
    modality = config.modalities[name]
    data, held_out = known_exemplars(modality).data, held_out_names(config)
    usable = set(data.classes("training").tolist())
    order = ordered(data.class_names, config.world_seed, "training classes")
    left = [i for i in order if i in usable and data.class_names[i].casefold() not in held_out]
    if len(left) < modality.classes:
        raise ConfigError(f"modalities.{name}.classes", modality.classes, f"at most {len(left)}: others are held out")
    return torch.tensor(left[: modality.classes])


def check_kept(config: RunConfig, name: str, classes: Int[Tensor, " classes"]) -> None:
    """Raises RunError where classes that a parent was trained on are held out in a modality that was added."""
    names, held_out = known_exemplars(config.modalities[name]).data.class_names, held_out_names(config)
    seen = [names[i] for i in classes.tolist() if names[i].casefold() in held_out]
    if seen:
        raise RunError(
            f"The parent was trained on {len(seen)} classes of {name} that another modality holds out, such as "
            f"{seen[0]!r}. Train it with data that hold out the same classes."
        )


def novel_classes(config: RunConfig, name: str, count: int, index: int, least: int) -> Int[Tensor, " classes"]:
    """Held-out classes of set number `index`: `count` of them, at most all. The sets take their classes in turn from
    one order, so that they are disjoint while there are enough.

    Raises:
        ConfigError: fewer classes are held out than `least`, or than the configuration requests.
    """
    modality = config.modalities[name]
    data, held_out = known_exemplars(modality).data, held_out_names(config)
    if config.sequence.pairing == "concept":
        for other in config.modalities.values():
            held_out &= frozenset(n.casefold() for n in known_exemplars(other).data.class_names)
    order = ordered(data.class_names, config.seed, "novel classes")
    left = [i for i in order if data.class_names[i].casefold() in held_out]
    if len(left) < modality.novel_classes:
        raise ConfigError(f"modalities.{name}.novel_classes", modality.novel_classes, f"at most {len(left)}")
    if len(left) < least:
        allowed = f"at most {len(left)}: each label needs one of the classes that {modality.source} holds out"
        raise ConfigError(f"modalities.{name}.labels", least, allowed)
    count = min(count, len(left))
    return torch.tensor([left[(index * count + place) % len(left)] for place in range(count)])


# -- which exemplars ----------------------------------------------------------------------------------------------
def shifted(pictures: Float[Tensor, "*shape channel height width"], by: int, generator: Generator) -> Tensor:
    """Pictures shifted by at most this many pixels along both axes, independently. Edges are repeated."""
    flat = pictures.flatten(0, -4)
    count, _, height, width = flat.shape
    moves = whole_numbers(-by, by + 1, (2, count, 1), generator)
    rows = (torch.arange(height) + moves[0]).clamp(0, height - 1)
    columns = (torch.arange(width) + moves[1]).clamp(0, width - 1)
    # Adjacent indexed axes come first: [count, height, width, channel].
    moved = flat.movedim(1, -1)[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.movedim(-1, 1).reshape(pictures.shape)


@dataclass(frozen=True, eq=False)
class ExemplarSource:
    """Items of a modality that are exemplars of a data set.

    Arguments:
        exemplars: all items of the data set.
        classes: the run's classes, as indices into the data set.
        shown: exemplars that may stand in a context.
        queries: exemplars that may be the query.
        noise: as in `GaussianSource`.
        shape: of a picture, where it may be shifted.
        shift: by how many pixels at most.
    """

    exemplars: Exemplars
    classes: Int[Tensor, " classes"]
    shown: ClassIndex
    queries: ClassIndex
    noise: float
    shape: tuple[int, ...] = ()
    shift: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.exemplars.data.class_names[i] for i in self.classes.tolist())

    @cached_property
    def prototypes(self) -> Float[Tensor, "classes dimension"]:
        """Mean item of each class's exemplars in the context's part."""
        owner = torch.arange(len(self.classes)).repeat_interleave(self.shown.counts)
        total: Tensor | None = None
        for places, owners in zip(self.shown.members.split(CHUNK), owner.split(CHUNK), strict=True):
            items = self.exemplars.vectors(places)
            total = torch.zeros(len(self.classes), items.shape[1]) if total is None else total
            total.index_add_(0, owners, items)
        assert total is not None
        return total / self.shown.counts[:, None]

    def sequence_exemplars(
        self, classes: Int[Tensor, "batch exemplar"], generator: Generator
    ) -> Int[Tensor, "batch exemplar"]:
        """An exemplar for every place of sequences, the query's last."""
        if self.queries is self.shown:
            # The query comes first, so that no repeat can meet it.
            turned = classes.roll(1, 1)
            return self.shown.at(turned, distinct_slots(turned, self.shown.counts[turned], generator)).roll(-1, 1)
        context, query = classes[:, :-1], classes[:, -1:]
        queries = self.queries.draw(query, generator)
        if not context.shape[1]:
            return queries
        slots = distinct_slots(context, self.shown.counts[context], generator)
        return torch.cat([self.shown.at(context, slots), queries], 1)

    def centres(
        self, classes: Int[Tensor, "batch exemplar"], generator: Generator
    ) -> Float[Tensor, "batch exemplar dimension"]:
        """An item for every place of sequences, without noise."""
        items = self.exemplars.vectors(self.sequence_exemplars(classes, generator))
        if not self.shift:
            return items
        return shifted(items.unflatten(-1, self.shape), self.shift, generator).flatten(-3)

    def draw(self, classes: Int[Tensor, "*shape"], generator: Generator) -> Float[Tensor, "*shape dimension"]:
        """An item of the context's part for each entry of `classes`, with noise."""
        items = self.exemplars.vectors(self.shown.draw(classes, generator))
        if not self.noise:
            return items
        bits = draw_bits(tuple(classes.shape), items.shape[-1], generator)
        return items_around(items, bits, noise_scales(self.noise, items.shape[-1]))

    def evaluated(self) -> ExemplarSource:
        """The same classes with held-out exemplars as queries (a class without any keeps its others), not shifted."""
        data = self.exemplars.data
        held_out = data.held_out_exemplars
        has_some = torch.bincount(data.class_of[held_out], minlength=len(data.class_names)) > 0
        wanted = held_out | ~has_some[data.class_of]
        return replace(self, queries=index_exemplars(data, self.classes, wanted), shift=0)


def training_centre(modality: ModalityConfig, classes: Int[Tensor, " classes"]) -> Float[Tensor, " dimension"]:
    """The mean item of a run's training classes, without their held-out exemplars."""
    known = known_exemplars(modality)
    return known.mean(index_exemplars(known.data, classes, ~known.data.held_out_exemplars).members)


def training_source(
    modality: ModalityConfig,
    classes: Int[Tensor, " classes"],
    features: Tensor | None = None,
    centre: Float[Tensor, " dimension"] | None = None,
) -> ExemplarSource:
    """The source of a modality's training classes, seen in training.

    Arguments:
        features: used in place of its items; None: the items.
        centre: what is subtracted from items (see `miclab.data.items`); None: nothing.
    """
    known = known_exemplars(modality)
    found = index_exemplars(known.data, classes, ~known.data.held_out_exemplars)
    exemplars = known if features is None and centre is None else Exemplars(known.data, features, centre)
    return ExemplarSource(exemplars, classes, found, found, modality.noise, modality.shape, modality.shift)


def novel_source(source: ExemplarSource, classes: Int[Tensor, " classes"]) -> ExemplarSource:
    """A source of other classes of the same data, with all their exemplars."""
    data = source.exemplars.data
    found = index_exemplars(data, classes, torch.ones(len(data.items), dtype=torch.bool))
    return ExemplarSource(source.exemplars, classes, found, found, source.noise, source.shape)


def partners(config: RunConfig, sources: Mapping[str, ExemplarSource]) -> dict[str, Int[Tensor, " classes"]]:
    """For every modality but the leader, the class of the same name as each class of the leader.

    Raises:
        ConfigError: a class of the leader has no counterpart.
    """
    leading, found = sources[config.leader].names, {}
    for name, source in sources.items():
        if name == config.leader:
            continue
        place = {n.casefold(): i for i, n in enumerate(source.names)}
        lacking = [n for n in leading if n.casefold() not in place]
        if lacking:
            allowed = f"so many that every concept of {config.leader} is among them; {lacking[0]!r} is not"
            raise ConfigError(f"modalities.{name}.classes", len(source.names), allowed)
        found[name] = torch.tensor([place[n.casefold()] for n in leading])
    return found
