"""A test of whether a data set can be learned: the accuracy of choosing the nearest exemplar, without training."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from miclab.data.dataset import DataError, DataSet
from miclab.seeds import stream
from miclab.statistics.intervals import Interval, episode_interval


def nearest_exemplar_accuracy(
    data: DataSet, ways: int, *, part: str = "held-out classes", episodes: int = 4000, seed: int = 0
) -> Interval:
    """Share of episodes in which the exemplar nearest to the query is of the query's class.

    An episode draws `ways` classes of the part, one exemplar of each, and a query: another exemplar of the first class.
    Near means a high cosine between flattened normalised items, less the mean item of the training part.

    Raises:
        DataError: the part has fewer than `ways` classes with two exemplars.
    """
    chosen = data.indices(part)
    values = data.floats(chosen).flatten(1)
    values = F.normalize(values - data.floats(data.indices("training")).flatten(1).mean(0), dim=1)
    class_of = data.class_of[chosen]
    order = class_of.argsort(stable=True)
    values, counts = values[order], torch.bincount(class_of, minlength=len(data.class_names))
    starts = counts.cumsum(0) - counts
    usable = (counts >= 2).nonzero()[:, 0]
    if len(usable) < ways:
        raise DataError(f"{data.name}: {part} has {len(usable)} classes with two exemplars; {ways} ways need {ways}.")
    generator = stream(seed, "nearest exemplar", data.name, ways)
    # The `ways` largest of independent uniform numbers: classes without replacement.
    classes = usable[torch.rand(episodes, len(usable), generator=generator).topk(ways, dim=1).indices]
    shown = (torch.rand(episodes, ways, generator=generator) * counts[classes]).long()
    # The query is one of the other exemplars of the first class: a step of 1 to count - 1 further, around the end.
    first = counts[classes[:, 0]]
    step = 1 + (torch.rand(episodes, generator=generator) * (first - 1)).long()
    query = starts[classes[:, 0]] + (shown[:, 0] + step) % first
    scores = torch.einsum("ewd,ed->ew", values[starts[classes] + shown], values[query])
    right = (scores.argmax(1) == 0).float()
    return episode_interval(right.numpy())
