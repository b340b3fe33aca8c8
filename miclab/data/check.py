"""Checks of a data set: hashes, counts, exemplars that occur twice, and the common part of all items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from miclab.data.dataset import DataSet
from miclab.data.items import Exemplars
from miclab.data.registry import MissingDataError, find
from miclab.data.shipped import FILES, SHIPPED, SMALL, Folder
from miclab.errors import MiclabError
from miclab.storage import digest

LEAST_CLASSES = {"concepts": 1200, "glyphs": 1600}
LEAST_EXEMPLARS = 4


def equal_exemplars(data: DataSet) -> list[tuple[int, int]]:
    """Pairs of exemplars with equal items: the first of its kind, and a later one."""
    seen: dict[str, int] = {}
    found = []
    for exemplar, item in enumerate(data.items):
        first = seen.setdefault(digest(item.contiguous().numpy().tobytes()), exemplar)
        if first != exemplar:
            found.append((first, exemplar))
    return found


def duplicates(data: DataSet) -> list[tuple[int, int]]:
    """Those pairs of `equal_exemplars` that are of two different classes."""
    return [(one, other) for one, other in equal_exemplars(data) if data.class_of[one] != data.class_of[other]]


def one_colour(data: DataSet) -> list[int]:
    """Exemplars of blank pictures: all their pixels are equal."""
    if data.kind == "vector":
        return []
    flat = data.items.flatten(2)
    return (flat.amin(2) == flat.amax(2)).all(1).nonzero()[:, 0].tolist()


def _blank_notes(data: DataSet) -> list[str]:
    """A note on pictures of one colour."""
    found = one_colour(data)
    if not found:
        return []
    names = dict.fromkeys(repr(data.class_names[int(data.class_of[exemplar])]) for exemplar in found)
    shown = ", ".join(list(names)[:3])
    return [f"{len(found)} exemplars are all of one colour, so nothing is to be seen on them: of {shown}."]


def common_shares(data: DataSet) -> dict[str, dict[str, float]]:
    """The share of the norm that is common to all items (`Exemplars.common_share`), for training items and for items of
    held-out classes. `off` is without centring. Vectors also have `training`: the mean of the training part is
    subtracted."""
    plain = Exemplars(data)
    parts = {part: data.indices(part) for part in ("training", "held-out classes")}
    found = {"off": plain}
    if data.kind == "vector" and len(parts["training"]):
        found["training"] = plain.centred(plain.mean(parts["training"]))
    return {
        centre: {part: round(items.common_share(places), 4) for part, places in parts.items() if len(places)}
        for centre, items in found.items()
    }


def _equal_notes(data: DataSet) -> list[str]:
    """A note on exemplars that equal another."""
    pairs, notes = equal_exemplars(data), []
    same = [pair for pair in pairs if data.class_of[pair[0]] != data.class_of[pair[1]]]
    if same:
        shown = [
            f"{data.class_names[int(data.class_of[a])]!r} and {data.class_names[int(data.class_of[b])]!r}"
            for a, b in same[:3]
        ]
        notes.append(f"{len(same)} exemplars equal one of another class, for example {'; '.join(shown)}.")
    own = len(pairs) - len(same)
    if own:
        crossing = sum(
            bool(data.held_out_exemplars[a] != data.held_out_exemplars[b])
            for a, b in pairs
            if data.class_of[a] == data.class_of[b]
        )
        notes.append(
            f"{own} exemplars equal one of their own class; in {crossing} of these pairs one is held out and the other "
            "is not."
        )
    return notes


def _label_note(training: int, held_out: int) -> str:
    """How many labels a run may have: each needs a training class and a novel class."""
    most = min(training, held_out)
    if most < 2:
        return f"No run is possible with {training} training and {held_out} held-out classes: 2 of each are needed."
    return f"Labels: 2 to {most}, as {held_out} classes are held out and each label needs one of them."


def _share_note(shares: dict[str, dict[str, float]]) -> str:
    """The common share in a sentence."""

    def words(centre: str) -> str:
        return ", ".join(f"{part} {share:.3f}" for part, share in shares[centre].items())

    text = f"Share of the norm that is common to all items: {words('off')}"
    return f"{text}; with centre = training: {words('training')}." if "training" in shares else f"{text}."


def check(name: str, read: Callable[[], DataSet]) -> dict[str, Any]:
    """Faults of a data set (`faults`) and notes on it (`notes`), in sentences.

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
            return {"name": name, "faults": faults, "notes": [], "common_share": {}}
    data = read()
    counts = data.exemplars_per_class
    if shipped in SHIPPED:
        if int(counts.min()) < LEAST_EXEMPLARS:
            faults.append(f"A class has {int(counts.min())} exemplars, fewer than {LEAST_EXEMPLARS}.")
        least = LEAST_CLASSES[shipped.split(".")[0]]
        if name == shipped and len(data.class_names) < least:
            faults.append(f"There are {len(data.class_names)} classes, fewer than {least}.")
    each = " to ".join(dict.fromkeys((str(int(counts.min())), str(int(counts.max())))))
    notes = [
        f"{len(data.class_names)} classes, {int(data.held_out_classes.sum())} of them held out; "
        f"{len(data.items)} exemplars, {each} a class.",
        _label_note(int((~data.held_out_classes).sum()), int(data.held_out_classes.sum())),
    ]
    training = torch.bincount(data.class_of[data.indices("training")], minlength=len(data.class_names))
    alone = int(((training < 2) & ~data.held_out_classes).sum())
    if alone:
        notes.append(f"{alone} training classes keep fewer than two exemplars for training.")
    shares = common_shares(data)
    notes += [*_equal_notes(data), *_blank_notes(data), _share_note(shares)]
    return {"name": name, "faults": faults, "notes": notes, "common_share": shares}


def checked(names: Sequence[str], read: Callable[[str], DataSet]) -> list[dict[str, Any]]:
    """`check` of several data sets. If one cannot be loaded, the reason is its fault.

    Arguments:
        names: of the data sets. Unregistered names are refused before anything is read.
        read: loads one by its name.

    Raises:
        MiclabError: a name is not that of a source.
        MissingDataError: the data are missing, so they cannot be judged.
    """
    for name in names:
        find(name)
    reports = []
    for name in names:
        try:
            reports.append(check(name, lambda name=name: read(name)))
        except MissingDataError:
            raise
        except MiclabError as error:
            reports.append({"name": name, "faults": [str(error)], "notes": [], "common_share": {}})
    return reports
