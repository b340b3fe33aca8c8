"""The data sets that come with miclab: `concepts` (pictures, words, speech) and `glyphs`."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from miclab.data.dataset import DataError, DataSet
from miclab.data.registry import Progress, source
from miclab.errors import RunError, nearest
from miclab.storage import read_checked, read_sealed, tensors_from

FILES = Path(__file__).with_name("files")
REMEDY = "Install miclab again, or restore the file from the repository."
SHIPPED = {
    "concepts.pictures": "things as drawn by four or five artists",
    "concepts.words": "their names, synonyms and definitions as word vectors",
    "concepts.speech": "their names spoken by six synthetic voices, as spectrograms",
    "glyphs": "letters of 34 scripts from free typefaces",
}
"""The data sets that come with miclab, and their contents."""
SMALL = "small:"
"""Before the name of a shipped data set: 64 of its classes, a quarter of them held out."""
SMALL_GLYPHS = 64
WITH_MEAN = "uncentred"
"""Source of a shipped set's items as vectors that keep the mean of all items."""


class Folder:
    """A shipped folder; every file is checked against the manifest when it is read.

    Raises:
        DamagedError: a file was changed."""

    def __init__(self, path: Path):
        self.path = path
        if not (path / "manifest.json").exists():
            raise DataError(f"{path / 'manifest.json'} is missing. {REMEDY}")
        self.manifest = read_sealed(path / "manifest.json", REMEDY)

    def read(self, name: str) -> bytes:
        """Content of a file."""
        return read_checked(self.path / name, self.manifest["files"][name]["sha256"], REMEDY)

    def json(self, name: str) -> Any:
        """Content of a JSON file."""
        return json.loads(self.read(name))

    def cells(self, name: str, count: int) -> np.ndarray:
        """The first `count` cells of a sheet, row by row: [count, cell, cell] or [count, cell, cell, 3]."""
        # Imported where it is needed: training on Gaussian classes needs no Pillow.
        from PIL import Image

        with Image.open(io.BytesIO(self.read(name))) as image:
            grid = np.asarray(image.convert("L") if image.mode == "1" else image)
        cell, columns = self.manifest["cell"], self.manifest["columns"]
        rows = grid.shape[0] // cell
        split = grid.reshape(rows, cell, columns, cell, *grid.shape[2:]).swapaxes(1, 2)
        return split.reshape(rows * columns, cell, cell, *grid.shape[2:])[:count]

    def damaged(self) -> list[str]:
        """Files that are missing or changed, and files that do not belong here."""
        wrong = []
        for name in self.manifest["files"]:
            try:
                self.read(name)
            except RunError:
                wrong.append(name)
        here = {p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file()}
        return wrong + sorted(here - set(self.manifest["files"]) - {"manifest.json"})


