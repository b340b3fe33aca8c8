"""Alignment of novel classes of a secondary modality with their partners, where exemplars are paired by class.

A projector can put every training class near its partner by heart. With 256 classes of 512 dimensions CKA then reaches
0.99, even where prototypes are independent (scripts/cka_ceiling.py). Novel classes it can only put there by a rule.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.measures.alignment import ROWS
from miclab.measures.cka import debiased_cka
from miclab.model.decoder import Parameters
from miclab.model.projector import project
from miclab.seeds import stream
from miclab.worlds.world import World, novel_world


@torch.no_grad()
def novel_cka(config: RunConfig, world: World, parameters: Parameters, modality: str, rows: int = ROWS) -> float:
    """Debiased CKA of projected items of novel classes with the prototypes of their partners in the host.

    Arguments:
        modality: a secondary one.
        rows: pairs, at least 4.
    """
    features, partners = [], []
    for items, prototypes in novel_pairs(config, world, modality, rows):
        features.append(project(config, parameters, modality, items))
        partners.append(prototypes)
    return debiased_cka(torch.cat(features), torch.cat(partners))


def novel_pairs(config: RunConfig, world: World, modality: str, rows: int = ROWS) -> Iterator[tuple[Tensor, Tensor]]:
    """Items of novel classes [row dimension] and prototypes of their partners in the host [row width], set by set.

    Every row is another class with its own partner. The classes are those of the first sets of novel classes of
    evaluation, as many sets as `rows` needs. All rows of a run see the same items.
    """
    generator = stream(config.seed, "alignment", modality, "novel")
    found = index = 0
    while found < rows:
        here = novel_world(config, world, "evaluation", index)
        # Every class of the leading modality has a partner in each other one; the reverse need not hold.
        leading = torch.arange(min(len(here.tables[config.leader].label_of), rows - found))
        classes, of_host = (here.partners[name][leading] if name != config.leader else leading
                            for name in (modality, config.host_name))  # fmt: skip
        yield here.sources[modality].draw(classes, generator), here.sources[config.host_name].prototypes[of_host]
        found, index = found + len(leading), index + 1
