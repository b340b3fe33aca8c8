"""Exemplars by class, and draws without repetition as long as a class has other exemplars.

members  a0 a1 a2 | b0 b1 | c0 c1 c2 c3     class after class
starts   0          3       5               place of each class's first
counts   3          2       4
at(class c, slot 1) = members[5 + 1] = c1
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from miclab.data import DataError, DataSet
from miclab.worlds.draws import Generator, uniform_double


@dataclass(frozen=True, eq=False)
class ClassIndex:
    """Exemplars by class.

    Arguments:
        members: exemplars, class after class.
        starts, counts: index of each class's first exemplar, and the number of its exemplars.
    """

    members: Int[Tensor, " exemplar"]
    starts: Int[Tensor, " classes"]
    counts: Int[Tensor, " classes"]

    def at(self, classes: Int[Tensor, "*shape"], slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Exemplars by class and place within it."""
        return self.members[self.starts[classes] + slots]

    def draw(self, classes: Int[Tensor, "*shape"], generator: Generator) -> Int[Tensor, "*shape"]:
        """A uniformly drawn exemplar of each class."""
        level = uniform_double(tuple(classes.shape), generator)
        return self.at(classes, (level * self.counts[classes]).long())


def index_exemplars(data: DataSet, classes: Int[Tensor, " classes"], wanted: Bool[Tensor, " exemplar"]) -> ClassIndex:
    """Selected exemplars of some classes of a data set."""
    place = torch.full((len(data.class_names),), -1)
    place[classes] = torch.arange(len(classes))
    members = (wanted & (place[data.class_of] >= 0)).nonzero()[:, 0]
    members = members[place[data.class_of[members]].argsort(stable=True)]
    counts = torch.bincount(place[data.class_of[members]], minlength=len(classes))
    if len(classes) and int(counts.min()) < 1:
        lacking = data.class_names[int(classes[counts.argmin()])]
        raise DataError(f"{data.name}: {lacking!r} has no exemplar in a part that needs one.")
    return ClassIndex(members, counts.cumsum(0) - counts, counts)


def distinct_slots(
    classes: Int[Tensor, "batch place"], counts: Int[Tensor, "batch place"], generator: Generator
) -> Int[Tensor, "batch place"]:
    """Uniform places within a class, distinct for entries of a row with the same class. If a class has fewer exemplars
    than entries, later entries repeat exemplars, but not that of the first entry."""
    chance = uniform_double(tuple(classes.shape), generator)
    same = classes[:, :, None] == classes[:, None, :]
    rank, first = same.tril(-1).sum(-1), same.byte().argmax(-1)
    batch, width = classes.shape
    depth = int(rank.max()) + 1
    # An extra row receives the entries that must not be written.
    taken = torch.zeros(batch, width + 1, depth, dtype=torch.long)
    slots = torch.zeros_like(classes)
    for level in range(depth):
        before = taken.gather(1, first[:, :, None].expand(-1, -1, depth))[:, :, :level]
        enough = counts > level
        drawn = (chance * torch.where(enough, counts - level, (counts - 1).clamp(min=1))).long()
        again = drawn
        for taken_slot in before.sort(-1).values.unbind(-1):
            drawn = drawn + (drawn >= taken_slot)
        if level:
            again = torch.minimum(again + (again >= before[:, :, 0]), counts - 1)
        drawn = torch.where(enough, drawn, again)
        here = rank == level
        slots = torch.where(here, drawn, slots)
        taken[:, :, level].scatter_(1, torch.where(here, first, width), drawn)
    return slots
