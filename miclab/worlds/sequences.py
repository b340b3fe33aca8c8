"""Labelled examples and a query, drawn as one typed batch: a pure function of (world, configuration, generator).

One exemplar of two modalities, and the sequence that the decoder reads (N = 3 shown; leader m2, order m1 m2):

    class k2 of m2 -> label = k2 mod L2 -> class k1 of m1 among those with the same label
    exemplar:   x   = item of k1 (m1)     x'  = item of k2 (m2)     l = embedding of the label
    sequence:   x1 x'1 l1   x2 x'2 l2   x3 x'3 l3   xq x'q   -> target: label of the query

Bursty: N/B pairs of classes, each copied B times, shuffled; the query's class is one of theirs. Every copy gets fresh
noise. Not bursty: context and query are independent draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.worlds.draws import Generator, draw_bits, shuffles, stream_of, uniform, uniform_double, whole_numbers
from miclab.worlds.noise import Bits, items_around, noise_scales, normal
from miclab.worlds.roles import Roles, sequence_roles
from miclab.worlds.world import ClassTable, World, novel_world

DRAWN_TOGETHER = 8
"""Batches that `raw_training_batches` draws at a time; their content does not depend on it."""


@dataclass(frozen=True)
class Batch:
    """Sequences with their roles; index N of an exemplar axis is the query.

    Arguments:
        items: of each modality.
        label_vectors: embeddings of the context's labels, in the host's space.
        labels: the context's labels.
        target: label of the query.
        classes: class of each item, by modality; of the world that the sequences were drawn from.
        placement: start of the sequence in the slots of an absolute position code, as a fraction in [0, 1).
        roles: what each position is.
        token_noise: what is added to every token; None outside training, and where there is none.
    """

    items: Mapping[str, Float[Tensor, "batch exemplar dimension"]]
    label_vectors: Float[Tensor, "batch context width"]
    labels: Int[Tensor, "batch context"]
    target: Int[Tensor, " batch"]
    classes: Mapping[str, Int[Tensor, "batch exemplar"]]
    placement: Float[Tensor, " batch"]
    roles: Roles
    token_noise: Float[Tensor, "batch position width"] | None = None

    def __len__(self) -> int:
        return len(self.target)

    def rows(self, part: slice | Int[Tensor, " some"]) -> Batch:
        """Some of the sequences: a slice, or their numbers."""
        return Batch(
            {k: v[part] for k, v in self.items.items()},
            self.label_vectors[part],
            self.labels[part],
            self.target[part],
            {k: v[part] for k, v in self.classes.items()},
            self.placement[part],
            self.roles,
            None if self.token_noise is None else self.token_noise[part],
        )

    def chunks(self, size: int) -> Iterator[Batch]:
        """The sequences in pieces of at most `size`."""
        return (self.rows(slice(start, start + size)) for start in range(0, len(self), size))


@dataclass(frozen=True)
class RawBatch:
    """A batch before noise is added. It holds the random bits, so that the compiled step does the arithmetic.

    Arguments:
        centres: prototype of each item's class, or the exemplar that stands for it, by modality.
        bits: what `miclab.worlds.noise.normal` makes each item's noise of, by modality; lacking where exemplars get no
        noise.
        scales: `miclab.worlds.noise.noise_scales` of each modality in `bits`.
        token_bits: those of the noise on tokens; None where there is none.
        token_scale: standard deviation of that noise.

    The others are those of `Batch`.
    """

    centres: Mapping[str, Float[Tensor, "batch exemplar dimension"]]
    bits: Mapping[str, Bits]
    scales: Mapping[str, Float[Tensor, " 2"]]
    label_vectors: Float[Tensor, "batch context width"]
    labels: Int[Tensor, "batch context"]
    target: Int[Tensor, " batch"]
    classes: Mapping[str, Int[Tensor, "batch exemplar"]]
    placement: Float[Tensor, " batch"]
    roles: Roles
    token_bits: Int[Tensor, "batch position 2 half"] | None = None
    token_scale: Float[Tensor, ""] | None = None

    def batch(self) -> Batch:
        """The batch: a function of the tensors alone, which a training step may compile."""
        items = {
            name: items_around(c, self.bits[name], self.scales[name]) if name in self.bits else c
            for name, c in self.centres.items()
        }
        noise = None
        if self.token_bits is not None and self.token_scale is not None:
            # Bits come in pairs: at an odd width the last number is dropped.
            noise = normal(self.token_bits, 2 * self.token_bits.shape[-1]) * self.token_scale
        parts = (self.label_vectors, self.labels, self.target, self.classes, self.placement, self.roles)
        return Batch(items, *parts, noise)

    def to(self, device: str) -> RawBatch:
        """The same batch on a device."""

        def moved(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: part.to(device) for name, part in value.items()}
            return value.to(device) if isinstance(value, Tensor) else value

        return RawBatch(*(moved(getattr(self, f.name)) for f in fields(RawBatch)))

    def where(self, mask: Bool[Tensor, " batch"], other: RawBatch) -> RawBatch:
        """This batch's sequences where `mask` holds, the other's elsewhere."""

        def pick(one: Any, two: Any) -> Any:
            if isinstance(one, Tensor):
                return torch.where(mask.view(-1, *[1] * (one.dim() - 1)), one, two)
            if one is None or isinstance(one, Roles) or one is self.scales:
                return one
            return {name: pick(value, two[name]) for name, value in one.items()}

        return RawBatch(*(pick(getattr(self, f.name), getattr(other, f.name)) for f in fields(RawBatch)))


@dataclass(frozen=True)
class ClassPlan:
    """Classes of every modality and labels, for the N context exemplars and the query."""

    classes: dict[str, Int[Tensor, "batch exemplar"]]
    labels: Int[Tensor, "batch exemplar"]

    def where(self, mask: Bool[Tensor, " batch"], other: ClassPlan) -> ClassPlan:
        """This plan's sequences where `mask` holds, the other's elsewhere."""
        pick = mask[:, None]
        classes = {k: torch.where(pick, v, other.classes[k]) for k, v in self.classes.items()}
        return ClassPlan(classes, torch.where(pick, self.labels, other.labels))

    def take(self, index: Int[Tensor, "batch place"]) -> ClassPlan:
        """Exemplars of each sequence by their index."""
        return ClassPlan({k: v.gather(1, index) for k, v in self.classes.items()}, self.labels.gather(1, index))


def _joint_label(config: RunConfig, world: World, classes: Mapping[str, Tensor]) -> Tensor:
    """label = group1 * G2 + group2, and so on for more modalities (section 2, joint-label variant)."""
    label = torch.zeros_like(next(iter(classes.values())))
    for name, groups in zip(config.order, config.sequence.groups, strict=True):
        label = label * groups + world.tables[name].label_of[classes[name]]
    return label


def _follow(config: RunConfig, world: World, leading: Tensor, generator: Generator, paired: bool) -> ClassPlan:
    """Classes of all modalities for classes of the leader. Followers have the same label or, if `paired`, the same
    concept."""
    labels = world.tables[config.leader].label_of[leading]
    classes = {}
    for name in config.order:
        table = world.tables[name]
        if name == config.leader:
            classes[name] = leading
        elif paired and name in world.partners:
            classes[name] = world.partners[name][leading]
        elif paired:
            classes[name] = table.draw_with_label(labels, generator)
        else:
            classes[name] = table.draw(tuple(labels.shape), generator)
    return ClassPlan(classes, labels)


def _exemplars(config: RunConfig, world: World, shape: tuple[int, int], generator: Generator, paired: bool):
    """Independent exemplars by the class frequencies."""
    if config.sequence.task == "joint_label":
        classes = {name: world.tables[name].draw(shape, generator) for name in config.order}
        return ClassPlan(classes, _joint_label(config, world, classes))
    return _follow(config, world, world.tables[config.leader].draw(shape, generator), generator, paired)


def _uniform(world: World) -> World:
    """The same world with equally frequent classes."""
    tables = {name: ClassTable(t.label_of, torch.ones(len(t.label_of))) for name, t in world.tables.items()}
    return replace(world, tables=tables)


def _exemplars_of_distinct_labels(config: RunConfig, world: World, shape: tuple[int, int], generator: Generator):
    """Exemplars with distinct labels within a sequence. Labels are drawn by their mass without replacement (the Gumbel
    top-k trick), then a class of each label."""
    if config.sequence.distinct_labels == "released":
        world = _uniform(world)
    joint = config.sequence.task == "joint_label"
    if joint:
        mass = torch.ones(1, dtype=torch.double)
        for name in config.order:
            mass = (mass[:, None] * world.tables[name].label_mass).flatten()
    else:
        mass = world.tables[config.leader].label_mass
    level = uniform_double((shape[0], len(mass)), generator)
    scores = mass.log() - (-level.log()).log()
    labels = scores.topk(shape[1], dim=1).indices
    if not joint:
        leading = world.tables[config.leader].draw_with_label(labels, generator)
        return _follow(config, world, leading, generator, paired=True)
    classes, rest = {}, labels
    for name, groups in reversed(list(zip(config.order, config.sequence.groups, strict=True))):
        classes[name] = world.tables[name].draw_with_label(rest % groups, generator)
        rest = rest // groups
    return ClassPlan(classes, labels)


def plan_bursty(config: RunConfig, world: World, count: int, generator: Generator) -> ClassPlan:
    """Bursty sequences: N/B exemplars' classes, each B times, shuffled; the query's is one of them."""
    context, copies = config.sequence.context, config.sequence.burstiness
    shape = (count, context // copies)
    if config.sequence.distinct_labels == "off":
        drawn = _exemplars(config, world, shape, generator, paired=True)
    else:
        drawn = _exemplars_of_distinct_labels(config, world, shape, generator)
    shuffle = shuffles(count, context, generator)
    queries = whole_numbers(0, context, (count, 1), generator)
    return drawn.take(torch.cat([shuffle, shuffle.gather(1, queries)], 1) // copies)


def plan_independent(config: RunConfig, world: World, count: int, generator: Generator) -> ClassPlan:
    """Sequences that are not bursty: every exemplar and the query independent."""
    paired = not config.sequence.unpaired_independent
    return _exemplars(config, world, (count, config.sequence.context + 1), generator, paired)


def plan_training(config: RunConfig, world: World, count: int, generator: Generator) -> ClassPlan:
    """Bursty and independent sequences in the proportion p_B; in the task `classification` single items."""
    if config.is_classification:
        return _exemplars(config, world, (count, 1), generator, paired=True)
    fraction = config.sequence.bursty_fraction
    if fraction >= 1:
        return plan_bursty(config, world, count, generator)
    if fraction <= 0:
        return plan_independent(config, world, count, generator)
    mask = uniform((count,), generator) < fraction
    bursty = plan_bursty(config, world, count, generator)
    return bursty.where(mask, plan_independent(config, world, count, generator))


def swap_labels(config: RunConfig, plan: ClassPlan) -> ClassPlan:
    """Every label, the target's too, shifted by one (mod the labels of the task): the `swapped` split."""
    return replace(plan, labels=(plan.labels + config.sequence.swapped_shift) % config.active_labels)


