"""Entries of a task's JSON files as episodes; the messages name the file, the episode and what is missing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from miclab import storage
from miclab.data.pictures import PictureError, resolve
from miclab.mllm.errors import TaskContentError, ViewError
from miclab.mllm.task import Episode, Example, Item, View
from miclab.seeds import stream

WORDS = ("text", "texts", "caption", "captions")
"""Fields for an item in words."""


def read_json(path: Path) -> Any:
    """The content of a file.

    Raises:
        TaskContentError: it cannot be read.
    """
    try:
        return json.loads(storage.read_file(path))
    except (OSError, ValueError, RecursionError) as error:
        raise TaskContentError(path, f"it cannot be read as JSON: {error}") from error


def read_mapping(path: Path, what: str) -> Mapping[str, Any]:
    """The object in a file, with the name `what` in messages; empty if there is no file.

    Raises:
        TaskContentError: it holds something else.
    """
    found = read_json(path) if os.path.lexists(path) else {}
    if not isinstance(found, Mapping):
        raise TaskContentError(path, f"it holds no {what}.")
    return found


def whole(folder: Path) -> Path:
    """A folder with its own name, also where it was given as `.` or `..`. Links are not followed."""
    return Path(os.path.abspath(folder))


def _is_task(folder: Path) -> bool:
    """Whether a folder is a task: it has query.json or an N-shot.json."""
    return (folder / "query.json").is_file() or any(folder.glob("*-shot.json"))


def shuffled(count: int, number: int, *names: str) -> list[int]:
    """The numbers 0 to `count` - 1 in an order that depends on the episode's number alone."""
    return torch.randperm(count, generator=stream(0, "support", *names, number)).tolist()


