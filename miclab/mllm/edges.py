"""Edges of attention between kinds of position: which there are on a sequence, and random ones in their place.

An edge is named by what flows: `label -> answer` is that the positions of the answer attend to labels.

    item      of an example, in pictures or words        query    the query's item
    label     of an example                              answer   from the position that predicts its first token on
    question  of the examples and the query              text     all else before the answer

Where nothing stands between the query's item and the answer, the item's last position is both query and answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from miclab.errors import nearest
from miclab.mllm.errors import ModelError
from miclab.mllm.reading import Encoded, Reading
from miclab.seeds import stream
from miclab.worlds.roles import LABEL, OTHER

SOURCES = ("item", "label", "question", "text", "query")
TARGETS = (*SOURCES, "answer")
Relation = Literal["", "own", "other", "right", "wrong"]
"""Which edges of two kinds: all; those within an example, or between two; those from examples of the right answer, or
of others."""
ARROW = " -> "


@dataclass(frozen=True)
class Kind:
    """A kind of edge.

    Arguments:
        source: kind of the position that is attended to.
        target: kind of the position that attends.
        relation: which of these edges.
    """

    source: str
    target: str
    relation: Relation = ""

    @property
    def name(self) -> str:
        """It in words: `own item -> label`."""
        return f"{self.relation} {self.source}".strip() + ARROW + self.target

    @property
    def short(self) -> str:
        """It as an option: `own-item:label`."""
        return self.name.replace(ARROW, ":").replace(" ", "-")


KINDS: tuple[Kind, ...] = tuple(
    Kind(source, target, relation)
    for source, target in product(SOURCES, TARGETS)
    for relation in (
        ("own", "other") if (source, target) in (("item", "label"), ("item", "item"), ("label", "label"))
        else ("", "right", "wrong") if source in ("item", "label") and target in ("query", "answer")
        else ("",)
    )
)  # fmt: skip
"""All kinds of edge."""
USUAL = (
    "own-item:label", "other-item:label", "other-label:label", "label:item", "other-item:item", "question:item",
    "item:query", "label:query", "item:answer", "right-label:answer", "wrong-label:answer", "query:answer",
    "question:answer", "text:answer",
)  # fmt: skip
"""Kinds that are cut unless others are named."""


def kinds_named(names: Collection[str]) -> tuple[Kind, ...]:
    """Kinds by their short names; of none the usual ones.

    Raises:
        ModelError: there is no such kind.
    """
    known = {kind.short: kind for kind in KINDS}
    for name in names:
        if name not in known:
            raise ModelError(f"{name!r} is no kind of edge: {nearest(name, known)}.")
    return tuple(known[name] for name in dict.fromkeys(names or USUAL))


def _places(reading: Reading, length: int) -> tuple[dict[str, Bool[Tensor, " position"]], Tensor]:
    """Positions of each kind, and the example of each position; -1: none."""
    kind, exemplar = torch.full((length,), OTHER), torch.full((length,), -1)
    kind[: reading.length], exemplar[: reading.length] = reading.roles.kind, reading.roles.exemplar
    query, answer, question = exemplar == reading.roles.context, torch.zeros(length, dtype=torch.bool), kind != kind
    answer[reading.last : (reading.written or (reading.last,))[-1] + 1] = True
    question[list(reading.questions)] = True
    rest = (kind == OTHER) & ~answer & ~question
    rest[reading.length :] = False
    found = {"item": (kind >= 0) & ~query, "label": kind == LABEL, "question": question & ~answer, "text": rest,
             "query": query, "answer": answer}  # fmt: skip
    return found, exemplar


def role_names(reading: Reading) -> list[str]:
    """The kind of each position up to the last before the answer. The last is `query` where it is both."""
    places, _ = _places(reading, reading.length)
    return [next(name for name in TARGETS if places[name][place]) for place in range(reading.length)]


def edges(reading: Reading, length: int, kinds: Iterable[Kind]) -> dict[Kind, Bool[Tensor, "query key"]]:
    """Edges of each kind on one sequence, of `length` positions with padding. None leads from a position to itself or
    to an earlier one."""
    places, exemplar = _places(reading, length)
    earlier = torch.ones(length, length, dtype=torch.bool).tril(-1)
    same = (exemplar[:, None] == exemplar) & (exemplar >= 0)
    right = torch.zeros(length, dtype=torch.bool)
    for number in (reading.labels == reading.target).nonzero()[:, 0].tolist():
        right |= exemplar == number
    among = {"": torch.ones_like(same), "own": same, "other": ~same, "right": right.expand_as(same),
             "wrong": ~right.expand_as(same)}  # fmt: skip
    return {kind: places[kind.target][:, None] & places[kind.source] & earlier & among[kind.relation] for kind in kinds}


def cut_of(encoded: Encoded, kinds: Iterable[Kind]) -> Bool[Tensor, "batch query key"]:
    """Edges of some kinds on every sequence of a batch."""
    length, found = encoded.inputs["input_ids"].shape[1], []
    for reading in encoded.readings:
        of_kinds = edges(reading, length, kinds)
        found.append(torch.stack(list(of_kinds.values())).any(0))
    return torch.stack(found)


def random_edges(
    encoded: Encoded, cut: Bool[Tensor, "batch query key"], draw: Sequence[int | str]
) -> Bool[Tensor, "batch query key"]:
    """As many other edges of every sequence as are cut, or all of them where there are fewer.

    Arguments:
        cut: edges that are not drawn.
        draw: seed, name and number of the draw. The same episode has the same draw behind every answer, but for edges
            of the answer's own positions.
    """
    found = torch.zeros_like(cut)
    for row, reading in enumerate(encoded.readings):
        end = (reading.written or (reading.last,))[-1] + 1
        allowed = torch.ones(end, end, dtype=torch.bool).tril(-1) & ~cut[row, :end, :end]
        generator = stream(int(draw[0]), "edges", *map(str, draw[1:]), reading.episode.name)
        # Row by row, so that edges of the prompt do not depend on the length of the answer.
        scores, places = torch.full((end, end), 2.0), torch.tril_indices(end, end, -1)
        scores[places[0], places[1]] = torch.rand(places.shape[1], generator=generator)
        scores[~allowed] = 2.0
        count = min(int(cut[row].sum()), int(allowed.sum()))
        flat = torch.zeros(end * end, dtype=torch.bool)
        flat[scores.flatten().argsort(stable=True)[:count]] = True
        found[row, :end, :end] = flat.view(end, end)
    return found
