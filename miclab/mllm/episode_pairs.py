"""Pairs of prompts for causal tracing: an episode, and the same episode corrupted in one thing.

The right answer has a rival: the first other answer of the context. A corruption makes the rival the right answer. Both
prompts of a pair have as many tokens, of the same kinds at the same positions. So an activation of one can take the
place of the other's. Episodes without such a pair are left out and counted.

    clean            item a, item b, item a, item b, query a -> A      with labels A B A B
    labels_swapped   item a, item b, item a, item b, query a -> B      with labels B A B A
    items_swapped    item b, item a, item b, item a, query a -> B      with labels A B A B
    query_other      item a, item b, item a, item b, item b  -> B      with labels A B A B
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from miclab.errors import ConfigError
from miclab.mllm.batches import WINDOW, joined, lost_text
from miclab.mllm.errors import TaskError
from miclab.mllm.loading import Production
from miclab.mllm.passes import forward
from miclab.mllm.prompt import Prompter
from miclab.mllm.reading import Encoded, Reading
from miclab.mllm.task import Episode, Example, Task


def labels_swapped(episode: Episode, rival: str) -> Episode:
    """The right answer and the rival trade places in all examples."""
    other = {episode.answer: rival, rival: episode.answer}
    support = tuple(replace(one, answer=other.get(one.answer, one.answer)) for one in episode.support)
    return replace(episode, support=support, answer=rival)


def items_swapped(episode: Episode, rival: str) -> Episode:
    """Items of the right answer's examples and of the rival's trade places, each with its own question. Where one has
    fewer examples, its items repeat."""
    items = {answer: [one for one in episode.support if one.answer == answer] for answer in (episode.answer, rival)}
    other, seen = {episode.answer: rival, rival: episode.answer}, Counter[str]()
    support: list[Example] = []
    for one in episode.support:
        if one.answer in other:
            given = items[other[one.answer]]
            new = given[seen[one.answer] % len(given)]
            seen[one.answer] += 1
            one = replace(one, item=new.item, question=new.question)
        support.append(one)
    return replace(episode, support=tuple(support), answer=rival)


def query_other(episode: Episode, rival: str) -> Episode:
    """The query shows the item of the rival's last example."""
    item = [one.item for one in episode.support if one.answer == rival][-1]
    return replace(episode, query=item, answer=rival)


@dataclass(frozen=True)
class Corruption:
    """A change to an episode, after which the rival is the right answer.

    Arguments:
        words: what it changes.
        function: from an episode and its rival to the corrupted episode.
    """

    words: str
    function: Callable[[Episode, str], Episode]


CORRUPTIONS: dict[str, Corruption] = {
    "labels_swapped": Corruption("the right answer and a rival trade places in the context", labels_swapped),
    "items_swapped": Corruption("items of the right answer and of a rival trade places in the context", items_swapped),
    "query_other": Corruption("the query shows an item of a rival", query_other),
}
"""Corruptions of episodes by name."""
NO_RIVAL = "the context lacks the right answer or another"
BEGIN_ALIKE = "the two answers begin with one token"
UNEQUAL = "clean and corrupted prompt differ in length or layout (labels, items or questions of unequal length)"
UNCHANGED = "the corruption changes nothing"
REMEDY = "Choose another --corruption, or a task with equally long answers and items that differ."