class Reader:
    """Reads the entries of one folder.

    Arguments:
        folder: of the task. Pictures lie below it, or below another task of the same benchmark, links followed.
        view: the form of items; its fields must exist.
        ways: classes of an episode where its entry lists more.
        least: classes that an entry has to list.
    """

    def __init__(self, folder: Path, view: View, ways: int = 2, least: int = 0):
        self.view, self.ways, self.least = view, ways, least
        self.folder = whole(folder)
        # Some files name pictures from the folder that holds the benchmark: VL-ICL/open_mi/1.png.
        self.roots = (self.folder, *self.folder.parents[:2])
        self.file, self.place = self.folder, ""

    def fail(self, problem: str, kind: type[TaskContentError] = TaskContentError) -> TaskContentError:
        """The error of a problem, at the present place."""
        return kind(self.file, problem, self.place)

    @property
    def where(self) -> str:
        """Name of the file and place in it."""
        return f"{self.file.name}, {self.place}"

    def strings(self, value: Any) -> list[str]:
        """A text, or a list of texts, as a list."""
        found = [value] if isinstance(value, str) else value or []
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise self.fail(f"{value!r} is no text and no list of texts.")
        return found

    def mapping(self, value: Any, what: str) -> Mapping[str, Any]:
        """A value that must be an object."""
        if not isinstance(value, Mapping):
            raise self.fail(f"{what} is no object: {str(value)[:60]!r}.")
        return value

    def picture(self, name: str) -> Path:
        """The file of a picture. A page shows it, so files outside the task are refused.

        Raises:
            PictureError: it is missing, or lies outside.
        """
        try:
            path = resolve(name, self.roots)
            real, own = path.resolve(), self.folder.resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise PictureError(f"image {name[:80]!r}", f"it is no path ({error.__class__.__name__})") from error
        if real.is_relative_to(own):
            return path
        beside = real.relative_to(own.parent).parts[:-1] if real.is_relative_to(own.parent) else ()
        if beside and _is_task(own.parent / beside[0]):
            return path
        problem = f"it lies outside {self.folder}, in no task beside it. Copy it into the folder."
        raise PictureError(f"image {name[:80]!r}", problem)

    def item(self, entry: Mapping[str, Any]) -> Item:
        """Images and text of an entry; what the view needs has to be there."""
        entry = self.mapping(entry, "an entry")
        named = self.strings(entry.get("image"))
        words = next((self.strings(entry[name]) for name in WORDS if entry.get(name)), [])
        text = "\n".join(words)
        try:
            images = tuple(self.picture(path) for path in named)
        except PictureError as error:
            if self.view == "image":
                raise self.fail(str(error)) from error
            images = ()
        if self.view == "image" and not images:
            raise self.fail("an entry has no `image`. A task in words is read with --view text.", ViewError)
        if self.view == "text" and not text.strip():
            raise self.fail("an entry has no `text`, which --view text shows in the place of an image.", ViewError)
        return Item(images, text)

    def question(self, entry: Mapping[str, Any]) -> str | None:
        """An entry's own question; None where it has none."""
        found = entry.get("question")
        if found is None:
            return None
        if isinstance(found, str):
            return found
        return self.number(found, "`question`")

    def number(self, value: Any, what: str) -> str:
        """A number as text.

        Raises:
            TaskError: it is something else, such as an object, whose Python form no model should read.
        """
        if isinstance(value, (int, float)) and math.isfinite(value):
            return str(value)
        raise self.fail(f"{what} is no text: {str(value)[:60]!r}.")

    def example(self, entry: Mapping[str, Any]) -> Example:
        """A labelled example."""
        entry = self.mapping(entry, "an entry")
        return Example(self.item(entry), self.answer(entry), self.question(entry))

    def answer(self, entry: Mapping[str, Any]) -> str:
        """An entry's answer, as text.

        Raises:
            TaskError: there is none, or several.
        """
        found = entry.get("answer")
        if isinstance(found, list):
            if len(found) > 1:
                raise self.fail(f"`answer` is a list of {len(found)}, and nothing says which of them is right.")
            found = found[0] if found else None
        if found is None or isinstance(found, Mapping) or not str(found).strip():
            raise self.fail("an entry has no `answer`, or an empty one.")
        return found.strip() if isinstance(found, str) else self.number(found, "`answer`")

    def shot(self, number: int, entry: Mapping[str, Any], shots: int) -> Episode:
        """An entry of N-shot.json."""
        support = entry.get("support") or {}
        listed = support.get(f"{shots}-shot") if isinstance(support, Mapping) else support
        if "query" not in entry or not isinstance(listed, list) or not (listed or shots == 0):
            raise self.fail(f"it needs `query` and `support` with the key {shots}-shot, a list.")
        query = self.mapping(entry["query"], "`query`")
        return self.episode({**query, "question": query.get("question") or entry.get("question")}, listed)

    def episode(
        self, query: Mapping[str, Any], support: Sequence[Mapping[str, Any]], choices: Sequence[str] = ()
    ) -> Episode:
        """A query with its examples, each an entry."""
        examples = tuple(self.example(one) for one in support)
        return Episode(self.where, examples, self.item(query), self.answer(query), self.question(query) or "",
                       tuple(choices))  # fmt: skip

    def by_class(self, entry: Mapping[str, Any], number: int, shots: int) -> dict[str, list[dict[str, Any]]]:
        """`shots` examples of each class of an entry's own support: of the answer's class, and of others up to `ways`
        where there are more."""
        given = self.mapping(entry.get("support") or {}, "`support`")
        answer = self.answer(entry)
        listed = entry.get("classes")
        names = list(given) if listed is None else self.strings(listed)
        absent = [name for name in names if name not in given]
        if absent:
            raise self.fail(f"`support` has no class {absent[0]!r}, which `classes` lists.")
        names = [name for name in given if name in names]
        if len(names) < self.least:
            raise self.fail(f"it has {len(names)} classes; take fewer --ways than {self.least}.")
        if len(names) > self.ways:
            if answer not in names:
                raise self.fail(f"its answer {answer!r} is none of its classes: {', '.join(map(str, names))}.")
            others = [name for name in names if name != answer]
            kept = {answer, *(others[i] for i in shuffled(len(others), number, "ways")[: self.ways - 1])}
            names = [name for name in names if name in kept]
        found = {}
        for name in names:
            shown = self.mapping(given[name], f"class {name!r}")
            images = self.strings(shown.get("images"))
            texts = next((self.strings(shown[field]) for field in WORDS if shown.get(field)), [])
            if max(len(images), len(texts)) < shots:
                raise self.fail(f"class {name!r} has fewer than {shots} examples; take fewer --shots.")
            found[name] = [
                {"image": images[i : i + 1], "text": (texts[i : i + 1] or [""])[0], "answer": name}
                for i in range(shots)
            ]
        if not found:
            raise self.fail("it has no `support` by class.")
        return found

    def query(self, number: int, entry: Mapping[str, Any], shots: int) -> Episode:
        """An entry of query.json, with `shots` examples of every class, shuffled by the entry's number."""
        classes = self.by_class(entry, number, shots)
        support = [one for of_class in classes.values() for one in of_class]
        order = shuffled(len(support), number)
        return self.episode(entry, [support[i] for i in order], () if shots else tuple(classes))
