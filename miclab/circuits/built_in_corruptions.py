"""The corruptions of this package. A sequence that cannot be corrupted, such as one whose context holds a single label,
is left as it is."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from miclab.circuits.corruption import Clean, corruption
from miclab.worlds.sequences import Batch, plan_independent

NOISE = 3.0
"""Standard deviation of the noise of `query_noise`, as a multiple of the item's root mean square. Causal tracing takes
three standard deviations of the embeddings (arXiv 2202.05262, section 2.1)."""


def _other_example(clean: Clean) -> tuple[Int[Tensor, " batch"], Bool[Tensor, " batch"], Int[Tensor, " batch"]]:
    """An example of each context with another label than the query's, whether there is one, and its label; the query's
    where there is none."""
    place, there = clean.one_of(~clean.right)
    label = clean.batch.labels.gather(1, place[:, None]).squeeze(1)
    return place, there, torch.where(there, label, clean.batch.target)


@corruption(
    "labels_swapped",
    changes="labels",
    words="the query's label and one other trade places in the context",
    new_answer=True,
)
def labels_swapped(clean: Clean) -> Batch:
    """The answer becomes the other label, since the items stay."""
    batch, right = clean.batch, clean.batch.target[:, None]
    other = _other_example(clean)[2][:, None]
    swapped = torch.where(batch.labels == right, other, torch.where(batch.labels == other, right, batch.labels))
    vectors = clean.world.label_embeddings[swapped]
    # A sequence without any example of the query's label has no answer to trade.
    kept = clean.right.any(1)[:, None]
    target = torch.where(kept, other, right).squeeze(1)
    return replace(
        batch,
        labels=torch.where(kept, swapped, batch.labels),
        label_vectors=torch.where(kept[..., None], vectors, batch.label_vectors),
        target=target,
    )


@corruption(
    "items_swapped",
    changes="items",
    words="items of the query's class and of one other trade places in the context",
    new_answer=True,
)
def items_swapped(clean: Clean) -> Batch:
    """The answer becomes the other label, since the labels stay. The items have new noise."""
    batch, right = clean.batch, clean.batch.target[:, None]
    place, there, label = _other_example(clean)
    other = label[:, None]
    # A sequence without any example of the query's label has no answer to trade.
    kept = (clean.right.any(1) & there)[:, None]
    to_other, to_query = kept & (batch.labels == right), kept & (batch.labels == other)
    classes = {}
    for name, old in batch.classes.items():
        theirs, query = old.gather(1, place[:, None]), old[:, -1:]
        context = torch.where(to_other, theirs, torch.where(to_query, query, old[:, :-1]))
        classes[name] = torch.cat([context, query], 1)
    where = F.pad(to_other | to_query, (0, 1))
    return clean.with_items(clean.fresh_items(classes), where, classes=classes, target=label)


@corruption("query_other", changes="query", words="the query is of another class of the context", new_answer=True)
def query_other(clean: Clean) -> Batch:
    """The answer becomes that class's label."""
    place, there, target = _other_example(clean)
    chosen = {name: value.gather(1, place[:, None]).squeeze(1) for name, value in clean.batch.classes.items()}
    classes = clean.classes_with(clean.query_place, chosen)
    where = clean.at(clean.query_place, there)
    return clean.with_items(clean.fresh_items(classes), where, classes=classes, target=target)


@corruption("query_outside", changes="query", words="the query is of a class that is not in the context")
def query_outside(clean: Clean) -> Batch:
    """No label of the context is right afterwards."""
    chosen, there = clean.outside()
    classes = clean.classes_with(clean.query_place, chosen)
    return clean.with_items(clean.fresh_items(classes), clean.at(clean.query_place, there), classes=classes)


@corruption(
    "example_replaced", changes="example", words="one example of the query's label has items of a class outside"
)
def example_replaced(clean: Clean) -> Batch:
    """The example keeps its label. With several copies of the class the others still give the answer."""
    chosen, found = clean.outside()
    place, there = clean.one_of(clean.right)
    classes = clean.classes_with(place, chosen)
    return clean.with_items(clean.fresh_items(classes), clean.at(place, found & there), classes=classes)


@corruption("order_shuffled", changes="order", words="the examples stand in another order")
def order_shuffled(clean: Clean) -> Batch:
    """Examples with their labels are permuted; the query stays."""
    batch = clean.batch
    count = len(batch)
    order = torch.rand(batch.labels.shape, generator=clean.generator).argsort(1)
    rows = torch.arange(count)[:, None]
    whole = torch.cat([order, clean.query_place[:, None]], 1)
    return replace(
        batch,
        items={name: value[rows, whole] for name, value in batch.items.items()},
        classes={name: value[rows, whole] for name, value in batch.classes.items()},
        labels=batch.labels[rows, order],
        label_vectors=batch.label_vectors[rows, order],
    )


@corruption("modality_replaced", changes="modality", words="all items of a modality are of classes drawn at random")
def modality_replaced(clean: Clean, modality: str) -> Batch:
    """The modality no longer says which example is like the query."""
    drawn = plan_independent(clean.config, clean.world, len(clean.batch), clean.generator).classes[modality]
    classes = {**clean.batch.classes, modality: drawn}
    items = {modality: clean.fresh_items(classes)[modality]}
    return clean.with_items(items, torch.ones_like(drawn, dtype=torch.bool), classes=classes)


@corruption("query_noise", changes="query", words=f"the query's items get noise of {NOISE:g} times their size")
def query_noise(clean: Clean) -> Batch:
    """Items of the query plus Normal(0, NOISE^2 times their mean square)."""
    noisy = {}
    for name, value in clean.batch.items.items():
        query = value[:, -1]
        size = query.norm(dim=-1, keepdim=True) / math.sqrt(query.shape[-1])
        noisy[name] = query + NOISE * size * torch.randn(query.shape, generator=clean.generator)
    return clean.with_query(noisy)