def corruption_named(name: str) -> Corruption:
    """A corruption by its name.

    Raises:
        ConfigError: there is none.
    """
    if name not in CORRUPTIONS:
        raise ConfigError("corruption", name, f"one of {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name]


def rival_of(episode: Episode) -> str | None:
    """The first other answer of the context; None where the context lacks it or the right answer."""
    if not episode.in_context:
        return None
    return next((one.answer for one in episode.support if one.answer != episode.answer), None)


@dataclass(frozen=True)
class Pairs:
    """Clean and corrupted prompts of a batch, row by row of the same length. Both are followed by the clean answer.

    Arguments:
        clean: the episodes.
        corrupted: the same episodes corrupted, with the readings of the clean ones: positions and roles are the same.
        right: first token of the clean answer, int64 [row].
        rival: first token of the rival, which is right in the corrupted prompt, int64 [row].
    """

    clean: Encoded
    corrupted: Encoded
    right: Int[Tensor, " row"]
    rival: Int[Tensor, " row"]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the episodes."""
        return tuple(reading.episode.name for reading in self.clean.readings)

    @property
    def last(self) -> Int[Tensor, " row"]:
        """The position of each row that predicts the answer."""
        return torch.tensor([reading.last for reading in self.clean.readings])

    def difference(self, logits: Float[Tensor, "row vocabulary"]) -> Float[Tensor, " row"]:
        """Logit of the clean answer's first token minus that of the rival's, on the logits' device."""
        right, rival = self.right.to(logits.device), self.rival.to(logits.device)
        rows = torch.arange(len(right), device=logits.device)
        found = logits[rows, right], logits[rows, rival]
        # Numbers of 16 bits are too coarse for a difference.
        right_one, other = found if logits.dtype == torch.float64 else (one.float() for one in found)
        return right_one - other


def answer_logits(production: Production, encoded: Encoded) -> Float[Tensor, "row vocabulary"]:
    """The model's logits at the last position before each row's answer. Gradients are kept if they are enabled."""
    places, where = torch.tensor([reading.last for reading in encoded.readings]).unique(return_inverse=True)
    logits = forward(production.model, encoded.to(production.model), places)
    return logits[torch.arange(len(where), device=logits.device), where.to(logits.device)]


@dataclass(frozen=True)
class _Pair:
    """One episode's pair, each prompt as a batch of one row."""

    clean: Encoded
    corrupted: Encoded
    right: int
    rival: int


def _layout(encoded: Encoded) -> tuple[Any, ...]:
    """All that has to be equal in the two prompts of a pair: kinds of positions, and the grids of pictures."""
    (reading,) = encoded.readings
    others = {
        name: (value.shape, value.tolist() if not value.is_floating_point() else None)
        for name, value in encoded.inputs.items() if name != "input_ids"
    }  # fmt: skip
    return (reading.last, reading.answer_positions, reading.questions, reading.roles.kind.tolist(),
            reading.roles.exemplar.tolist(), others)  # fmt: skip


def _is_equal(one: Encoded, other: Encoded) -> bool:
    return all(torch.equal(value, other.inputs[name]) for name, value in one.inputs.items())


def _pair(prompter: Prompter, episode: Episode, corruption: Corruption) -> _Pair | str:
    """An episode's pair, or why it has none.

    Raises:
        TaskError: one of the prompts cannot be read.
    """
    rival = rival_of(episode)
    if rival is None:
        return NO_RIVAL
    changed = corruption.function(episode, rival)
    clean, other, corrupted = (
        prompter.encode([pair]) for pair in ((episode, episode.answer), (episode, rival), (changed, episode.answer))
    )
    right, first = (one.ids(0, one.readings[0].answer_positions[:1])[0] for one in (clean, other))
    if right == first:
        return BEGIN_ALIKE
    if _layout(clean) != _layout(corrupted) or clean.readings[0].last != other.readings[0].last:
        return UNEQUAL
    if corrupted.ids(0, clean.readings[0].answer_positions) != clean.ids(0, clean.readings[0].answer_positions):
        return UNEQUAL
    return UNCHANGED if _is_equal(clean, corrupted) else _Pair(clean, corrupted, right, first)


def _together(prompter: Prompter, window: list[_Pair], batch: int) -> Iterator[Pairs]:
    """The pairs of a window in batches."""
    for numbers, clean in joined(prompter, [one.clean for one in window], batch):
        lot = [window[number] for number in numbers]
        ((_, corrupted),) = joined(prompter, [one.corrupted for one in lot], len(lot))
        readings: tuple[Reading, ...] = clean.readings
        yield Pairs(clean, Encoded(corrupted.inputs, readings), torch.tensor([one.right for one in lot]),
                    torch.tensor([one.rival for one in lot]))  # fmt: skip


def pairs(
    production: Production, task: Task, corruption: str, batch: int, lost: dict[str, str], left_out: dict[str, str]
) -> Iterator[Pairs]:
    """The pairs of a task in batches. A batch is in the task's order, but neighbours may be in other batches.

    Arguments:
        corruption: of `CORRUPTIONS`.
        batch: episodes of a batch; 0: as many of similar length as have 2,048 tokens together.
        lost: gets the reason for each episode that cannot be read, by its name.
        left_out: gets the reason for each episode that has no pair, by its name.

    Raises:
        ConfigError: there is no such corruption.
        TaskError: no episode has a pair.
    """
    change, prompter = corruption_named(corruption), production.prompter(task)
    window: list[_Pair] = []
    held, found = 0, False
    for episode in task.episodes:
        try:
            made = _pair(prompter, episode, change)
        except TaskError as error:
            lost[episode.name] = str(error)
            continue
        if isinstance(made, str):
            left_out[episode.name] = made
            continue
        found = True
        window.append(made)
        held += made.clean.inputs["input_ids"].shape[1]
        if batch == 1 or (held >= WINDOW and len(window) % max(batch, 1) == 0):
            yield from _together(prompter, window, batch)
            window, held = [], 0
    yield from _together(prompter, window, batch)
    if not found:
        why = [*left_out_notes(left_out), lost_text(lost, len(task.episodes))]
        raise TaskError(f"{task.name}: {corruption} makes no pair of prompts. {' '.join(filter(None, why))} {REMEDY}")


def left_out_notes(left_out: Mapping[str, str]) -> list[str]:
    """How many episodes have no pair, by reason."""
    counts = Counter(left_out.values())
    return [f"{count} {'episode was' if count == 1 else 'episodes were'} left out: {reason}."
            for reason, count in counts.items()]  # fmt: skip
