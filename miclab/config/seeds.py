"""Separate seeds for a run's random draws: its world, its initial weights and its training sequences."""

from __future__ import annotations

from dataclasses import dataclass

from miclab.config.checks import check_whole

FOLLOWS = -1
"""A seed that follows `seed` of the configuration."""


@dataclass(frozen=True, kw_only=True)
class SeedsConfig:
    """Seeds of a run's parts; -1: `seed` of the configuration. Novel classes and evaluation have theirs in the request
    (`request.evaluation_seed`)."""

    world: int = FOLLOWS
    """Prototypes, label embeddings, and the choice of a source's training classes; -1: `seed`."""
    weights: int = FOLLOWS
    """Initial weights; -1: `seed`."""
    sequences: int = FOLLOWS
    """Training sequences: classes, labels, noise, order, placement; -1: `seed`."""

    def check(self, owner: str = "seeds") -> None:
        """Raises ConfigError."""
        for name in ("world", "weights", "sequences"):
            check_whole(owner, self, name, FOLLOWS, 2**63 - 1)
