"""Mixtures: further classes made of pairs of real ones, so that a run has more classes than its data.

An item of a mixture of classes i and j is (a + b) / sqrt(2). Here a is an exemplar of i and b one of j. It has the
scale of both if they are unrelated. Real data have few classes, which a decoder learns by heart. Mixtures are as fixed
as those and have their own labels. Their number can be chosen. Held-out classes and exemplars are in no mixture.

    classes 0 .. K-1         the data's own
    K + t                    t mod K with the class that lies 1 + t div K places after it
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from miclab.worlds.draws import Generator, draw_bits
from miclab.worlds.exemplars import ExemplarSource
from miclab.worlds.noise import items_around, noise_scales


def mixture_pairs(classes: int, mixtures: int) -> Int[Tensor, "mixtures 2"]:
    """The two classes of each mixture. No two mixtures have the same pair, and all classes are used equally often.

    Arguments:
        classes: the data's own, K.
        mixtures: at most K times (K - 1) / 2, rounded down.
    """
    place = torch.arange(mixtures)
    first = place % classes
    return torch.stack([first, (first + 1 + place // classes) % classes], 1)


def mixture_names(names: tuple[str, ...], mixtures: int) -> tuple[str, ...]:
    """Names of classes and of their mixtures."""
    return names + tuple(f"{names[i]} + {names[j]}" for i, j in mixture_pairs(len(names), mixtures).tolist())


@dataclass(frozen=True, eq=False)
class MixtureSource(ExemplarSource):
    """Items of real classes and of mixtures of two.

    Arguments:
        mixtures: how many there are beyond the classes.
    """

    mixtures: int = 0

    def without_mixtures(self) -> ExemplarSource:
        """The data's own classes alone."""
        return ExemplarSource(**{f.name: getattr(self, f.name) for f in fields(ExemplarSource)})

    @cached_property
    def parents(self) -> Int[Tensor, "classes 2"]:
        """The two classes of each class: of the data's own twice itself."""
        own = torch.arange(len(self.classes))
        return torch.cat([torch.stack([own, own], 1), mixture_pairs(len(own), self.mixtures)])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, those of mixtures `one + other`."""
        return mixture_names(super().names, self.mixtures)

    @cached_property
    def prototypes(self) -> Float[Tensor, "classes dimension"]:
        """Mean item of each class; of a mixture, the mixture of both means."""
        own = self.without_mixtures().prototypes
        return self.mix(torch.arange(len(self.parents)), own[self.parents[:, 0]], own[self.parents[:, 1]])

    def mix(
        self,
        classes: Int[Tensor, "*shape"],
        one: Float[Tensor, "*shape dimension"],
        other: Float[Tensor, "*shape dimension"],
    ) -> Float[Tensor, "*shape dimension"]:
        """Items of `classes` from one of each parent: of the data's own classes `one` as it is."""
        pure = (classes < len(self.classes))[..., None]
        return torch.where(pure, one, (one + other) / math.sqrt(2))

    def centres(
        self, classes: Int[Tensor, "batch exemplar"], generator: Generator
    ) -> Float[Tensor, "batch exemplar dimension"]:
        """An item for every place of sequences, without noise."""
        one, other = (super(MixtureSource, self).centres(p, generator) for p in self.parents[classes].unbind(-1))
        return self.mix(classes, one, other)

    def draw(self, classes: Int[Tensor, "*shape"], generator: Generator) -> Float[Tensor, "*shape dimension"]:
        """An item of the context's part for each entry of `classes`, with noise."""
        one, other = (self.exemplars.vectors(self.shown.draw(p, generator)) for p in self.parents[classes].unbind(-1))
        items = self.mix(classes, one, other)
        if not self.noise:
            return items
        bits = draw_bits(tuple(classes.shape), items.shape[-1], generator)
        return items_around(items, bits, noise_scales(self.noise, items.shape[-1]))


def with_mixtures(source: ExemplarSource, mixtures: int) -> ExemplarSource:
    """A source with this many additional mixtures of its classes."""
    own = {f.name: getattr(source, f.name) for f in fields(ExemplarSource)}
    return MixtureSource(**own, mixtures=mixtures) if mixtures else source
