"""Logit lens by layer and kind of position, and direct logit attribution of heads.

Both follow the first token of the right answer against those of the other answers of the context. An episode whose
answers begin alike, or that has no other answer, says nothing here and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from miclab import tables
from miclab.circuits.find import Head, head_name
from miclab.mllm.batches import batches, in_order, lost_text
from miclab.mllm.edges import role_names
from miclab.mllm.errors import TaskError, memory_guard
from miclab.mllm.layers import all_heads
from miclab.mllm.loading import Production
from miclab.mllm.passes import forward
from miclab.mllm.prompt import Prompter
from miclab.mllm.reading import Encoded, Reading
from miclab.mllm.readout import NoAttributionError, Readout, by_head, check_sum, feed_forward_of, first_of, readout_of
from miclab.mllm.scoring import OnProgress
from miclab.mllm.task import Episode, Task
from miclab.statistics.intervals import Interval, episode_interval
from miclab.tables import Number, Table, Tabled, table

ROLES = ("right item", "wrong item", "right label", "wrong label", "question", "text", "query", "last")
"""Kinds of position. `right` ones are of examples of the right answer; the last position predicts the answer."""
LENSES = {
    "difference": "logit of the right answer minus other answers",
    "probability": "probability of its first token",
}
POSITIONS = 64
"""Positions whose logits over the vocabulary are held at once."""


@dataclass(frozen=True)
class Lens(Tabled):
    """Logit lens and direct logit attribution of one model on one task.

    Arguments:
        model: its name.
        task: its name.
        layers: indices of its attention layers.
        heads: all heads, in order.
        lens: by name of `LENSES`, [episode, layer, role]: the first is the stream before the first layer, the others
            after each. NaN where a prompt has no such position.
        parts: what each part of the last position's stream adds to the logit difference [episode]: `embedding`,
            `feed-forward LAYER`, `rest` (biases, and what is added elsewhere), and `sum`.
        by_head: the same of each head [episode, head].
        names: of the measured episodes.
        left_out: number of episodes whose answers begin alike.
        no_attribution: why there is no direct logit attribution, so that `parts` and `by_head` are empty; else empty.
        problem: why some episodes are missing; empty if none is.
    """

    model: str
    task: str
    layers: tuple[int, ...]
    heads: tuple[Head, ...]
    lens: dict[str, NDArray[np.floating]] = field(repr=False)
    parts: dict[str, NDArray[np.floating]] = field(repr=False)
    by_head: NDArray[np.floating] = field(repr=False)
    names: tuple[str, ...]
    left_out: int = 0
    no_attribution: str = ""
    problem: str = ""

    @property
    def roles(self) -> tuple[str, ...]:
        """Kinds of position that the prompts have."""
        values = self.lens["difference"]
        return tuple(role for number, role in enumerate(ROLES) if not np.isnan(values[..., number]).all())

    @property
    def stages(self) -> tuple[str, ...]:
        """Where the stream is looked at."""
        return ("embedding", *(f"after layer {index}" for index in self.layers))

    def at(self, lens: str, stage: int, role: str) -> Interval:
        """The lens at a stage and a kind of position, over the episodes that have it."""
        values = self.lens[lens][:, stage, ROLES.index(role)]
        return episode_interval(values[~np.isnan(values)])

    def ranked(self) -> list[Head]:
        """The heads, those that add most to the right answer first."""
        order = np.argsort(-self.by_head.mean(0), kind="stable")
        return [self.heads[i] for i in order.tolist()]

    def of(self, head: Head) -> Interval:
        """What a head adds to the logit difference."""
        return episode_interval(self.by_head[:, self.heads.index(head)])

    def tables(self) -> tuple[Table, ...]:
        """Each lens by stage and role; then the parts of the last position's stream."""
        on = f"{self.model} on {len(self.names)} episodes of {self.task}"
        found = []
        for lens, words in LENSES.items():
            rows = [[stage, *(Number(self.at(lens, number, role).mean, 3) for role in self.roles)]
                    for number, stage in enumerate(self.stages)]  # fmt: skip
            found.append(table(f"logit lens, {words}: {on}", ["stream", *self.roles], rows, self._notes()))
        if self.no_attribution:
            return (replace(found[0], notes=(*found[0].notes, self.no_attribution)), *found[1:])
        rows = [[name, episode_interval(values)] for name, values in self.parts.items() if name != "sum"]
        for number, index in enumerate(self.layers):
            inside = [i for i, head in enumerate(self.heads) if head[0] == self.layers[number]]
            rows.append([f"heads of layer {index}", episode_interval(self.by_head[:, inside].sum(1))])
        rows.append(["sum: the model's logit difference", episode_interval(self.parts["sum"])])
        found.append(table(f"direct logit attribution at the last position: {on}", ["part", "logits"], rows))
        return tuple(found)

    def strongest(self, top: int) -> tuple[Table, ...]:
        """The heads that add most to the right answer, and those that take most; nothing without attribution."""
        if self.no_attribution:
            return ()
        ranked = self.ranked()
        shown = [*ranked[:top], *(head for head in ranked[-top:] if head not in ranked[:top])]
        rows = [[tables.HeadName(*head), self.of(head)] for head in shown]
        title = "direct logit attribution of heads: most for the right answer, most against it"
        return (table(title, ["head", "logits"], rows),)

    def _notes(self) -> list[str]:
        return [
            f"{self.left_out} episodes were left out: their answers begin with one token, or there is no other."
        ] * (self.left_out > 0)


