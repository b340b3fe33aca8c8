"""The role of each position of a sequence: an item of a modality, a label, or the query, and its exemplar."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LABEL = -1
"""Kind of a label's position."""
OTHER = -2
"""Kind of a position that is neither item nor label, such as the text of a production model's prompt."""


@dataclass(frozen=True)
class Roles:
    """Role masks. An item or a label may span several positions, and sequences may differ (a leading batch axis).

    Arguments:
        modalities: names of the modalities; `kind` holds indices into them.
        context: number of labelled examples, N.
        kind: modality index of an item's position, LABEL, or OTHER.
        exemplar: 0 to N-1 for the positions of a labelled example, N for the query's, -1 for OTHER.
    """

    modalities: tuple[str, ...]
    context: int
    kind: Int[Tensor, "*batch position"]
    exemplar: Int[Tensor, "*batch position"]

    @property
    def is_query(self) -> Bool[Tensor, "*batch position"]:
        """Positions of the query's items."""
        return self.exemplar == self.context

    @property
    def is_label(self) -> Bool[Tensor, "*batch position"]:
        """Positions of the context's labels."""
        return self.kind == LABEL

    def is_item(self, modality: str) -> Bool[Tensor, "*batch position"]:
        """Positions of the items of one modality, the query's included."""
        return self.kind == self.modalities.index(modality)

    def spans(self, mask: Bool[Tensor, "*batch position"]) -> Float[Tensor, "*batch position exemplar"]:
        """1 where a position is in `mask` and belongs to the context exemplar of that column."""
        columns = torch.arange(self.context, device=self.exemplar.device)
        return ((self.exemplar.unsqueeze(-1) == columns) & mask.unsqueeze(-1)).float()

    def label_spans(self) -> Float[Tensor, "*batch position exemplar"]:
        """`spans` of the labels."""
        return self.spans(self.is_label)

    def item_spans(self, modality: str) -> Float[Tensor, "*batch position exemplar"]:
        """`spans` of the items of one modality."""
        return self.spans(self.is_item(modality))

    def on(self, device: torch.device) -> Roles:
        """The same roles on a device; a batch on a GPU has those of the CPU."""
        if self.kind.device == device:
            return self
        return Roles(self.modalities, self.context, self.kind.to(device), self.exemplar.to(device))

    def axis_names(self) -> list[str]:
        """A name for each position of an unbatched sequence: x1, x'1, l1, ..., xq, x'q."""
        names = []
        for kind, exemplar in zip(self.kind.tolist(), self.exemplar.tolist(), strict=True):
            number = "q" if exemplar == self.context else str(exemplar + 1)
            names.append("·" if kind == OTHER else f"l{number}" if kind == LABEL else f"x{chr(39) * kind}{number}")
        return names


@lru_cache(maxsize=64)
def sequence_roles(order: tuple[str, ...], context: int, first: int = 0) -> Roles:
    """The roles of the study's sequences, the same for each of a batch.

    Arguments:
        order: modalities in the order in which they stand inside an exemplar.
        context: labelled examples, N.
        first: tokens before the first exemplar, which are neither items nor labels.

    With one modality (length 2N+1) and with two (3N+2):

        x1 l1  x2 l2  ...  xN lN  xq            x1 x'1 l1  x2 x'2 l2  ...  xN x'N lN  xq x'q
    """
    kinds = [*range(len(order)), LABEL]
    kind = torch.tensor((kinds * (context + 1))[:-1])
    exemplar = torch.arange(context + 1).repeat_interleave(len(kinds))[:-1]
    kind = torch.cat([torch.full((first,), OTHER), kind])
    exemplar = torch.cat([torch.full((first,), -1), exemplar])
    return Roles(order, context, kind, exemplar)
