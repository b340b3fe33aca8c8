"""Corruptions: the decorator, the argument of a corruption, and the check that it changes one thing alone.

A corruption makes sequences that differ from the clean ones in exactly one thing. Causal tracing runs the decoder on
both and puts activations of one run into the other (`miclab.circuits.patching`).

    @corruption("query_opposite", changes="query", words="the query's items are negated")
    def query_opposite(clean):
        return clean.with_query({name: -items[:, -1] for name, items in clean.batch.items.items()})

A user's file adds corruptions in the same way (docs/extend/corruption.md).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from miclab.config.corruptions import CORRUPTIONS
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, MiclabError
from miclab.worlds.sequences import Batch, ClassPlan, plan_independent, realise
from miclab.worlds.world import World

Changes = Literal["labels", "items", "query", "example", "order", "modality"]
CHANGES: dict[str, str] = {
    "labels": "labels of the context",
    "items": "the items of the context",
    "query": "the query's items",
    "example": "the items of one example of the context",
    "order": "the order of the examples",
    "modality": "the items of one modality",
}
"""The things that a corruption may change, in words."""
Items = Mapping[str, Float[Tensor, "batch dimension"]]
DRAWS = 4
"""Times that classes are drawn for each sequence, to find one that is not in it."""


@dataclass(frozen=True)
class Clean:
    """Sequences before they are corrupted, and sources for random draws.

    Arguments:
        config: of the run.
        world: the classes that the sequences were drawn from.
        batch: the sequences.
        generator: source of everything random.
    """

    config: RunConfig
    world: World
    batch: Batch
    generator: torch.Generator

    @property
    def right(self) -> Bool[Tensor, "batch context"]:
        """Examples that carry the query's label."""
        return self.batch.labels == self.batch.target[:, None]

    def one_of(self, mask: Bool[Tensor, "batch context"]) -> tuple[Int[Tensor, " batch"], Bool[Tensor, " batch"]]:
        """One example of each sequence, drawn from those in `mask`, and whether there is one."""
        drawn = torch.rand(mask.shape, generator=self.generator)
        return drawn.masked_fill(~mask, -1).argmax(1), mask.any(1)

    def classes_with(
        self, place: Int[Tensor, " batch"], classes: Mapping[str, Int[Tensor, " batch"]]
    ) -> dict[str, Int[Tensor, "batch exemplar"]]:
        """The classes of the sequences with one place of each replaced; the query's place is N."""
        return {
            name: old.scatter(1, place[:, None], classes[name][:, None]) for name, old in self.batch.classes.items()
        }

    def fresh_items(
        self, classes: Mapping[str, Int[Tensor, "batch exemplar"]]
    ) -> dict[str, Float[Tensor, "batch exemplar dimension"]]:
        """New items for every place of sequences with these classes, with new noise."""
        labels = torch.cat([self.batch.labels, self.batch.target[:, None]], 1)
        return dict(realise(self.config, self.world, ClassPlan(dict(classes), labels), self.generator).items)

    def outside(self) -> tuple[dict[str, Int[Tensor, " batch"]], Bool[Tensor, " batch"]]:
        """For each sequence, a class of every modality that is new to it and whose label is not in its context. The
        second value says whether such a class was found."""
        batch, config = self.batch, self.config
        config = replace(config, sequence=replace(config.sequence, unpaired_independent=False))
        plans = [plan_independent(config, self.world, len(batch), self.generator) for _ in range(DRAWS)]
        candidates = {name: torch.cat([plan.classes[name] for plan in plans], 1) for name in config.order}
        labels = torch.cat([plan.labels for plan in plans], 1)
        fits = (labels[:, :, None] != batch.labels[:, None]).all(-1)
        for name, drawn in candidates.items():
            fits &= (drawn[:, :, None] != batch.classes[name][:, None]).all(-1)
        first = fits.float().argmax(1, keepdim=True)
        return {name: drawn.gather(1, first).squeeze(1) for name, drawn in candidates.items()}, fits.any(1)

    # -- corrupted batches --------------------------------------------------------------------------------------
    def with_items(
        self,
        items: Mapping[str, Float[Tensor, "batch exemplar dimension"]],
        where: Bool[Tensor, "batch exemplar"],
        *,
        classes: Mapping[str, Int[Tensor, "batch exemplar"]] | None = None,
        target: Int[Tensor, " batch"] | None = None,
    ) -> Batch:
        """The sequences with other items at some places.

        Arguments:
            items: the new items, of any of the modalities.
            where: places that get them; N is the query's.
            classes: classes of the new items; None: they stay.
            target: the right answer after it, where a sequence has a new item; None: it stays.
        """
        batch = self.batch
        put = {n: torch.where(where[..., None], items[n], old) if n in items else old for n, old in batch.items.items()}
        kept = dict(batch.classes)
        for name in items if classes else ():
            kept[name] = torch.where(where, (classes or {})[name], kept[name])
        answer = batch.target if target is None else torch.where(where.any(1), target, batch.target)
        return replace(batch, items=put, classes=kept, target=answer)

    def at(self, place: Int[Tensor, " batch"], only: Bool[Tensor, " batch"]) -> Bool[Tensor, "batch exemplar"]:
        """One place of each sequence in `only`, as a mask; N is the query's."""
        every = torch.arange(self.config.sequence.context + 1)
        return (every == place[:, None]) & only[:, None]

    @property
    def query_place(self) -> Int[Tensor, " batch"]:
        """The query's place, N, for each sequence."""
        return torch.full_like(self.batch.target, self.config.sequence.context)

    def with_query(self, items: Items) -> Batch:
        """The sequences with other items of the query."""
        everywhere = torch.ones(len(self.batch), dtype=torch.bool)
        count = self.config.sequence.context + 1
        wide = {name: value[:, None].expand(-1, count, -1) for name, value in items.items()}
        return self.with_items(wide, self.at(self.query_place, everywhere))