def config_roles(config: RunConfig) -> Roles:
    """The roles of a configuration's sequences."""
    context = 0 if config.is_classification else config.sequence.context
    return sequence_roles(config.order, context, int(config.sequence.first_token != "none"))


def raw_batch(config: RunConfig, world: World, plan: ClassPlan, generator: Generator) -> RawBatch:
    """A raw batch of sequences with a plan's classes. It holds everything random."""
    shown = 0 if config.is_classification else -1
    labels, target = plan.labels[:, :shown], plan.labels[:, -1]
    width = world.label_embeddings.shape[1]
    centres = {name: world.sources[name].centres(plan.classes[name], generator) for name in config.order}
    noisy = {n: c for n, c in centres.items() if config.modalities[n].noise or not config.modalities[n].source}
    bits = {name: draw_bits(tuple(c.shape[:2]), c.shape[2], generator) for name, c in noisy.items()}
    vectors = world.label_embeddings.index_select(0, labels.flatten()).view(*labels.shape, width)
    placement = uniform((len(target),), generator)
    roles = config_roles(config)
    scales = {name: noise_scales(config.modalities[name].noise, c.shape[2]) for name, c in noisy.items()}
    return RawBatch(centres, bits, scales, vectors, labels, target, plan.classes, placement, roles)


