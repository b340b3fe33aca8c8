"""Episodes: labelled examples, a query and the answer, and how they are written."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from miclab.mllm.errors import TaskError
from miclab.storage import digest, json_bytes, read_file

TEMPLATE = "{item}\n{question}Answer: {answer}\n\n"
"""Default template of an example, unless task.json or `--template` gives another."""
FIELDS = "{item}, {question} and {answer}"
View = Literal["image", "text"]
Rule = Literal["text", "number", "yes or no"]
"""The part of an answer that VL-ICL Bench compares: all of it, its first number, or whether it says yes."""


@dataclass(frozen=True)
class Item:
    """An item in pictures, words, or both. The task's `view` selects what a model sees."""

    images: tuple[Path, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Example:
    """A labelled example.

    Arguments:
        item: the labelled item.
        answer: its label.
        question: its own; None: the episode's.
    """

    item: Item
    answer: str
    question: str | None = None


@dataclass(frozen=True)
class Episode:
    """Labelled examples and a query.

    Arguments:
        name: place in its file, for messages.
        support: the examples.
        query: the item to answer for.
        answer: the right answer.
        question: the question about the query, and about examples that have none of their own; may be empty.
        choices: answers that can be right though no example has them, such as yes and no.
    """

    name: str
    support: tuple[Example, ...]
    query: Item
    answer: str
    question: str = ""
    choices: tuple[str, ...] = ()

    @property
    def candidates(self) -> tuple[str, ...]:
        """The distinct answers of the context, in their order, then the choices and the right one if missing."""
        return tuple(dict.fromkeys([*(example.answer for example in self.support), *self.choices, self.answer]))

    def question_of(self, example: Example) -> str:
        """The question about an example."""
        return self.question if example.question is None else example.question

    @property
    def in_context(self) -> bool:
        """Whether the right answer is in the context."""
        return any(example.answer == self.answer for example in self.support)


@dataclass(frozen=True, kw_only=True)
class Style:
    """The style of prompts.

    Arguments:
        instruction: text before the first example.
        template: text of an example, with the fields {item}, {question} and {answer}; the query's ends at {answer}.

    Raises:
        TaskError: the template lacks {item} or {answer}, or has them in the wrong order.
    """

    instruction: str = ""
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        item, answer = self.template.find("{item}"), self.template.find("{answer}")
        if item < 0 or answer < item or self.template.count("{item}") > 1 or self.template.count("{answer}") > 1:
            raise TaskError(
                f"template = {self.template!r} is not possible: it takes {FIELDS}, the item once and before the answer."
            )
        if "{question}" in self.template[answer:]:
            raise TaskError(f"template = {self.template!r} is not possible: a question stands before its answer.")

    @property
    def pieces(self) -> tuple[list[str], str]:
        """The part before an answer, as alternating texts and fields (`{item}`, `{question}`), and the text after it.
        Other braces are text."""
        before, after = self.template.split("{answer}")
        return re.split(r"(\{item\}|\{question\})", before), after


@dataclass(frozen=True, kw_only=True)
class Task:
    """Episodes in one style of prompt.

    Arguments:
        name: of its folder.
        shots: N of N-shot.
        episodes: at least one.
        style: how they are written.
        view: whether items are shown as images or as text.
        rule: the part of an answer that the benchmark compares.
    """

    name: str
    shots: int
    episodes: tuple[Episode, ...]
    style: Style = field(default_factory=Style)
    view: View = "image"
    rule: Rule = "text"

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of every episode: its answers, questions and words, and the bytes of its pictures. It does not depend
        on the view, so that an episode is known again in the other."""
        pictures: dict[Path, str] = {}

        def of(item: Item) -> list[Any]:
            for path in item.images:
                if path not in pictures:
                    pictures[path] = digest(read_file(path)) if path.is_file() else ""
            return [[pictures[path] for path in item.images], item.text]

        def content(episode: Episode) -> list[Any]:
            found = [[[of(one.item), one.answer] for one in episode.support], of(episode.query), episode.answer,
                     episode.question]  # fmt: skip
            own = [episode.question_of(one) for one in episode.support]
            return [*found, own] if any(question != episode.question for question in own) else found

        return tuple(digest(json_bytes(content(episode))) for episode in self.episodes)

    def part(self, start: int, end: int | None = None) -> Task:
        """The same task with some of its episodes."""
        return replace(self, episodes=self.episodes[start:end])
