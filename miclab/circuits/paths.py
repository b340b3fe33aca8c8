"""Path patching: what one part sends another changes, and nothing else on the way does; exact.

A PATH runs from a sender through one input of each part on its way to the logits. Only what flows along it comes from
the other run: every part on the path is computed again, with its other inputs as they were. An EDGE is one step:
what a sender adds to one receiver changes, and everything after the receiver follows.

    embedding -> value of 0.0 -> key of 1.0 at own label -> logits

All paths of one length share the work of their beginnings, and are computed as one batch. See Goldowsky-Dill et al.,
arXiv 2304.05969, and Wang et al., arXiv 2211.00593, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from miclab.circuits.corrupted_pairs import Patched, Values
from miclab.circuits.edges import INPUTS, Edge, Input, Receiver, Sender
from miclab.circuits.graph import Graph, Outputs
from miclab.circuits.patching import Direction, answer_masks, answer_values
from miclab.errors import RunError
from miclab.worlds.sequences import Batch

ROWS = 2048
"""Sequences in one forward pass, over all edges or paths of it."""
MOST_PATHS = 5000
"""Paths that are computed one by one."""
Masks = Mapping[str, Bool[Tensor, "batch position"]]


@dataclass(frozen=True)
class Path:
    """A way from a sender to the logits: the inputs on it, in order."""

    sender: Sender
    through: tuple[Receiver, ...]

    def __str__(self) -> str:
        return " -> ".join(map(str, (self.sender, *self.through)))

    @property
    def attention_layers(self) -> int:
        """Number of heads on it, its sender included."""
        return sum(one.is_attention for one in self.through) + (self.sender.kind == "head")


@dataclass(frozen=True)
class Pair:
    """A run that is patched, and the run that patches come from.

    Arguments:
        kept: the run that is patched, part by part.
        changes: what each sender adds in the other run, minus what it adds in this one.
        masks: positions of each role.
        clean: clean sequences.
        corrupted: the same sequences, corrupted.
        logits: of the clean and the corrupted sequences.
    """

    kept: Outputs
    changes: dict[Sender, Tensor]
    masks: Masks
    clean: Batch
    corrupted: Batch
    logits: tuple[Tensor, Tensor]

    def values(self, logits: Float[Tensor, "row label"]) -> Values:
        """Metrics of logits, as `answer_values` has them."""
        return answer_values(logits, self.clean, self.corrupted)

    @property
    def ends(self) -> tuple[Values, Values]:
        """Metrics of the clean and of the corrupted sequences."""
        return self.values(self.logits[0]), self.values(self.logits[1])


def pair_of(graph: Graph, clean: Batch, corrupted: Batch, direction: Direction) -> Pair:
    """Both runs; `restore` patches clean activations into the corrupted run, `corrupt` the other way round."""
    both = graph.outputs(clean), graph.outputs(corrupted)
    given, kept = both if direction == "restore" else both[::-1]
    changes = {one: given.sent[one] - kept.sent[one] for one in graph.senders}
    return Pair(kept, changes, answer_masks(clean, corrupted), clean, corrupted, (both[0].logits, both[1].logits))


def with_roles(edges: Sequence[Edge], roles: Sequence[str]) -> list[Edge]:
    """Edges to keys and values once more for each role of the positions that send them."""
    found: list[Edge] = []
    for edge in edges:
        kind, layer, head = edge.receiver.kind, edge.receiver.layer, edge.receiver.head
        if kind in ("key", "value"):
            found += [Edge(edge.sender, Receiver(kind, layer, head, role)) for role in roles]
    return found


def _groups(count: int, size: int) -> Iterator[slice]:
    """Groups of so many patches that a forward pass has about `ROWS` sequences of `size` each."""
    together = max(1, ROWS // max(1, size))
    return (slice(start, min(count, start + together)) for start in range(0, count, together))


@dataclass(frozen=True)
class Step:
    """A change of what an input of attention reads.

    Arguments:
        receiver: the input.
        change: of the residual stream [batch position width].
        roles: the roles of positions at which it is changed, one after the other; an empty one: all positions.
    """

    receiver: Receiver
    change: Tensor
    roles: tuple[str, ...]


def heads_after(
    graph: Graph, pair: Pair, layer: int, steps: Sequence[Step]
) -> Iterator[tuple[int, Receiver, Float[Tensor, "batch head position dimension"]]]:
    """Outputs of a layer's heads after each step, by its number and role; all other inputs stay as they were."""
    x, count = pair.kept.before(graph.before(graph.inputs_of(layer)[0])), len(pair.clean)
    # Queries, keys and values of all heads read the same change, and are projected at once.
    by_change: dict[int, list[int]] = {}
    for number, step in enumerate(steps):
        by_change.setdefault(id(step.change), []).append(number)
    alike = list(by_change.values())
    for group in _groups(len(alike), count):
        changes = [steps[numbers[0]].change for numbers in alike[group]]
        read = graph.project(layer, (x + torch.stack(changes)).flatten(0, 1))
        wanted: list[tuple[int, Receiver, dict[Input, Tensor]]] = []
        for place, numbers in enumerate(alike[group]):
            here = slice(place * count, (place + 1) * count)
            new: dict[Input, Tensor] = {kind: value[here] for kind, value in read.items()}
            new["query"] = new["query"][:, :, graph.rows(layer)]
            wanted += [
                (number, *one) for number in numbers for one in _replaced(graph, pair, layer, steps[number], new)
            ]
        for part in _groups(len(wanted), count):
            here = wanted[part]
            joined: dict[Input, Tensor] = {kind: torch.cat([inputs[kind] for *_, inputs in here]) for kind in INPUTS}
            heads = graph.mix(layer, joined).unflatten(0, (len(here), count))
            yield from ((number, to, made) for (number, to, _), made in zip(here, heads, strict=True))