@dataclass(frozen=True)
class Tokens:
    """First tokens of an episode's answers.

    Arguments:
        right: of the right one.
        other: of each other.
    """

    right: int
    other: tuple[int, ...]


def first_tokens(prompter: Prompter, episodes: Sequence[Episode]) -> list[Tokens | None]:
    """First tokens of each episode's answers; None where the right one begins as another does, or there is no other."""
    encoded = prompter.encode([(episode, answer) for episode in episodes for answer in episode.candidates])
    found: list[Tokens | None] = []
    start = 0
    for episode in episodes:
        rows = range(start, start + len(episode.candidates))
        firsts = [encoded.ids(row, encoded.readings[row].answer_positions[:1])[0] for row in rows]
        right = firsts.pop(episode.candidates.index(episode.answer))
        found.append(Tokens(right, tuple(firsts)) if firsts and right not in firsts else None)
        start += len(episode.candidates)
    return found


def role_masks(reading: Reading) -> Float[Tensor, "role position"]:
    """1 at the positions of each of `ROLES`."""
    names, last = role_names(reading), torch.zeros(reading.length, dtype=torch.bool)
    last[-1] = True
    right = torch.zeros(reading.length, dtype=torch.bool)
    for number in (reading.labels == reading.target).nonzero()[:, 0].tolist():
        right |= reading.roles.exemplar == number
    masks = []
    for role in ROLES:
        kind = role.split()[-1]
        here = last if role == "last" else torch.tensor([name == kind for name in names])
        masks.append(here & right if role.startswith("right") else here & ~right if role.startswith("wrong") else here)
    return torch.stack(masks).float()


@dataclass
class _Seen:
    """What is seen of one batch.

    Arguments:
        lens: by stage [row, role, lens].
        streams: at the last position, by stage.
        attention: outputs of a layer's heads there, by the layer's index.
        feed_forward: what a layer's feed-forward part writes there.
    """

    lens: list[Tensor] = field(default_factory=list)
    streams: list[Tensor] = field(default_factory=list)
    attention: dict[int, Tensor] = field(default_factory=dict)
    feed_forward: dict[int, Tensor] = field(default_factory=dict)


def _look(readout: Readout, stream: Tensor, encoded: Encoded, tokens: Sequence[Tokens]) -> Tensor:
    """The lens on one stage [row, role, lens]."""
    rows = []
    for row, (reading, token) in enumerate(zip(encoded.readings, tokens, strict=True)):
        masks, values = role_masks(reading), []
        for part in stream[row, : reading.length].split(POSITIONS):
            logits = readout.logits(part)
            own = logits[:, token.right]
            others = logits[:, list(token.other)].mean(-1)
            values.append(torch.stack([own - others, (own - logits.logsumexp(-1)).exp()], -1).cpu())
        # NaN where there is no such position.
        rows.append(masks @ torch.cat(values).float() / masks.sum(-1, keepdim=True))
    return torch.stack(rows)


@contextmanager
def _seeing(production: Production, readout: Readout, encoded: Encoded, tokens: Sequence[Tokens]) -> Iterator[_Seen]:
    """A context in which one forward pass is seen."""
    seen = _Seen()
    rows, last = torch.arange(len(encoded.readings)), torch.tensor([reading.last for reading in encoded.readings])

    def take(stream: Tensor) -> None:
        seen.lens.append(_look(readout, stream, encoded, tokens))
        seen.streams.append(stream[rows, last].float())

    def before(module: Any, arguments: tuple[Any, ...], more: dict[str, Any]) -> None:
        take(arguments[0] if arguments else more["hidden_states"])

    def heads(index: int) -> Any:
        def look(module: Any, arguments: tuple[Any, ...]) -> None:
            seen.attention[index] = arguments[0][rows, last]

        return look

    def written(index: int) -> Any:
        def look(module: Any, arguments: Any, output: Any) -> None:
            found = first_of(output)
            seen.feed_forward[index] = found.view(len(rows), -1, found.shape[-1])[rows, last].float()

        return look

    with ExitStack() as stack:
        for number, layer in enumerate(production.layers):
            block = readout.blocks[layer.index]
            if number == 0:
                stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(block.register_forward_hook(lambda _, __, output: take(first_of(output))).remove)
            stack.callback(layer.output_projection.register_forward_pre_hook(heads(layer.index)).remove)
            forwards = feed_forward_of(block)
            if forwards is not None:
                stack.callback(forwards.register_forward_hook(written(layer.index)).remove)
        yield seen


