"""Episodes in batches: prompts of similar length go through a model together.

Prompts are padded on the right, so an episode has the results that it has alone, but for rounding. Each episode is
encoded once, into a window of neighbours. The window is sorted by length and cut, so that little is padding. Memory is
bounded by the tokens of a batch and of the window, whatever the task's length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from miclab.mllm.errors import TaskError
from miclab.mllm.prompt import Prompter
from miclab.mllm.reading import Encoded
from miclab.mllm.task import Episode, Task

TOKENS = 2048
"""Most tokens of a batch with padding, if its number of episodes is not given. One episode may have more."""
WINDOW = 8 * TOKENS
"""Tokens of a window, which stays in memory with its pictures."""
SIMILAR = 7 / 8
"""Least length of a prompt, as a share of the longest in its batch."""


@dataclass(frozen=True)
class _One:
    """An encoded episode, with its number in the task."""

    number: int
    episode: Episode
    encoded: Encoded

    @property
    def rows(self) -> int:
        return len(self.encoded.readings)

    @property
    def length(self) -> int:
        return self.encoded.inputs["input_ids"].shape[1]


def batches(
    prompter: Prompter, batch: int, lost: dict[str, str] | None = None, *, every: bool = True
) -> Iterator[tuple[tuple[Episode, ...], Encoded]]:
    """The task's episodes in batches, each episode with every candidate answer. A batch is in the task's order, but
    neighbours may be in other batches (`in_order`).

    Arguments:
        batch: episodes of a batch; 0: as many of similar length as have `TOKENS` tokens together.
        lost: gets the reason for each episode that cannot be read and is left out, by its name. None: the first one
            raises.
        every: False: each episode with only the right answer.

    Raises:
        TaskError: an episode cannot be read, and `lost` is None.
    """
    window: list[_One] = []
    held = 0
    for number, episode in enumerate(prompter.task.episodes):
        try:
            encoded = prompter.encode([(episode, one) for one in (episode.candidates if every else (episode.answer,))])
        except TaskError as error:
            if lost is None:
                raise
            lost[episode.name] = str(error)
            continue
        window.append(_One(number, episode, encoded))
        held += window[-1].rows * window[-1].length
        if batch == 1 or (held >= WINDOW and len(window) % max(batch, 1) == 0):
            yield from _joined(prompter, window, batch)
            window, held = [], 0
    yield from _joined(prompter, window, batch)


def joined(prompter: Prompter, encoded: Sequence[Encoded], batch: int = 0) -> Iterator[tuple[tuple[int, ...], Encoded]]:
    """Batches of one episode each as batches of similar length, each with the numbers of its episodes.

    Arguments:
        batch: episodes of a batch; 0: as many of similar length as have `TOKENS` tokens together.
    """
    window = [_One(number, one.readings[0].episode, one) for number, one in enumerate(encoded)]
    for lot in _cut(window, batch):
        yield tuple(one.number for one in lot), _together(prompter, lot)


def in_order(names: Sequence[str], task: Task) -> list[int]:
    """The rows of some episodes in the task's order.

    Arguments:
        names: of the episodes, in the order in which they were read.
    """
    place = {episode.name: number for number, episode in enumerate(task.episodes)}
    return sorted(range(len(names)), key=lambda row: place[names[row]])


def lost_text(lost: Mapping[str, str], episodes: int) -> str:
    """The episodes of a task that could not be read, in words; empty if all could."""
    if not lost:
        return ""
    shown = "; ".join(list(lost.values())[:3])
    more = f"; and {len(lost) - 3} more" if len(lost) > 3 else ""
    return f"{len(lost)} of {episodes} episodes could not be read and were left out: {shown}{more}"


def _fits(one: _One, lot: Sequence[_One], batch: int) -> bool:
    """Whether an episode may join a batch, to whose first and longest one it would be padded."""
    if batch:
        return len(lot) < batch
    rows = one.rows + sum(other.rows for other in lot)
    return rows * lot[0].length <= TOKENS and one.length >= SIMILAR * lot[0].length


def _joined(prompter: Prompter, window: Sequence[_One], batch: int) -> Iterator[tuple[tuple[Episode, ...], Encoded]]:
    """The batches of a window."""
    for lot in _cut(window, batch):
        yield tuple(one.episode for one in lot), _together(prompter, lot)


def _cut(window: Sequence[_One], batch: int) -> list[list[_One]]:
    """The episodes of each batch of a window."""
    lots: list[list[_One]] = []
    for one in sorted(window, key=lambda one: -one.length):
        if lots and _fits(one, lots[-1], batch):
            lots[-1].append(one)
        else:
            lots.append([one])
    ordered = [sorted(lot, key=lambda one: one.number) for lot in lots]
    return sorted(ordered, key=lambda lot: lot[0].number)


def _together(prompter: Prompter, lot: Sequence[_One]) -> Encoded:
    """Encoded episodes as one batch."""
    if len(lot) == 1:
        return lot[0].encoded
    parts, width = [one.encoded for one in lot], max(one.length for one in lot)
    inputs: dict[str, Tensor] = {}
    for name, first in parts[0].inputs.items():
        tensors = [part.inputs[name] for part in parts if name in part.inputs]
        if first.shape[:2] == parts[0].inputs["input_ids"].shape:
            fill = int(prompter.tokenizer.pad_token_id) if name == "input_ids" else 0
            tensors = [nn.functional.pad(one, (0, width - one.shape[1]), value=fill) for one in tensors]
        if len(tensors) < len(parts) or len({one.shape[1:] for one in tensors}) > 1:
            # The processor has its own way to pad pictures of several sizes.
            return prompter.encode([(r.episode, r.answer) for part in parts for r in part.readings])
        inputs[name] = torch.cat(tensors)
    return Encoded(inputs, tuple(reading for part in parts for reading in part.readings))