def _by_class(
    classes: list[int], cells: list[np.ndarray], marks: Mapping[str, list[int]]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Exemplars in the order of their classes, of one class in the order of sources; `marks` in the same order."""
    order = torch.tensor(classes).argsort(stable=True)
    items = torch.from_numpy(np.ascontiguousarray(np.concatenate(cells)))[order]
    return items, {"class": torch.tensor(classes)[order], **{k: torch.tensor(v)[order] for k, v in marks.items()}}


def _sheets(folder: Folder, name: str, listing: list[dict[str, Any]]) -> DataSet:
    sheets = folder.manifest["sheets"][name]
    classes: list[int] = []
    cells: list[np.ndarray] = []
    marks: dict[str, list[int]] = {"source": [], "held out": []}
    for number, sheet in enumerate(sheets):
        of_sheet = list(range(len(listing))) if sheet["classes"] is None else sheet["classes"]
        classes += of_sheet
        cells.append(folder.cells(sheet["file"], len(of_sheet)))
        marks["source"] += [number] * len(of_sheet)
        marks["held out"] += [int(sheet["held_out"])] * len(of_sheet)
    items, columns = _by_class(classes, cells, marks)
    return DataSet(
        name=f"concepts.{name}",
        kind="picture" if name == "pictures" else "spectrogram",
        class_names=tuple(c["name"] for c in listing),
        items=items.permute(0, 3, 1, 2).contiguous() if name == "pictures" else items[:, None],
        class_of=columns["class"],
        held_out_classes=torch.tensor([c["held_out"] for c in listing]),
        held_out_exemplars=columns["held out"].bool(),
        sources=tuple(sheet["source"] for sheet in sheets),
        source_of=columns["source"],
        licence=", ".join(dict.fromkeys(f"{s['licence']}" for s in sheets)),
    )


def _words(folder: Folder, listing: list[dict[str, Any]]) -> DataSet:
    tensors = tensors_from(folder.read(folder.manifest["words"]["file"]), folder.path)
    phrases = [phrase for concept in listing for phrase in concept["phrases"]]
    kinds = ("name", "synonym", "combination", "definition")
    class_of = tensors["class_of"].long()
    last = torch.ones(len(class_of), dtype=torch.bool)
    last[:-1] = class_of[1:] != class_of[:-1]
    return DataSet(
        name="concepts.words",
        kind="vector",
        class_names=tuple(c["name"] for c in listing),
        items=tensors["vectors"],
        class_of=class_of,
        held_out_classes=torch.tensor([c["held_out"] for c in listing]),
        held_out_exemplars=last,
        sources=kinds,
        source_of=torch.tensor([kinds.index(kind) for _, kind in phrases]),
        licence=folder.manifest["words"]["licence"],
        texts=tuple(text for text, _ in phrases),
    )


def _glyphs(folder: Folder) -> DataSet:
    listing = folder.json("classes.json")
    faces = listing["faces"]
    sheets = folder.manifest["sheets"]
    exemplars = [(i, *exemplar) for i, c in enumerate(listing["classes"]) for exemplar in c["exemplars"]]
    licence_of = np.array([faces[face]["licence"] for _, face, _, _ in exemplars])
    ink = np.empty((len(exemplars), folder.manifest["cell"], folder.manifest["cell"]), np.uint8)
    for licence, file in sheets.items():
        # Each sheet holds the exemplars under its licence, in the order of the listing; black is ink.
        ink[licence_of == licence] = folder.cells(file, int((licence_of == licence).sum())) == 0
    return DataSet(
        name="glyphs",
        kind="glyph",
        class_names=tuple(c["name"] for c in listing["classes"]),
        items=torch.from_numpy(ink)[:, None],
        class_of=torch.tensor([row[0] for row in exemplars]),
        held_out_classes=torch.tensor([c["held_out"] for c in listing["classes"]]),
        held_out_exemplars=torch.tensor([bool(row[3]) for row in exemplars]),
        sources=tuple(f"{face['family']} {face['style']}" for face in faces),
        source_of=torch.tensor([row[1] for row in exemplars]),
        licence=", ".join(sheets),
    )


def _small_glyphs(whole: DataSet) -> list[int]:
    """Evenly spaced classes, a quarter of them held out: the same share as in the small set of concepts."""
    chosen: list[int] = []
    for wanted, count in ((False, SMALL_GLYPHS * 3 // 4), (True, SMALL_GLYPHS // 4)):
        rows = (whole.held_out_classes == wanted).nonzero()[:, 0].tolist()
        chosen += [rows[i * len(rows) // count] for i in range(count)]
    return sorted(chosen)


@functools.lru_cache(maxsize=8)
def load_shipped(name: str, files: Path = FILES) -> DataSet:
    """A shipped data set by its name, or its small version by `small:` and its name. Read once in a process.

    Raises:
        DataError: there is none of that name.
        DamagedError: a file of it is not the one that was made.
    """
    whole_name = name.removeprefix(SMALL)
    if whole_name not in SHIPPED:
        raise DataError(f"{name!r} is not shipped: {nearest(whole_name, SHIPPED)}.")
    folder = Folder(files / whole_name.split(".")[0])
    if name != whole_name:
        whole = load_shipped(whole_name, files)
        chosen = folder.manifest["small"] if whole_name != "glyphs" else _small_glyphs(whole)
        return whole.subset(chosen, name)
    if whole_name == "glyphs":
        return _glyphs(folder)
    listing = folder.json("classes.json")
    return (
        _words(folder, listing)
        if whole_name == "concepts.words"
        else _sheets(folder, whole_name.split(".")[1], listing)
    )


def _read_shipped(name: str, argument: str, progress: Progress) -> DataSet:
    return load_shipped(name)


for _shipped in SHIPPED:
    source(_shipped, words=SHIPPED[_shipped])(_read_shipped)
source("small", argument="NAME", words="64 classes of one of the shipped sets above")(_read_shipped)


@source(WITH_MEAN, argument="NAME", words="items of one of these sets as vectors that keep their mean")
def load_with_mean(name: str, argument: str, progress: Progress) -> DataSet:
    """A shipped data set whose items are flattened to vectors of length 1. Nothing is subtracted, unlike from pictures
    and spectrograms in a run; `centre` of a modality does that. The mean of `concepts.words` was removed when the file
    was made.

    Raises:
        DataError: there is no shipped set of that name.
    """
    data = load_shipped(argument)
    return replace(data, name=name, kind="vector", items=data.floats().flatten(1))
