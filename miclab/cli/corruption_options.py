"""Options of the commands that compare clean sequences with corrupted ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from miclab.cli.options import SizedOptions
from miclab.config.corruptions import CORRUPTIONS
from miclab.config.request import Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miclab.circuits.patching_request import PatchingRequest
    from miclab.runs.run import Run


def corruption_help() -> str:
    """Help on corruptions. The names come from the registry without an import."""
    return f"What is changed: {', '.join(CORRUPTIONS)}; or one of --plugin. modality_replaced takes NAME.MODALITY."


Corruption = Annotated[str, tyro.conf.arg(metavar="NAME", help=corruption_help())]


@dataclass(frozen=True, kw_only=True)
class CorruptionOptions(SizedOptions):
    """The corruption, and the sequences that it changes."""

    corruption: Corruption = "items_swapped"
    split: Split = "icl"
    """Split whose sequences are corrupted."""
    sequences: int = 125
    """Sequences of each split; of `icl`: for each set of novel classes."""

    def check(self, runs: Sequence[Run]) -> None:
        """Raises an error if a run cannot be corrupted so."""
        from miclab.circuits.corruption import find_corruption

        for run in runs:
            find_corruption(self.corruption, run.config)

    @property
    def given(self) -> dict[str, Any]:
        """Fields of the request."""
        return {"corruption": self.corruption, "step": self.checkpoint, "sizes": self.sizes, "split": self.split}


@dataclass(frozen=True, kw_only=True)
class PatchingOptions(CorruptionOptions):
    """The side that is patched, and the metric of the effect."""

    direction: Literal["restore", "corrupt"] = "restore"
    """`restore`: clean activations into the corrupted run (denoising). `corrupt`: the other way round (noising)."""
    metric: Literal["logit_difference", "probability", "accuracy"] = "logit_difference"
    """What the tables show; --json has all three."""

    @property
    def request(self) -> PatchingRequest:
        """The request of these options."""
        from miclab.circuits.patching_request import PatchingRequest

        return PatchingRequest(**self.given, direction=self.direction, metric=self.metric)
