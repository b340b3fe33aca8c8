"""Is a data set what it says it is? Hashes, counts, and exemplars that occur twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from miclab.data.dataset import DataSet
from miclab.data.shipped import FILES, SHIPPED, SMALL, Folder
from miclab.storage import digest

LEAST_CLASSES = {"concepts": 1200, "glyphs": 1600}
LEAST_EXEMPLARS = 4


def duplicates(data: DataSet) -> list[tuple[int, int]]:
    """Pairs of exemplars of two different classes with equal items: the first of its kind, and a later one."""
    seen: dict[str, int] = {}
    found = []
    for exemplar, item in enumerate(data.items):
        first = seen.setdefault(digest(item.contiguous().numpy().tobytes()), exemplar)
        if data.class_of[first] != data.class_of[exemplar]:
            found.append((first, exemplar))
    return found


def check(name: str, read: Callable[[], DataSet]) -> dict[str, Any]:
    """What is wrong with a data set (`faults`) and what one should know of it (`notes`), in sentences.

    Arguments:
        name: of the data set.
        read: loads it.

    Raises:
        MiclabError: it cannot be loaded at all.
    """
    faults: list[str] = []
    shipped = name.removeprefix(SMALL)
    if shipped in SHIPPED:
        folder = Folder(FILES / shipped.split(".")[0])
        faults += [f"{file} is damaged, missing or does not belong here." for file in folder.damaged()]
        if faults:
            return {"name": name, "faults": faults, "notes": []}
    data = read()
    counts = data.exemplars_per_class
    if shipped in SHIPPED:
        if int(counts.min()) < LEAST_EXEMPLARS:
            faults.append(f"A class has {int(counts.min())} exemplars, fewer than {LEAST_EXEMPLARS}.")
        least = LEAST_CLASSES[shipped.split(".")[0]]
        if name == shipped and len(data.class_names) < least:
            faults.append(f"There are {len(data.class_names)} classes, fewer than {least}.")
    notes = [
        f"{len(data.class_names)} classes, {int(data.held_out_classes.sum())} of them held out; "
        f"{len(data.items)} exemplars, {int(counts.min())} to {int(counts.max())} a class.",
    ]
    training = torch.bincount(data.class_of[data.indices("training")], minlength=len(data.class_names))
    alone = int(((training < 2) & ~data.held_out_classes).sum())
    if alone:
        notes.append(f"{alone} training classes keep fewer than two exemplars for training.")
    same = duplicates(data)
    if same:
        shown = [
            f"{data.class_names[int(data.class_of[a])]!r} and {data.class_names[int(data.class_of[b])]!r}"
            for a, b in same[:3]
        ]
        notes.append(f"{len(same)} exemplars equal one of another class, for example {'; '.join(shown)}.")
    return {"name": name, "faults": faults, "notes": notes}
