"""A layer that averages: how the running mean of the tokens shows the next layer which label belongs to which item.

Under uniform attention every position holds the mean of all positions up to it. An item of class A, first in its
context, weighs 1/n in the mean at place n:

    place                  1    2    3    4    5    6    7
    token                  A   l_A   B   l_B   C   l_C   A (query)
    weight of item A      1/1  1/2  1/3  1/4  1/5  1/6
    weight of item B                1/3  1/4  1/5  1/6

So an item's own label is the first that holds it, and later labels hold less of it. If the next layer's keys are read
from these means, the own label's key is the one most like the query, without any previous-token pattern. Three kinds of
interventions on the layer test this, each with the attention pattern of all its heads replaced:

    weights       falling: 1/n, uniform attention. equal: the same number at every place. rising: in proportion to n.
                  The sum of all weights is the same. With equal weights later labels hold as much as the own label.
                  With rising ones they hold more.
    values        the mean of items alone, of labels alone, or nothing.
    way on        the next layer's keys alone see the mean, or all but these keys do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from miclab.circuits.existence import OnProgress
from miclab.circuits.interventions import Edit
from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, RunError
from miclab.measures.evaluate import CHUNK
from miclab.model.decoder import Decoder, Parameters
from miclab.runs.run import Run
from miclab.statistics.intervals import Interval, clustered_interval, student_interval
from miclab.tables import Table, Tabled, table
from miclab.worlds.sequences import Batch
from miclab.worlds.splits import split_batches
from miclab.worlds.world import world_from_tensors

CONDITIONS = {
    "untouched": "the decoder as it is",
    "falling weights": "uniform attention: weights of 1/n",
    "equal weights": "equal weights at every place",
    "rising weights": "weights in proportion to n",
    "items alone": "uniform, values of items alone",
    "labels alone": "uniform, values of labels alone",
    "by keys alone": "uniform, seen by the next layer's keys alone",
    "by all but keys": "uniform, seen by all but the next layer's keys",
    "nothing": "its output set to zero",
}
"""Interventions on the layer, and each in words."""
CONTEXTS = {"": "ICL", "once: ": "ICL, each class once"}
"""Contexts: with the burstiness of training, and of N different classes. The key stands before a stored name."""
BySet = NDArray[np.floating]
"""A quantity by set of novel classes [set]."""


def row_weights(kind: str, seen: Bool[Tensor, "head query key"]) -> Float[Tensor, "head query key"]:
    """Attention weights that depend on n alone, the number of positions that the query may see: 1, 2, ... under a plain
    causal mask. Their sum over the whole pattern is that of uniform attention, the number of positions. Single rows do
    not add up to 1 unless they fall.

    Arguments:
        kind: `falling`, in proportion to 1/n; `equal`; `rising`, in proportion to n.
        seen: whether a query's position may see a key's.
    """
    places = seen.sum(-1, keepdim=True).float()
    by_row = {"falling": 1 / places.clamp(min=1), "equal": torch.ones_like(places), "rising": places}[kind]
    weights = seen * by_row
    return weights * (seen.shape[-1] / weights.sum((-2, -1), keepdim=True))


@dataclass(frozen=True)
class RunningMean(Tabled):
    """What a decoder keeps of its in-context learning when one layer only averages.

    Arguments:
        run: its name.
        step: the checkpoint.
        layer: the layer that averages, from 0.
        icl: accuracy by stored name: a condition, after a context's key.
        attention: attention of the query in the next layer, mean over heads, by distance: on the label so many examples
            after the one of its class. The layer has falling weights, and each class is in the context once.
        sequences: number of sequences of each set.
        positions: number of positions that the query sees in the next layer.
    """

    run: str
    step: int
    layer: int
    icl: Mapping[str, BySet]
    attention: Mapping[int, BySet]
    sequences: int
    positions: int

    def accuracy(self, name: str) -> Interval:
        """Accuracy under a stored name, with its interval over sets."""
        return student_interval(self.icl[name], scale="logit", trials=self.sequences, unit="set")

    @property
    def summary(self) -> str:
        """What equal weights cost, in words."""
        cost = clustered_interval([self.icl["once: falling weights"] - self.icl["once: equal weights"]])
        sure = cost.known and cost.low > 0
        reads = "The order is read from the falling weights" if sure else "It is open what shows the order"
        return f"{reads}: with each class once, equal weights cost {cost} of ICL."

    def tables(self) -> tuple[Table, ...]:
        """Accuracy by condition, and attention by distance."""
        rows = [[words, *(self.accuracy(context + name) for context in CONTEXTS)] for name, words in CONDITIONS.items()]
        title = f"{self.run}, step {self.step:,}: layer {self.layer} as a running mean [95 % interval over sets]"
        looked = [[f"{place:+d}" if place else "own", clustered_interval([by])] for place, by in self.attention.items()]
        where = f"attention of the query in layer {self.layer + 1} by label, if layer {self.layer} is uniform"
        return (
            table(
                title,
                ["intervention", *CONTEXTS.values()],
                rows,
                [
                    self.summary,
                    "n counts the places that the attending one may see: without a window, all so far.",
                ],
            ),
            table(
                where,
                ["examples after its own", "attention"],
                looked,
                [
                    "Each class is in the context once.",
                    f"A uniform query gives {1 / self.positions:.3f} to each label.",
                ],
            ),
        )

    def stored(self) -> dict[str, BySet]:
        """Every quantity by the name that it has in rows of studies."""
        return {**self.icl, **{f"attention at {place:+d}": by for place, by in self.attention.items()}}

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "run": self.run, "step": self.step, "layer": self.layer,
            "icl": {name: self.accuracy(name).as_json() for name in self.icl},
            "attention": {str(place): clustered_interval([by]).as_json() for place, by in self.attention.items()},
        }  # fmt: skip


class AveragingLayer:
    """A layer of a decoder that is replaced by kinds of a running mean.

    Raises:
        ConfigError: no layer follows it.
        RunError: its attention has no pattern or values, or that of the next has no keys or pattern.
    """

    def __init__(self, decoder: Decoder, parameters: Parameters, layer: int):
        self.decoder, self.parameters, self.layer = decoder, parameters, layer
        self.pattern, self.values, self.heads = (
            f"blocks.{layer}.attention.{part}" for part in ("pattern", "values", "heads")
        )
        self.keys, self.reading = (f"blocks.{layer + 1}.attention.{part}" for part in ("keys", "pattern"))
        if not 0 <= layer < decoder.options.layers - 1:
            allowed = f"a layer with one after it: 0 to {decoder.options.layers - 2}"
            raise ConfigError("layer", layer, allowed if decoder.options.layers > 1 else "the decoder has one layer")
        missing = [
            name
            for name in (self.pattern, self.values, self.heads, self.keys, self.reading)
            if name not in decoder.activations()
        ]
        if missing:
            raise RunError(f"The layer cannot be replaced by a running mean: its attention has no {missing[0]}.")

    @property
    def seen_next(self) -> int:
        """Number of positions that the query sees in the next layer, the most of its heads."""
        return int(self.decoder.visible(self.layer + 1)[:, -1].sum(-1).max())

    def weighted(self, kind: str) -> dict[str, Edit]:
        """The layer with a pattern of `row_weights`."""
        weights = row_weights(kind, self.decoder.visible(self.layer))
        return {self.pattern: lambda value: weights.to(value).expand_as(value)}

    def edits(self, batch: Batch) -> dict[str, dict[str, Edit]]:
        """The edits of each condition on a batch."""
        labels = batch.roles.is_label[:, None]
        falling = self.weighted("falling")
        nothing: dict[str, Edit] = {self.heads: torch.zeros_like}
        seen, unseen = (self._captured(batch, one, self.keys) for one in (falling, nothing))
        return {
            "untouched": {},
            **{f"{kind} weights": self.weighted(kind) for kind in ("falling", "equal", "rising")},
            "items alone": {**falling, self.values: lambda value: value.masked_fill(labels, 0)},
            "labels alone": {**falling, self.values: lambda value: value.masked_fill(~labels, 0)},
            "by keys alone": {**nothing, self.keys: lambda _: seen},
            "by all but keys": {**falling, self.keys: lambda _: unseen},
            "nothing": nothing,
        }

    def _captured(self, batch: Batch, edits: Mapping[str, Edit], name: str) -> Tensor:
        return self.decoder.trace(self.parameters, batch, edits=edits, capture=(name,)).activations[name]

    def right(self, batch: Batch) -> dict[str, Tensor]:
        """Whether the answer is right, by condition [batch]."""
        return {
            name: self.decoder.trace(self.parameters, batch, edits=edits).logits.argmax(-1) == batch.target
            for name, edits in self.edits(batch).items()
        }

    def looked(self, batch: Batch) -> Float[Tensor, "batch distance"]:
        """Attention of the query on labels by distance, from -(N - 1) to N - 1; NaN where the context ends. Each class
        must be in the context once."""
        pattern = self._captured(batch, self.weighted("falling"), self.reading)
        on_labels = pattern.mean(1)[:, -1, batch.roles.is_label]
        count = on_labels.shape[-1]
        own = (batch.labels == batch.target[:, None]).float().argmax(-1)
        found = torch.full((len(batch), 2 * count - 1), torch.nan)
        places = torch.arange(count) - own[:, None] + count - 1
        return found.scatter(1, places, on_labels)


def _each_once(config: RunConfig) -> RunConfig:
    """The configuration with every class of a context in it once."""
    return replace(config, sequence=replace(config.sequence, burstiness=1))


@torch.no_grad()
def running_mean(
    run: Run,
    layer: int = 0,
    *,
    step: int | None = None,
    sizes: SplitSizes | None = None,
    on_progress: OnProgress | None = None,
) -> RunningMean:
    """What a decoder's in-context learning is when one of its layers is replaced by kinds of a running mean.

    Arguments:
        run: a run with sequences.
        layer: the layer that averages, from 0; another must follow.
        step: the checkpoint; None: the last good one.
        sizes: sequences looked at, of novel classes.
        on_progress: called with the number of sets of novel classes done, of both kinds of contexts, and a text.

    Raises:
        RunError: see `AveragingLayer`, or the run has no decoder.
        ConfigError: no layer follows, there is no such checkpoint, or N classes have too few labels.
    """
    at, parameters = run.parameters(step)
    averaging = AveragingLayer(Decoder(run.config), parameters, layer)
    world, looked = world_from_tensors(run.config, run.world_tensors()), sizes or SplitSizes()
    icl: dict[str, list[float]] = {}
    attention: list[BySet] = []
    done = 0
    for key, words in CONTEXTS.items():
        config = _each_once(run.config) if key else run.config
        for _, batch in split_batches(config, world, "icl", looked):
            right: dict[str, list[Tensor]] = {}
            places = []
            for rows in batch.chunks(CHUNK):
                for name, one in averaging.right(rows).items():
                    right.setdefault(key + name, []).append(one)
                if key:
                    places.append(averaging.looked(rows))
            for name, found in right.items():
                icl.setdefault(name, []).append(float(torch.cat(found).double().mean()))
            if places:
                # A distance that no sequence of a set has is left out below.
                attention.append(torch.cat(places).double().nanmean(0).numpy())
            done += 1
            if on_progress:
                on_progress(done, f"{words}, set {len(attention) or done}")
    by_distance = np.stack(attention)
    reach = by_distance.shape[1] // 2
    return RunningMean(
        run.path.name, at, layer, {name: np.array(by) for name, by in icl.items()},
        {place: by for place, by in zip(range(-reach, reach + 1), by_distance.T, strict=True) if np.isfinite(by).all()},
        looked.sequences, averaging.seen_next,
    )  # fmt: skip
