"""A corruption of one's own: the query lies halfway between its own item and another example of the context."""

from __future__ import annotations

import torch

from miclab.circuits.corruption import Clean, corruption
from miclab.worlds.sequences import Batch


@corruption("query_between", changes="query", words="the query is halfway to an example with another label")
def query_between(clean: Clean) -> Batch:
    """Half the answer's evidence is gone, and the other label has as much."""
    place, there = clean.one_of(~clean.right)
    rows = torch.arange(len(place))
    items = {
        name: torch.where(there[:, None], (value[:, -1] + value[rows, place]) / 2, value[:, -1])
        for name, value in clean.batch.items.items()
    }
    return clean.with_query(items)
