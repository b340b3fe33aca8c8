"""A folder of episodes in VL-ICL Bench's format: labelled examples, a query, and the answer.

    N-shot.json   [{"query": {"image": [PATH], "answer": A}, "support": {"N-shot": [{"image": [PATH], "answer": A}, ...]}}]
    query.json    [{"image": [PATH], "question": Q, "answer": A, "classes": [...],
                    "support": {CLASS: {"images": [PATH, ...]}}}]
    task.json     {"instruction": ..., "template": ...}: how it is written, if there is such a file (ours)

Paths are relative to the folder. `text` beside or in the place of `image` describes an item in words: the text-only
variant of a task. Where N-shot.json is missing, N examples of every class are taken from query.json, shuffled.
"""  # noqa: E501

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from miclab.mllm.errors import TaskError, ViewError
from miclab.seeds import stream
from miclab.storage import digest, json_bytes

TEMPLATE = "{item}\n{question}Answer: {answer}\n\n"
"""How an example is written unless task.json or `--template` says otherwise."""
FIELDS = "{item}, {question} and {answer}"
View = Literal["image", "text"]


@dataclass(frozen=True)
class Item:
    """What is shown: pictures, words, or both. Which of them a model sees is the task's `view`."""

    images: tuple[Path, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Example:
    """A labelled example."""

    item: Item
    answer: str


@dataclass(frozen=True)
class Episode:
    """Labelled examples and a query.

    Arguments:
        name: place in its file, for messages.
        support: the examples.
        query: the item to answer for.
        answer: the right answer.
        question: the question about every item; may be empty.
    """

    name: str
    support: tuple[Example, ...]
    query: Item
    answer: str
    question: str = ""

    @property
    def candidates(self) -> tuple[str, ...]:
        """The different answers of the context, in their order; the right one is added if it is not among them."""
        return tuple(dict.fromkeys([*(example.answer for example in self.support), self.answer]))

    @property
    def in_context(self) -> bool:
        """Whether the right answer stands in the context."""
        return any(example.answer == self.answer for example in self.support)


@dataclass(frozen=True, kw_only=True)
class Style:
    """How an episode is written.

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


@dataclass(frozen=True, kw_only=True)
class Task:
    """Episodes in one style of prompt.

    Arguments:
        name: of its folder.
        shots: N of N-shot.
        episodes: at least one.
        style: how they are written.
        view: whether items are shown as images or as text.
    """

    name: str
    shots: int
    episodes: tuple[Episode, ...]
    style: Style = field(default_factory=Style)
    view: View = "image"

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of every episode: its answers, question and words, and the bytes of its pictures. It does not depend
        on the view, so that an episode is known again in the other."""
        pictures: dict[Path, str] = {}

        def of(item: Item) -> list[Any]:
            for path in item.images:
                if path not in pictures:
                    pictures[path] = digest(path.read_bytes()) if path.is_file() else ""
            return [[pictures[path] for path in item.images], item.text]

        return tuple(
            digest(json_bytes([[[of(one.item), one.answer] for one in episode.support], of(episode.query),
                               episode.answer, episode.question]))
            for episode in self.episodes
        )  # fmt: skip

    def part(self, start: int, end: int | None = None) -> Task:
        """The same task with some of its episodes."""
        return Task(
            name=self.name, shots=self.shots, episodes=self.episodes[start:end], style=self.style, view=self.view
        )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TaskError(f"{path} cannot be read as JSON: {error}") from error


class Reader:
    """Reads the entries of one folder; the messages name the file, the episode and what is missing.

    Arguments:
        folder: paths of pictures are relative to it.
        view: what has to be there.
        root: pictures lie below it, links followed: they are shown in pages that one may publish.
    """

    def __init__(self, folder: Path, view: View, root: Path):
        self.folder, self.view, self.root = folder, view, root.resolve()
        self.where = ""

    def fail(self, problem: str) -> TaskError:
        """The error with the text `problem`, which names the place."""
        return TaskError(f"{self.where}: {problem}")

    def strings(self, value: Any) -> list[str]:
        """A text, or a list of texts, as a list."""
        found = [value] if isinstance(value, str) else value or []
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise self.fail(f"{value!r} is no text and no list of texts.")
        return found

    def mapping(self, value: Any, what: str) -> Mapping[str, Any]:
        """A value that has to be an object."""
        if not isinstance(value, Mapping):
            raise self.fail(f"{what} is no object: {str(value)[:60]!r}.")
        return value

    def picture(self, name: str) -> Path:
        """The path of a picture, which may not lead out of the root; in the view of images it has to be there."""
        path = self.folder / name
        try:
            inside, is_there = path.resolve().is_relative_to(self.root), path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            raise self.fail(f"image {name[:80]!r} is no path ({error}).") from error
        if not inside:
            raise self.fail(f"image {name[:80]!r} lies outside {self.root}, and is not shown. Copy it into the folder.")
        if self.view == "image" and not is_there:
            raise self.fail(f"image {path} is missing. Paths in the JSON are relative to {self.folder}.")
        return path

    def item(self, entry: Mapping[str, Any]) -> Item:
        """Images and text of an entry; what the view needs has to be there."""
        entry = self.mapping(entry, "an entry")
        images = tuple(self.picture(path) for path in self.strings(entry.get("image")))
        text = str(entry.get("text") or "")
        if self.view == "image":
            if not images:
                raise ViewError(f"{self.where}: an entry has no `image`. A task in words is read with --view text.")
        elif not text.strip():
            raise ViewError(f"{self.where}: an entry has no `text`, which --view text shows in the place of an image.")
        return Item(images, text)

    def example(self, entry: Mapping[str, Any]) -> Example:
        """A labelled example."""
        return Example(self.item(entry), self.answer(entry))

    def answer(self, entry: Mapping[str, Any]) -> str:
        """An entry's answer, as text."""
        found = entry.get("answer")
        if isinstance(found, list):
            found = found[0] if found else None
        if found is None or not str(found).strip():
            raise self.fail("an entry has no `answer`, or an empty one.")
        return str(found).strip()

    def shot(self, entry: Mapping[str, Any], shots: int) -> Episode:
        """An entry of N-shot.json."""
        support = entry.get("support") or {}
        listed = support.get(f"{shots}-shot") if isinstance(support, Mapping) else support
        if not listed or not isinstance(listed, list) or "query" not in entry:
            raise self.fail(f"it needs `query` and `support` with the key {shots}-shot, a list.")
        query = self.mapping(entry["query"], "`query`")
        return Episode(
            self.where,
            tuple(self.example(one) for one in listed),
            self.item(query),
            self.answer(query),
            str(query.get("question") or entry.get("question") or ""),
        )

    def query(self, number: int, entry: Mapping[str, Any], shots: int) -> Episode:
        """An entry of query.json, with `shots` examples of every class, shuffled by the entry's number."""
        support = []
        for name, value in self.mapping(entry.get("support") or {}, "`support`").items():
            shown = self.mapping(value, f"class {name!r}")
            images, texts = self.strings(shown.get("images")), self.strings(shown.get("texts"))
            if max(len(images), len(texts)) < shots:
                raise self.fail(f"class {name!r} has fewer than {shots} examples; take fewer --shots.")
            support += [
                self.example({"image": images[i : i + 1], "text": (texts[i : i + 1] or [""])[0], "answer": name})
                for i in range(shots)
            ]
        if not support:
            raise self.fail("it has no `support` by class.")
        order = torch.randperm(len(support), generator=stream(0, "support", number)).tolist()
        return Episode(
            self.where,
            tuple(support[i] for i in order),
            self.item(entry),
            self.answer(entry),
            str(entry.get("question") or ""),
        )


def load_task(
    folder: Path,
    *,
    shots: int,
    view: View = "image",
    episodes: int = 0,
    template: str = "",
    instruction: str | None = None,
    root: Path | None = None,
) -> Task:
    """The task in a folder. Every image's presence is checked before anything is computed.

    Arguments:
        folder: as the module's text says.
        shots: N.
        view: whether items are shown as images or as text.
        episodes: how many of the first to take; 0: all.
        template: overrides task.json's.
        instruction: overrides task.json's; None: does not.
        root: a benchmark's root, where its tasks share pictures; None: pictures lie below the folder.

    Raises:
        ViewError: an entry has nothing that the view shows.
        TaskError: there is no such folder or file, an entry lacks something else, an image is missing or lies
            outside.
    """
    if not folder.is_dir():
        raise TaskError(f"{folder} is no folder. `miclab mllm make-episodes` makes one.")
    if shots < 1 or episodes < 0:
        raise TaskError(f"shots = {shots}, episodes = {episodes} is not possible. Allowed: 1 and more; 0 and more.")
    style = _json(folder / "task.json") if (folder / "task.json").exists() else {}
    if not isinstance(style, Mapping):
        raise TaskError(f"{folder / 'task.json'} holds no object with `instruction` and `template`.")
    style = Style(
        instruction=str(style.get("instruction", "")) if instruction is None else instruction,
        template=template or str(style.get("template", TEMPLATE)),
    )
    reader, named = Reader(folder, view, root or folder), folder / f"{shots}-shot.json"
    path = named if named.exists() else folder / "query.json"
    if not path.exists():
        there = sorted(p.name for p in folder.glob("*-shot.json"))
        raise TaskError(f"{folder} has neither {named.name} nor query.json; it has {', '.join(there) or 'no task'}.")
    entries: Sequence[Mapping[str, Any]] = _json(path)
    if not isinstance(entries, list) or not entries:
        raise TaskError(f"{path} holds no list of episodes.")
    found = []
    for number, entry in enumerate(entries[: episodes or None]):
        reader.where = f"{path.name}, episode {number}"
        if not isinstance(entry, Mapping):
            raise reader.fail("it is no object.")
        found.append(reader.shot(entry, shots) if path == named else reader.query(number, entry, shots))
    return Task(name=folder.name, shots=shots, episodes=tuple(found), style=style, view=view)
