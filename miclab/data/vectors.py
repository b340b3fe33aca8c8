"""The user's own embeddings as a modality: `vectors:PATH`.

A label is a class, and its name is the class's name: with `sequence.pairing` `concept` two files are paired by it. A
fifth of the classes is held out (smallest SHA-256 of the name in lower case). So is the last fifth of each class's
rows. Vectors are float32 and have length 1 when they enter a run, as those of every source (`miclab.data.items`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from miclab.data.dataset import DataContentError, DataSet, reject_same_names
from miclab.data.registry import Progress, existing, silent, source
from miclab.data.split import held_out_count, held_out_names, last_exemplars
from miclab.data.vector_files import Table, read_table

LEAST_CLASSES = 10
"""Fewest classes: a fifth of them is held out, and a set of novel classes needs two."""
LEAST_DIMENSION = 2
SHOWN = 5
"""Most rows that a message names."""
HOW = "Give a file .npy, .npz, .safetensors or .parquet, or a folder that Hugging Face `datasets` saved."


@source(
    "vectors", argument="PATH", words="your own embeddings: .npy, .npz, .safetensors, .parquet, a `datasets` folder"
)
def load_vectors(name: str, argument: str, progress: Progress = silent) -> DataSet:
    """Embeddings in a file (see `miclab.data.vector_files`).

    Raises:
        MissingDataError: there is no such file.
        DataContentError: it cannot be read, or a row is zero or not finite. Labels are missing, empty, or not one for
            each row. There are fewer than 10 classes, or a class has fewer than two rows.
    """
    path = existing(name, argument, HOW)
    table = read_table(path)
    rows, labels = _rows(path, table)
    items = _checked(path, rows, table.vectors.shape[1] if table.vectors.dim() == 3 else 0)
    names: dict[str, int] = {}
    class_of = torch.tensor([names.setdefault(label, len(names)) for label in labels])
    if len(names) < LEAST_CLASSES:
        raise DataContentError(
            path,
            f"it has {len(names)} class{'es' * (len(names) != 1)}; at least {LEAST_CLASSES} are needed, since "
            "a fifth is held out and a novel set needs two. Add classes.",
        )
    order = class_of.argsort(stable=True)
    # Case is ignored, as in pairing, so that a name is held out in both of two files or in neither.
    held_out = held_out_names([label.casefold() for label in names], held_out_count(len(names), len(names)))
    return DataSet(
        name=name,
        kind="vector",
        class_names=tuple(names),
        items=items[order],
        class_of=class_of[order],
        held_out_classes=torch.tensor([label.casefold() in held_out for label in names]),
        held_out_exemplars=last_exemplars(class_of[order]),
        sources=(path.name,),
        source_of=torch.zeros(len(items), dtype=torch.long),
        licence="not known to miclab",
    )


def _rows(path: Path, table: Table) -> tuple[Tensor, list[str]]:
    """Vectors [row, dimension] and a label for each row."""
    shape, labels = list(table.vectors.shape), table.labels
    if len(shape) not in (2, 3) or 0 in shape:
        raise DataContentError(
            path, f"it has shape {shape}; allowed are [class, exemplar, dimension] and [row, dimension]."
        )
    if shape[-1] < LEAST_DIMENSION:
        raise DataContentError(path, f"its vectors have {shape[-1]} number; they need {LEAST_DIMENSION} or more.")
    what = "class" if len(shape) == 3 else "row"
    if labels is None and what == "row":
        raise DataContentError(
            path,
            f"it has shape {shape} and no labels. Put one label a row into {path.stem}.labels.csv or "
            f"{path.stem}.labels.npy beside it, or into `labels` of an .npz; or give [class, exemplar, dimension].",
        )
    if labels is None:
        labels = [f"class {number}" for number in range(shape[0])]
    if len(labels) != shape[0]:
        raise DataContentError(
            path, f"it has {len(labels)} labels for {shape[0]} {what}{'es' * (what == 'class') or 's'}."
        )
    labels = [label.strip() for label in labels]
    empty = [row for row, label in enumerate(labels) if not label]
    if empty:
        raise DataContentError(path, f"{_named(what, empty)} an empty label. Give each a name.")
    if what == "row":
        return table.vectors, labels
    reject_same_names(str(path), labels)
    return table.vectors.flatten(0, 1), [label for label in labels for _ in range(shape[1])]


def _checked(path: Path, vectors: Tensor, exemplars: int) -> Float[Tensor, "row dimension"]:
    """Vectors as float32, none of them zero, all finite. `exemplars`: of each class; 0: rows are in no such order."""
    rows = vectors.to(torch.float32)
    norms = rows.norm(dim=1)
    # A row of finite numbers may have an infinite norm.
    bad = (~norms.isfinite()).nonzero()[:, 0].tolist()
    if bad:
        raise DataContentError(path, f"{_vectors_named(bad, exemplars)} NaN, infinity or numbers too large for "
                        "float32. Take such rows away or mend them.")  # fmt: skip
    # Below this norm `DataSet.floats` cannot give it length 1.
    zero = (norms < 1e-12).nonzero()[:, 0].tolist()
    if zero:
        where = _vectors_named(zero, exemplars)
        raise DataContentError(path, f"{where} length 0 (or below 1e-12), and so no direction. Take such rows away.")
    return rows.contiguous()


def _vectors_named(rows: list[int], exemplars: int) -> str:
    """Rows, or where there are exemplars of classes the first with its class and exemplar."""
    if not exemplars:
        return _named("row", rows)
    first = f"class {rows[0] // exemplars}, exemplar {rows[0] % exemplars} (counted from 0)"
    more = len(rows) - 1
    return f"{first} has" if not more else f"{first} and {more} more vector{'s' if more > 1 else ''} have"


def _named(what: str, numbers: list[int]) -> str:
    """`row 3 has` or `rows 3, 5, 8 and 2 more have`, counted from 0."""
    if len(numbers) == 1:
        return f"{what} {numbers[0]} (counted from 0) has"
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    plural = "classes" if what == "class" else f"{what}s"
    return f"{plural} {', '.join(map(str, numbers[:SHOWN]))}{more} (counted from 0) have"
