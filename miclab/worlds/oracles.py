"""Baselines without a network: upper bounds for in-context and in-weight answers, and chance."""

from __future__ import annotations

from collections.abc import Collection

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.worlds.sequences import Batch
from miclab.worlds.world import World


def nearest_exemplar(batch: Batch, names: Collection[str] = ()) -> Bool[Tensor, " batch"]:
    """Upper bound of in-context learning: the label of the context example nearest to the query, by squared distance
    summed over modalities.

    Arguments:
        names: the modalities that are used; empty: all.
    """
    distance = torch.zeros(batch.labels.shape)
    for items in (batch.items[name] for name in names or batch.items):
        distance += (items[:, :-1] - items[:, -1:]).square().sum(-1)
    found = batch.labels.gather(1, distance.argmin(1, keepdim=True)).squeeze(1)
    return found == batch.target


def nearest_prototype(config: RunConfig, world: World, batch: Batch) -> Bool[Tensor, " batch"]:
    """Upper bound of in-weight learning: the true label of the nearest prototype of `world`, the world of training.
    With several modalities, distances to the nearest prototype of each label are summed. In the joint-label task each
    modality gives its own group."""
    joint = config.sequence.task == "joint_label"
    total = torch.zeros(len(batch), config.active_labels)
    label = torch.zeros(len(batch), dtype=torch.long)
    for index, name in enumerate(config.order):
        distance = torch.cdist(batch.items[name][:, -1], world.sources[name].prototypes).square()
        owner = world.tables[name].label_of.expand_as(distance)
        groups = int(world.tables[name].label_of.max()) + 1
        best = torch.full((len(batch), groups), torch.inf).scatter_reduce(1, owner, distance, "amin")
        if joint:
            label = label * config.sequence.groups[index] + best.argmin(1)
        else:
            total += best[:, : config.active_labels]
    return (label if joint else total.argmin(1)) == batch.target


def random_context_label(batch: Batch) -> Float[Tensor, " batch"]:
    """Probability that a label drawn uniformly from the context's positions is the target."""
    return (batch.labels == batch.target[:, None]).float().mean(1)


def oracle_scores(config: RunConfig, world: World, batch: Batch) -> dict[str, Float[Tensor, " batch"]]:
    """Every oracle's score for each sequence; `world` is the world of training. With several modalities, also the
    nearest exemplar by each alone. That is the upper bound of a decoder that reads no other."""
    alone = {f"nearest_exemplar_of_{n}": nearest_exemplar(batch, (n,)).float() for n in config.order}
    return {
        "nearest_exemplar": nearest_exemplar(batch).float(),
        **(alone if len(alone) > 1 else {}),
        "nearest_prototype": nearest_prototype(config, world, batch).float(),
        "random_context_label": random_context_label(batch),
        "chance": torch.full((len(batch),), 1 / config.active_labels),
    }
