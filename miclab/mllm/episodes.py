"""Makes a task: open-ended minimal induction, two classes of pictures with invented names, in VL-ICL Bench's format."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from miclab import storage
from miclab.config import memory
from miclab.data.catalogue import load
from miclab.data.check import one_colour
from miclab.data.dataset import DataSet
from miclab.mllm.errors import TaskError
from miclab.mllm.options import EpisodeOptions
from miclab.mllm.task import TEMPLATE, Style
from miclab.mllm.words import distinct_words
from miclab.seeds import stream
from miclab.storage import json_bytes, write_bytes

ENTRY = 500
"""Least bytes of an entry until all are written: a picture's name and its answer as plain data."""


@dataclass(frozen=True)
class Drawn:
    """One episode as indices.

    Arguments:
        exemplars: [ways, shots + 1]; the last one of class `query_class` is the query's.
        names: of the classes.
        order: of the examples, as (class, shot).
        query_class: class of the query.
    """

    exemplars: list[list[int]]
    names: list[str]
    order: list[tuple[int, int]]
    query_class: int


class Sampler:
    """Draws episodes from a data set.

    Raises:
        TaskError: the part has too few classes with enough exemplars.
    """

    def __init__(self, data: DataSet, options: EpisodeOptions):
        self.options = options
        chosen = data.indices(options.part)
        of_class: dict[int, list[int]] = {}
        for exemplar in chosen.tolist():
            of_class.setdefault(int(data.class_of[exemplar]), []).append(exemplar)
        needed = options.shots + 1
        self.classes = [members for members in of_class.values() if len(members) >= needed]
        if len(self.classes) < options.ways:
            most = max((len(members) for members in of_class.values()), default=0)
            other = "--part all" if options.part != "all" else "more classes of more pictures"
            fewer = f"fewer --shots (the largest class has {most}), or " if len(of_class) >= options.ways else ""
            raise TaskError(
                f"{data.name}, {options.part}: {len(of_class)} classes, {len(self.classes)} with at least {needed} "
                f"exemplars, and an episode takes {options.ways} such classes. Take {fewer}{other}."
            )

    def draw(self, number: int) -> Drawn:
        """The episode of a number: a function of it and of the seed."""
        options, generator = self.options, stream(self.options.seed, "episode", number)
        exemplars = []
        for place in torch.randperm(len(self.classes), generator=generator)[: options.ways].tolist():
            members = self.classes[place]
            picked = torch.randperm(len(members), generator=generator)[: options.shots + 1].tolist()
            exemplars.append([members[i] for i in picked])
        names = distinct_words(options.ways, options.words, generator)
        places = [(way, shot) for way in range(options.ways) for shot in range(options.shots)]
        order = [places[i] for i in torch.randperm(len(places), generator=generator).tolist()]
        return Drawn(exemplars, names, order, int(torch.randint(options.ways, (1,), generator=generator)))