def _replaced(
    graph: Graph, pair: Pair, layer: int, step: Step, new: Mapping[Input, Tensor]
) -> Iterator[tuple[Receiver, dict[Input, Tensor]]]:
    """Queries, keys and values with those of a step's receiver replaced, for each of its roles."""
    # Queries of the last layer are needed at the last position alone.
    kind, old = cast("Input", step.receiver.kind), dict(pair.kept.inputs[layer])
    old["query"] = old["query"][:, :, graph.rows(layer)]
    head = graph.heads_of(step.receiver)[0] * graph.counts[layer][kind] // graph.heads
    for role in step.roles:
        to = Receiver(kind, layer, step.receiver.head, role)
        changed: dict[Input, Tensor] = {**old, kind: _put(old[kind], new[kind], head, pair.masks.get(role))}
        yield to, changed


def _put(old: Tensor, new: Tensor, head: int, mask: Tensor | None) -> Tensor:
    """Queries, keys or values with those of one head replaced, where the mask holds."""
    made = old.clone()
    made[:, head] = new[:, head] if mask is None else torch.where(mask[..., None], new[:, head], old[:, head])
    return made


def edge_logits(graph: Graph, pair: Pair, edges: Sequence[Edge]) -> Iterator[tuple[Edge, Float[Tensor, "batch label"]]]:
    """Logits with each edge patched alone; everything after its receiver is computed again."""
    by_receiver: dict[tuple[int, str], list[Edge]] = {}
    for edge in edges:
        kind = "attention" if edge.receiver.is_attention else edge.receiver.kind
        by_receiver.setdefault((edge.receiver.layer, kind), []).append(edge)
    for (layer, kind), here in by_receiver.items():
        x = pair.kept.before(graph.before(here[0].receiver))
        if kind == "attention":
            yield from _attention_edges(graph, pair, layer, x, here)
            continue
        rows = graph.rows(min(layer, graph.layers - 1))
        for group in _groups(len(here), len(x)):
            changed = x[:, rows] + torch.stack([pair.changes[edge.sender][:, rows] for edge in here[group]])
            if kind == "mlp":
                changed = x[:, rows] + graph.decoder.feed(graph.parameters, layer, changed)
            yield from zip(here[group], graph.go_on(min(layer + 1, graph.layers), changed), strict=True)


