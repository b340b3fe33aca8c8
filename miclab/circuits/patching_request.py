"""The request of a patching: the checkpoint, the corrupted sequences, the side that is patched, and the metric."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from miclab.circuits.patching import METRICS, Direction, Metric
from miclab.config.request import SplitSizes
from miclab.errors import ConfigError

DIRECTIONS: dict[str, str] = {
    "restore": "clean activations put into the corrupted run (denoising)",
    "corrupt": "corrupted activations put into the clean run (noising)",
}
CHOICES = {"direction": tuple(DIRECTIONS), "metric": METRICS}


@dataclass(frozen=True, kw_only=True)
class CorruptionRequest:
    """A checkpoint, the sequences that it is compared on, and the metric.

    Arguments:
        corruption: the one thing in which corrupted sequences differ, NAME or NAME.MODALITY (see
            `miclab.circuits.built_in_corruptions`).
        step: the checkpoint of each run; None: its last good one.
        split: whose sequences are corrupted.
        sizes: sequences looked at.
        metric: what is compared.

    Raises:
        ConfigError: there is no such metric.
    """

    corruption: str = "items_swapped"
    step: int | None = None
    split: str = "icl"
    sizes: SplitSizes = field(default_factory=SplitSizes)
    metric: Metric = "accuracy"

    def __post_init__(self) -> None:
        for name in CHOICES.keys() & {one.name for one in fields(self)}:
            if getattr(self, name) not in CHOICES[name]:
                raise ConfigError(name, getattr(self, name), f"one of {', '.join(CHOICES[name])}")

    @property
    def sets(self) -> int:
        """Independent sets of sequences of each run."""
        return self.sizes.sets_of(self.split)


@dataclass(frozen=True, kw_only=True)
class PatchingRequest(CorruptionRequest):
    """With it, which of two passes is patched; further arguments: see `CorruptionRequest`.

    Arguments:
        direction: `restore` puts clean activations into the corrupted run (denoising), `corrupt` the other way round
            (noising).
        metric: what tables and drawings show.

    Raises:
        ConfigError: there is no such direction or metric.
    """

    direction: Direction = "restore"
    metric: Metric = "logit_difference"
