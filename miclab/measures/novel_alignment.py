"""Alignment of novel classes of a secondary modality with their partners, where exemplars are paired by class.

A projector can put every training class near its partner by heart. With 256 classes of 512 dimensions CKA then reaches
0.99, even where prototypes are independent (scripts/cka_ceiling.py). Novel classes it can only put there by a rule.
"""

from __future__ import annotations

import torch
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.measures.alignment import ROWS, debiased_cka
from miclab.model.decoder import Parameters
from miclab.model.projector import project
from miclab.seeds import stream
from miclab.worlds.world import World, novel_world


@torch.no_grad()
def novel_cka(config: RunConfig, world: World, parameters: Parameters, modality: str, rows: int = ROWS) -> float:
    """Debiased CKA of projected items of novel classes with the prototypes of their partners in the host.

    Every row is another class with its own partner. The classes are those of the first sets of novel classes of
    evaluation, as many sets as `rows` needs. All rows of a run see the same items.

    Arguments:
        modality: a secondary one.
        rows: pairs, at least 4.
    """
    generator = stream(config.seed, "alignment", modality, "novel")
    features: list[Tensor] = []
    partners: list[Tensor] = []
    found = 0
    while found < rows:
        here = novel_world(config, world, "evaluation", len(features))
        # Every class of the leading modality has a partner in each other one; the reverse need not hold.
        leading = torch.arange(min(len(here.tables[config.leader].label_of), rows - found))
        classes, of_host = (here.partners[name][leading] if name != config.leader else leading
                            for name in (modality, config.host_name))  # fmt: skip
        features.append(project(config, parameters, modality, here.sources[modality].draw(classes, generator)))
        partners.append(here.sources[config.host_name].prototypes[of_host])
        found += len(leading)
    return debiased_cka(torch.cat(features), torch.cat(partners))