def realise(config: RunConfig, world: World, plan: ClassPlan, generator: Generator) -> Batch:
    """Fresh items for a plan's classes."""
    return raw_batch(config, world, plan, generator).batch()


def raw_training_batch(config: RunConfig, world: World, step: int) -> RawBatch:
    """The raw batch of a training step: a pure function of (config, config.sequences_seed, step)."""
    generator, count = stream_of(config, config.sequences_seed, "batch", step), config.optimiser.batch_size
    drawn = raw_batch(config, world, plan_training(config, world, count, generator), generator)
    if config.sequence.novel_fraction > 0:
        mask = uniform((count,), generator) < config.sequence.novel_fraction
        fresh = novel_world(config, world, "training", step)
        drawn = raw_batch(config, fresh, plan_training(config, fresh, count, generator), generator).where(mask, drawn)
    return _with_token_noise(config, drawn, step) if config.sequence.token_noise else drawn


def _with_token_noise(config: RunConfig, drawn: RawBatch, step: int) -> RawBatch:
    """A raw batch with noise on its tokens, from a separate stream. Everything else is as without it."""
    width = config.decoder.residual_width(config.item_width)
    generator = stream_of(config, config.sequences_seed, "token_noise", step)
    bits = draw_bits((len(drawn.target), config.sequence_length), width, generator)
    return replace(drawn, token_bits=bits, token_scale=torch.tensor(config.sequence.token_noise / math.sqrt(width)))


def raw_training_batches(config: RunConfig, world: World, first: int, end: int) -> Iterator[RawBatch]:
    """The raw batches of steps `first` to `end` - 1, drawn several at a time. A draw between two steps takes two to
    three times as long, since its code and tables have left the processor's cache."""
    for start in range(first, end, DRAWN_TOGETHER):
        yield from [raw_training_batch(config, world, step) for step in range(start, min(start + DRAWN_TOGETHER, end))]


def training_batch(config: RunConfig, world: World, step: int) -> Batch:
    """The batch of a training step: a pure function of (config, config.sequences_seed, step)."""
    return raw_training_batch(config, world, step).batch()