@dataclass(frozen=True)
class Corruption:
    """A way to change one thing about sequences.

    Arguments:
        name: its name in options and tables.
        function: from `Clean` to the corrupted batch, and of one modality also the modality's name. A sequence that
            cannot be corrupted is given back as it is.
        changes: the one thing that it changes, a key of `CHANGES`.
        words: its effect, in one line.
        new_answer: whether every sequence that it changes gets another right answer, its new target.
    """

    name: str
    function: Callable[..., Batch]
    changes: Changes
    words: str
    new_answer: bool = False

    @property
    def __wrapped__(self) -> Callable[..., Batch]:
        """The function: its file is the file of the corruption."""
        return self.function

    @property
    def is_by_modality(self) -> bool:
        """Whether it needs a modality, NAME.MODALITY."""
        return "modality" in inspect.signature(self.function).parameters


def corruption(
    name: str, *, changes: Changes, words: str, new_answer: bool = False
) -> Callable[[Callable[..., Batch]], Callable[..., Batch]]:
    """A decorator that registers a function as a corruption and leaves it as it is; arguments: see `Corruption`.

    Raises:
        MiclabError: the name is taken, or `changes` is none of `CHANGES`.
    """
    if changes not in CHANGES:
        raise MiclabError(f"The corruption {name!r} changes {changes!r}: say one of {', '.join(CHANGES)}.")

    def add(function: Callable[..., Batch]) -> Callable[..., Batch]:
        CORRUPTIONS.register(name, function)(Corruption(name, function, changes, words, new_answer))
        return function

    return add


def find_corruption(name: str, config: RunConfig) -> tuple[Corruption, str]:
    """A corruption by its name, NAME or NAME.MODALITY, and the modality; empty where it has none.

    Raises:
        ConfigError: there is no such corruption, or the run has no such modality.
    """
    stem, _, modality = name.partition(".")
    found = CORRUPTIONS.find(stem)
    if found.is_by_modality and modality not in config.order:
        raise ConfigError(
            "corruption", name, f"one of {', '.join(f'{stem}.{one}' for one in config.order)} for this run"
        )
    if modality and not found.is_by_modality:
        raise ConfigError("corruption", name, f"{stem!r}, which is not of one modality")
    return found, modality


def corrupt(found: Corruption, clean: Clean, modality: str = "") -> tuple[Batch, Bool[Tensor, " batch"]]:
    """The corrupted sequences, and which of them differ from the clean ones.

    Raises:
        MiclabError: the corruption changes more than it declares.
    """
    made = found.function(clean, modality) if found.is_by_modality else found.function(clean)
    wrong = ~_only(found.changes, clean.batch, made, modality)
    if wrong.any():
        raise MiclabError(
            f"The corruption {found.name!r} says that it changes {CHANGES[found.changes]} alone."
            f" In {int(wrong.sum())} of {len(wrong)} sequences it changes something else."
        )
    labels, items = differences(clean.batch, made)
    changed = labels.any(1) | torch.stack([*items.values()]).any(0).any(1)
    if ((made.target != clean.batch.target) != (changed if found.new_answer else torch.zeros_like(changed))).any():
        promise = "gives every sequence that it changes a new answer" if found.new_answer else "leaves every answer"
        raise MiclabError(f"The corruption {found.name!r} says that it {promise}. Its targets are otherwise.")
    return made, changed


def differences(
    one: Batch, other: Batch
) -> tuple[Bool[Tensor, "batch context"], dict[str, Bool[Tensor, "batch exemplar"]]]:
    """Where two batches differ: in labels (or their vectors), and in the items of each modality."""
    labels = (one.labels != other.labels) | (one.label_vectors != other.label_vectors).any(-1)
    return labels, {name: (value != other.items[name]).any(-1) for name, value in one.items.items()}


def _only(changes: Changes, clean: Batch, made: Batch, modality: str) -> Bool[Tensor, " batch"]:
    """Whether each sequence differs from its clean one in nothing but what `changes` says."""
    labels, items = differences(clean, made)
    every = torch.stack([*items.values()])
    kept = ~labels.any(1) & (clean.placement == made.placement)
    if clean.token_noise is not None or made.token_noise is not None:
        kept &= clean.token_noise is made.token_noise
    if changes == "labels":
        return ~every.any(0).any(1) & (clean.placement == made.placement)
    if changes == "items":
        return kept & ~every[..., -1].any(0)
    if changes == "query":
        return kept & ~every[..., :-1].any(0).any(1)
    if changes == "example":
        return kept & ~every[..., -1].any(0) & (every.any(0).sum(1) <= 1)
    if changes == "modality":
        others = [value.any(1) for name, value in items.items() if name != modality]
        return kept & ~torch.stack([*others, torch.zeros_like(kept)]).any(0)
    return _is_reordered(clean, made) & ~every[..., -1].any(0) & (clean.placement == made.placement)


def _is_reordered(clean: Batch, made: Batch) -> Bool[Tensor, " batch"]:
    """Whether the examples are the same with their numbers: each occurs as often in both."""

    def alike(one: Batch, other: Batch) -> Bool[Tensor, "batch context context"]:
        found = one.labels[:, :, None] == other.labels[:, None]
        for name, value in one.items.items():
            found &= (value[:, :-1, None] == other.items[name][:, None, :-1]).all(-1)
        return found & (one.label_vectors[:, :, None] == other.label_vectors[:, None]).all(-1)

    return (alike(made, clean).sum(-1) == alike(made, made).sum(-1)).all(1)