def picture(data: DataSet, exemplar: int, side: int = 0) -> Image.Image:
    """An exemplar as a picture, red, green, blue; glyphs are black on white."""
    item = data.items[exemplar]
    if data.kind == "glyph":
        item = (1 - item) * 255
    image = Image.fromarray(item.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
    return image.resize((side, side), Image.Resampling.NEAREST) if side else image


def _texts(data: DataSet) -> list[list[str]] | None:
    """The words for each concept, by class; None for data without words."""
    if not data.name.removeprefix("small:").startswith("concepts."):
        return None
    words = load(data.name.split("concepts.")[0] + "concepts.words")
    found: list[list[str]] = [[] for _ in words.class_names]
    for exemplar, text in enumerate(words.texts):
        found[int(words.class_of[exemplar])].append(text)
    return found


def make_episodes(folder: Path, options: EpisodeOptions, on_progress: Callable[[int, str], None] | None = None) -> Path:
    """Writes a task: pictures, N-shot.json, query.json and task.json. Entries of concepts also have the item in words
    (`text`), so that the same folder is a text-only task.

    Arguments:
        folder: must have a name, and not exist or be empty.
        options: of the episodes.
        on_progress: called with the number of episodes made.

    Names of pictures of a single colour are in task.json as `made.one_colour`.

    Raises:
        TaskError: the folder is not empty or cannot be made, the template cannot be used, or the data has too few
            exemplars.
        DataError: there is no such data set, or it has no pictures.
        TooLargeError: the machine has too little memory for so many episodes.
    """
    if folder.name in ("", ".."):
        raise TaskError(f"{folder} cannot be made. Give the name of a folder that does not exist yet.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "not empty" if folder.is_dir() else "a file"
        raise TaskError(f"{folder} is {what}. Give a folder that does not exist yet.")
    style = Style(instruction=options.instruction, template=options.template or TEMPLATE)
    data = load(options.data)
    if data.kind == "vector":
        raise TaskError(f"{options.data} has no pictures. Take concepts.pictures, glyphs or folder:PATH.")
    entries = options.episodes * (options.ways * options.shots + 1)
    memory.check({f"{entries:,} entries of {options.episodes:,} episodes": entries * ENTRY}, "--episodes or --shots")
    sampler = Sampler(data, options)
    # The folder is always complete, since it is renamed once everything is written.
    making = folder.with_name(f".{folder.name}.making")
    try:
        with storage.explained(folder):
            shutil.rmtree(making, ignore_errors=True)
            (making / "images").mkdir(parents=True)
            _write(making, data, options, style, sampler, on_progress)
            if folder.exists():
                folder.rmdir()
            making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _write(
    making: Path, data: DataSet, options: EpisodeOptions, style: Style, sampler: Sampler,
    on_progress: Callable[[int, str], None] | None,
) -> None:  # fmt: skip
    """Draws the episodes into an existing folder."""
    texts = _texts(data)
    written: set[int] = set()

    def entry(exemplar: int, turn: int) -> dict[str, Any]:
        name = f"images/{exemplar:06d}.png"
        if exemplar not in written:
            picture(data, exemplar, options.side).save(making / name)
            written.add(exemplar)
        found: dict[str, Any] = {"image": [name]}
        if texts is not None:
            phrases = texts[int(data.class_of[exemplar])]
            found["text"] = phrases[turn % len(phrases)]
        return found

    shots, queries = [], []
    for number in range(options.episodes):
        drawn = sampler.draw(number)
        label = f"{options.shots}-shot"
        support = [entry(drawn.exemplars[w][s], s) | {"answer": drawn.names[w]} for w, s in drawn.order]
        query = entry(drawn.exemplars[drawn.query_class][options.shots], options.shots)
        query |= {"answer": drawn.names[drawn.query_class]}
        shots.append({"query": query, "support": {label: support}})
        by_class: dict[str, Any] = {}
        for one in support:
            shown = by_class.setdefault(one["answer"], {"images": []} | ({"texts": []} if texts is not None else {}))
            shown["images"] += one["image"]
            if texts is not None:
                shown["texts"].append(one["text"])
        queries.append(query | {"question": "", "classes": drawn.names, "support": by_class})
        if on_progress:
            on_progress(number + 1, "")
    write_bytes(making / f"{options.shots}-shot.json", json_bytes(shots))
    write_bytes(making / "query.json", json_bytes(queries))
    made = {"data": options.data, "part": options.part, "words": options.words, "ways": options.ways,
            "shots": options.shots, "seed": options.seed, "licence": data.licence}  # fmt: skip
    blank = sorted(written & set(one_colour(data)))
    if blank:
        made["one_colour"] = [f"images/{exemplar:06d}.png" for exemplar in blank]
    write_bytes(
        making / "task.json", json_bytes({"instruction": style.instruction, "template": style.template, "made": made})
    )
