"""Pairs of classes of several Gaussian modalities, and prototypes that are correlated with their partners.

Where `sequence.pairing` is `class`, partners have the same label and the same rank among the classes of that label:

    class c of m2: label c mod L2, rank c div L2        its partner in m1: (c mod L2) + L1 (c div L2)

So each class of the leader has one class of every other modality to itself. With the correlation rho of m2

    mu2[c] = rho P mu1[partner of c] + sqrt(1 - rho^2) z[c]        z[c] ~ Normal(0, I/D2), as without it

P is drawn once for a world. Where D2 <= D1 it has orthonormal rows, times sqrt(D1 / D2), and elsewhere orthonormal
columns; among such maps it is uniform. So P mu1 has the mean square norm of z, 1. Novel classes have novel partners and
the same P.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.errors import ConfigError
from miclab.seeds import stream


def paired_classes(config: RunConfig, classes: Int[Tensor, "*shape"], name: str, other: str) -> Int[Tensor, "*shape"]:
    """The partners in modality `other` of classes of modality `name`."""
    labels = config.modalities[name].labels
    return classes % labels + config.modalities[other].labels * (classes // labels)


def class_partners(config: RunConfig, counts: Mapping[str, int]) -> dict[str, Int[Tensor, " classes"]]:
    """For every modality but the leader, the partner of each class of the leader.

    Arguments:
        counts: classes of each modality: those of training, or of a set of novel classes.
    """
    leading = torch.arange(counts[config.leader])
    return {name: paired_classes(config, leading, config.leader, name) for name in counts if name != config.leader}


def check_novel_partners(config: RunConfig, counts: Mapping[str, int]) -> None:
    """Raises ConfigError unless every class that needs a partner in a set of novel classes has one.

    Arguments:
        counts: classes of each modality in a set.
    """
    pairs = [(config.leader, other) for other in counts if other != config.leader]
    for name, other in (*pairs, *((name, config.host_name) for name in correlated_modalities(config))):
        labels, ranks = config.modalities[name].labels, counts[other] // config.modalities[other].labels
        if counts[name] // labels > ranks:
            allowed = f"at most {ranks * labels}: a set has {counts[other]} classes of {other}, one for each of {name}"
            raise ConfigError(f"modalities.{name}.novel_classes", counts[name], allowed)


def correlated_modalities(config: RunConfig) -> tuple[str, ...]:
    """Modalities whose prototypes are correlated with those of the host."""
    return tuple(name for name, modality in config.modalities.items() if modality.prototype_correlation)


def prototype_map(config: RunConfig, name: str) -> Float[Tensor, "host_dimension dimension"]:
    """P, transposed and to scale: a row of prototypes of the host times it is its part in prototypes of `name`."""
    host, mine = config.modalities[config.host_name].dimension, config.modalities[name].dimension
    drawn = torch.randn(
        max(host, mine), min(host, mine), generator=stream(config.world_seed, "world", "prototype_map", name),
        dtype=torch.double,
    )  # fmt: skip
    basis, triangle = torch.linalg.qr(drawn)
    # Without the signs the factor of a Gaussian matrix is not uniform.
    basis = basis * triangle.diagonal().sign()
    return (basis * math.sqrt(host / mine) if mine <= host else basis.T).float().contiguous()


def with_partners(
    config: RunConfig, name: str, own: Float[Tensor, "classes dimension"],
    host: Float[Tensor, "host_classes host_dimension"], along: Float[Tensor, "host_dimension dimension"],
) -> Float[Tensor, "classes dimension"]:  # fmt: skip
    """Prototypes of modality `name` that are correlated with those of their partners.

    Arguments:
        own: z, the part that the modality has to itself.
        host: prototypes of the host.
        along: `prototype_map`.
    """
    correlation = config.modalities[name].prototype_correlation
    partners = paired_classes(config, torch.arange(len(own)), name, config.host_name)
    return correlation * (host[partners] @ along) + math.sqrt(1 - correlation**2) * own