def _attention_edges(
    graph: Graph, pair: Pair, layer: int, x: Tensor, edges: Sequence[Edge]
) -> Iterator[tuple[Edge, Float[Tensor, "batch label"]]]:
    """`edge_logits` of the edges to the heads of one layer, whose input is x."""
    roles: dict[Edge, list[str]] = {}
    for edge in edges:
        to = Receiver(edge.receiver.kind, layer, edge.receiver.head)
        roles.setdefault(Edge(edge.sender, to), []).append(edge.receiver.role)
    steps = [Step(edge.receiver, pair.changes[edge.sender], tuple(some)) for edge, some in roles.items()]
    senders, x = [edge.sender for edge in roles], x[:, graph.rows(layer)]
    found = heads_after(graph, pair, layer, steps)
    together = max(1, ROWS // len(x))
    while some := list(islice(found, together)):
        after = x + graph.added(layer, torch.cat([heads for *_, heads in some])).unflatten(0, (len(some), len(x)))
        for (number, to, _), logits in zip(some, graph.finish(layer, after), strict=True):
            yield Edge(senders[number], to), logits


# -- whole paths --------------------------------------------------------------------------------------------------
def count_paths(graph: Graph, roles: int) -> int:
    """Number of paths from every sender, where keys and values of the last layer are split by so many roles."""
    reach: dict[Sender, int] = {}
    for sender in reversed(graph.senders):
        reach[sender] = 0
        for receiver in graph.receivers:
            if sender not in graph.before(receiver):
                continue
            if receiver.kind == "logits":
                reach[sender] += 1
                continue
            fed = graph.heads_of(receiver) if receiver.is_attention else (None,)
            kind = "mlp" if receiver.kind == "mlp" else "head"
            split = roles if _is_split(graph, receiver) else 1
            reach[sender] += split * sum(reach[Sender(kind, receiver.layer, head)] for head in fed)
    return sum(reach.values())


def _is_split(graph: Graph, receiver: Receiver) -> bool:
    """Whether paths name the role of the positions that a receiver reads: in the last layer, where the query's position
    alone reads, these are the keys and values."""
    return receiver.layer == graph.layers - 1 and receiver.kind in ("key", "value")


Began = dict[Sender, list[tuple[Path, Tensor]]]
"""Beginnings of paths by their last part, with the change of what that part adds to the stream. In the last layer the
change is that at the last position."""


def check_count(graph: Graph, pair: Pair) -> None:
    """Raises RunError if there are more than `MOST_PATHS` paths."""
    count = count_paths(graph, len(pair.masks))
    if count > MOST_PATHS:
        raise RunError(
            f"This decoder has {count:,} paths; at most {MOST_PATHS:,} are computed one by one. Take its edges alone:"
            " `--parts edges`, or in Python `parts=('edges',)`."
        )


def path_logits(graph: Graph, pair: Pair) -> Iterator[tuple[Path, Float[Tensor, "batch label"]]]:
    """Logits with each path patched alone.

    Paths start at every sender. Those from the embedding are all ways from the sequence to the answer. One from another
    sender carries all that changes in that sender.

    Raises:
        RunError: there are more than `MOST_PATHS`.
    """
    check_count(graph, pair)
    began: Began = {one: [(Path(one, ()), pair.changes[one])] for one in graph.senders}
    for layer in range(graph.layers):
        _through_attention(graph, pair, layer, began)
        if graph.has_mlp:
            _through_mlp(graph, pair, layer, began)
    last = graph.receivers[-1]
    x = pair.kept.before(graph.senders)[:, -1]
    for sender in graph.senders:
        for path, change in began[sender]:
            yield Path(path.sender, (*path.through, last)), graph.decoder.read(graph.parameters, x + change[:, -1])


def _through_attention(graph: Graph, pair: Pair, layer: int, began: Began) -> None:
    """Adds the paths that end in heads of a layer."""
    paths, steps = [], []
    for receiver in graph.inputs_of(layer):
        roles = tuple(pair.masks) if _is_split(graph, receiver) else ("",)
        for sender in graph.before(receiver):
            paths += [path for path, _ in began[sender]]
            steps += [Step(receiver, change, roles) for _, change in began[sender]]
    old = pair.kept.heads[layer][:, :, graph.rows(layer)]
    found = heads_after(graph, pair, layer, steps)
    together = max(1, ROWS // len(old))
    while some := list(islice(found, together)):
        moved = torch.cat([heads - old for *_, heads in some])
        sent = graph.contributions(layer, moved).unflatten(0, (len(some), len(old)))
        for (number, to, _), value in zip(some, sent, strict=True):
            path = Path(paths[number].sender, (*paths[number].through, to))
            for head in graph.heads_of(to):
                began[Sender("head", layer, head)].append((path, value[:, head]))


def _through_mlp(graph: Graph, pair: Pair, layer: int, began: Began) -> None:
    """Adds the paths that end in the MLP of a layer."""
    receiver = Receiver("mlp", layer)
    steps = [(Path(p.sender, (*p.through, receiver)), change) for s in graph.before(receiver) for p, change in began[s]]
    last = graph.rows(layer)
    x = pair.kept.before(graph.before(receiver))[:, last]
    old = pair.kept.sent[Sender("mlp", layer)][:, last]
    for group in _groups(len(steps), len(x)):
        some = steps[group]
        changed = x + torch.stack([change[:, last] for _, change in some])
        sent = graph.decoder.feed(graph.parameters, layer, changed) - old
        began[Sender("mlp", layer)] += [(path, value) for (path, _), value in zip(some, sent, strict=True)]


def patched_values(
    graph: Graph,
    clean: Batch,
    corrupted: Batch,
    direction: Direction = "restore",
    *,
    paths: bool = True,
    edges: Callable[[Pair], Sequence[Edge]] | None = None,
) -> tuple[Values, Values, Patched]:
    """Metrics of each sequence: clean, corrupted, and with every edge and path patched alone.

    Arguments:
        clean: sequences of the decoder's length.
        corrupted: the same sequences, corrupted.
        direction: `restore` puts what a clean run sends into the corrupted run, `corrupt` the other way round.
        paths: whether paths are patched.
        edges: the edges to patch; None: every edge, and those to keys and values also by role.
    """
    pair = pair_of(graph, clean, corrupted, direction)
    if paths:
        # Before the edges, which take their time.
        check_count(graph, pair)
    chosen = edges(pair) if edges else [*graph.edges(), *with_roles(graph.edges(), list(pair.masks))]
    found: dict[Edge | Path, Values] = {edge: pair.values(made) for edge, made in edge_logits(graph, pair, chosen)}
    if paths:
        found |= {path: pair.values(made) for path, made in path_logits(graph, pair)}
    return *pair.ends, found