def _attribute(
    production: Production, readout: Readout, seen: _Seen, tokens: Sequence[Tokens]
) -> tuple[dict[str, Tensor], Tensor]:
    """What parts and heads add to the logit difference at the last position."""
    right = torch.tensor([token.right for token in tokens])
    direction, constant = readout.direction(seen.streams[-1], right, [torch.tensor(token.other) for token in tokens])
    parts = {"embedding": (seen.streams[0] * direction).sum(-1)}
    heads = []
    for number, layer in enumerate(production.layers):
        index, block = layer.index, readout.blocks[layer.index]
        written = by_head(layer, seen.attention[index])
        forwards = seen.feed_forward.get(index)
        if forwards is not None:
            bias = layer.output_projection(torch.zeros_like(seen.attention[index])).float()
            check_sum(block, written.sum(1) + bias + forwards, seen.streams[number + 1] - seen.streams[number])
            parts[f"feed-forward {index}"] = (forwards * direction).sum(-1)
        heads.append((written * direction[:, None]).sum(-1))
    total = (seen.streams[-1] * direction).sum(-1) + constant
    by_heads = torch.cat(heads, 1)
    parts["rest"] = total - by_heads.sum(1) - torch.stack(list(parts.values())).sum(0)
    return parts | {"sum": total}, by_heads


@torch.no_grad()
def look(production: Production, task: Task, batch: int = 0, on_progress: OnProgress | None = None) -> Lens:
    """Applies the logit lens and direct logit attribution to the episodes of a task.

    Raises:
        TaskError: no episode can be used.
        ModelError: the model's final norm or unembedding is not found, or its logits are made in an unknown way.
        OutOfMemoryError: it does not fit.
    """
    readout, prompter = readout_of(production), production.prompter(task)
    lens: list[Tensor] = []
    parts: dict[str, list[Tensor]] = {}
    by_heads: list[Tensor] = []
    names, lost, left_out, no_attribution, settled = [], {}, 0, "", False
    for episodes, _ in batches(prompter, batch, lost, every=False):
        firsts = first_tokens(prompter, episodes)
        usable = [(episode, token) for episode, token in zip(episodes, firsts, strict=True) if token is not None]
        left_out += len(episodes) - len(usable)
        if usable:
            tokens = [token for _, token in usable]
            encoded = prompter.encode([(episode, episode.answer) for episode, _ in usable])
            if not settled:
                with memory_guard(f"reading {encoded.inputs['input_ids'].shape[1]} tokens"):
                    readout, settled = readout.settled(production, encoded), True
            with (
                memory_guard(f"looking at {encoded.inputs['input_ids'].shape[1]} tokens"),
                _seeing(production, readout, encoded, tokens) as seen,
            ):
                forward(production.model, encoded.to(production.model))
            lens.append(torch.stack(seen.lens, 1))
            if not no_attribution:
                try:
                    made, of_heads = _attribute(production, readout, seen, tokens)
                    by_heads.append(of_heads.cpu())
                    for name, of in made.items():
                        parts.setdefault(name, []).append(of.cpu())
                except NoAttributionError as error:
                    no_attribution = str(error)
            names += [episode.name for episode, _ in usable]
        if on_progress:
            on_progress(len(names) + left_out + len(lost), "")
    if not names:
        why = lost_text(lost, len(task.episodes)) or "the answers of every episode begin with one token"
        raise TaskError(f"{task.name}: no episode can be used: {why}")
    order = in_order(names, task)
    values = torch.cat(lens)[order].double().numpy()
    if no_attribution:
        # What an earlier batch gave does not stand for all.
        parts, by_heads = {}, [torch.zeros(len(names), 0)]
    return Lens(
        production.name, task.name, tuple(layer.index for layer in production.layers),
        () if no_attribution else all_heads(production.layers),
        {name: values[..., number] for number, name in enumerate(LENSES)},
        {name: torch.cat(of)[order].double().numpy() for name, of in parts.items()},
        torch.cat(by_heads)[order].double().numpy(), tuple(names[row] for row in order), left_out, no_attribution,
        lost_text(lost, len(task.episodes)),
    )  # fmt: skip


def head_rows(found: Lens) -> list[dict[str, Any]]:
    """A row for each episode and head."""
    return [
        {"episode": name, "head": head_name(head), "layer": head[0], "logits": float(found.by_head[row, column])}
        for row, name in enumerate(found.names)
        for column, head in enumerate(found.heads)
    ]


def lens_rows(found: Lens) -> list[dict[str, Any]]:
    """A row for each episode, stage and kind of position that it has."""
    return [
        {"episode": name, "stream": stage, "role": role}
        | {lens: float(values[row, number, ROLES.index(role)]) for lens, values in found.lens.items()}
        for row, name in enumerate(found.names)
        for number, stage in enumerate(found.stages)
        for role in found.roles
        if not np.isnan(found.lens["difference"][row, number, ROLES.index(role)])
    ]
