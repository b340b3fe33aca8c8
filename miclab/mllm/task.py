"""Episodes: labelled examples, a query and the answer, and how they are written. `load_task` reads a folder of them.

    N-shot.json   [{"query": {"image": [PATH], "answer": A}, "support": {"N-shot": [{"image": [PATH], "answer": A}, ...]}}]
    query.json    [{"image": [PATH], "question": Q, "answer": A, "classes": [...],
                    "support": {CLASS: {"images": [PATH, ...]}}}]
    support.json  [{"image": [PATH], "question": Q, "answer": A}, ...]: where the queries have no support of their own
    task.json     {"instruction": ..., "template": ...}: how it is written, if there is such a file (ours)

`text` beside or in the place of `image` describes an item in words: the text-only variant of a task. Tasks of VL-ICL
Bench have layouts of their own: `miclab/mllm/benchmark.py`.
"""  # noqa: E501

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from miclab.mllm.errors import TaskContentError, TaskError
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

    @property
    def pieces(self) -> tuple[list[str], str]:
        """The part before an answer, as alternating texts and fields (`{item}`, `{question}`), and the text after it.
        Other braces are text."""
        before, after = self.template.split("{answer}")
        return re.split(r"(\{item\}|\{question\})", before), re.sub(r"\{question\}", "", after)


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


def load_task(
    folder: Path,
    *,
    shots: int,
    view: View = "image",
    episodes: int = 0,
    template: str = "",
    instruction: str | None = None,
    ways: int = 0,
) -> Task:
    """The task in a folder. Every image's presence is checked before anything is computed.

    Arguments:
        folder: as the module's text says, or a task of VL-ICL Bench.
        shots: N; 0: no examples.
        view: whether items are shown as images or as text.
        episodes: how many of the first to take; 0: all.
        template: overrides task.json's.
        instruction: overrides task.json's; None: does not.
        ways: classes of an episode where its entry lists more; 0: as many as task.json says it was made with, else 2.

    Raises:
        ViewError: an entry has nothing that the view shows.
        TaskError: there is no such folder or file, an entry lacks something else, an image is missing or lies
            elsewhere, or the task's answers are pictures.
    """
    # The readers make the classes above.
    from miclab.mllm.benchmark import layout_of
    from miclab.mllm.reader import Reader, read_json, read_mapping

    if not folder.is_dir():
        raise TaskContentError(folder, "it is no folder. `miclab mllm make-episodes` makes one.")
    if shots < 0 or episodes < 0 or ways < 0 or ways == 1:
        raise TaskError(
            f"shots = {shots}, episodes = {episodes}, ways = {ways} is not possible. Allowed: 0 and more; 0 and more; "
            "0, or 2 and more."
        )
    said = read_mapping(folder / "task.json", "object with `instruction` and `template`")
    words = str(said.get("instruction", "")) if instruction is None else instruction
    try:
        style = Style(instruction=words, template=template or str(said.get("template", TEMPLATE)))
    except TaskError as error:
        if template:
            raise
        raise TaskContentError(folder / "task.json", str(error), "template") from error
    named = folder / f"{shots}-shot.json"
    layout = layout_of(folder, named.exists())
    path = named if named.exists() else folder / "query.json"
    if not path.exists():
        there = sorted(p.name for p in folder.glob("*-shot.json"))
        raise TaskContentError(
            folder, f"it has neither {named.name} nor query.json; it has {', '.join(there) or 'no task'}."
        )
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise TaskContentError(path, "it holds no list of episodes.")
    reader = Reader(folder, view)
    reader.file = path
    for number, entry in enumerate(entries):
        reader.place = f"episode {number}"
        reader.mapping(entry, "it")
    made = said.get("made")
    made_ways = made.get("ways") if isinstance(made, dict) else None
    reader.ways = ways or (made_ways if isinstance(made_ways, int) else 2)
    read = reader.shot if path == named else layout.reader(reader, shots, entries)
    found = []
    for number, entry in enumerate(entries[: episodes or None]):
        reader.place = f"episode {number}"
        found.append(read(number, entry, shots))
    return Task(name=folder.name, shots=shots, episodes=tuple(found), style=style, view=view, rule=layout.rule)
