"""CIFAR-100 in its binary version. The Python version is a pickle, which could run any code, so it is not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from miclab import storage
from miclab.data.dataset import DataContentError, DataError, DataSet, reject_same_names
from miclab.data.folders import path_and_side, require_folder
from miclab.data.registry import Progress, silent, source
from miclab.data.split import held_out_count, held_out_names

RECORD = 2 + 3 * 32 * 32
"""Bytes of a picture: its coarse label, its fine label, and 1,024 bytes each of red, green and blue."""
CIFAR_100 = (
    "CIFAR-100 (Krizhevsky 2009) is on the CIFAR page of its author at the University of Toronto: take the binary "
    "version, unpack it, and give the folder that holds train.bin, test.bin and fine_label_names.txt."
)


def _records(name: str, path: Path, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    content = np.frombuffer(storage.read_file(path), np.uint8)
    if not len(content) or len(content) % RECORD:
        raise DataContentError(path, f"it has {len(content)} bytes, not a multiple of {RECORD}: it is cut short or not "
                        "CIFAR-100's binary version. Unpack it again.")  # fmt: skip
    rows = content.reshape(-1, RECORD)
    if int(rows[:, 1].max()) >= classes:
        raise DataContentError(path, f"it has a fine label of {int(rows[:, 1].max())}, and there are {classes} names.")
    return torch.from_numpy(rows[:, 2:].reshape(-1, 3, 32, 32).copy()), torch.from_numpy(rows[:, 1].astype(np.int64))


@source("cifar-100", argument="PATH", words="100 classes of photographs of 32 x 32 pixels, binary version")
def load_cifar_100(name: str, argument: str, progress: Progress = silent) -> DataSet:
    """PATH/{train.bin, test.bin, fine_label_names.txt}. Classes are the fine labels, in the order of their names' file.

    10 classes are held out, as in the study (smallest SHA-256 of the name; a fifth where there are fewer than 50). The
    held-out exemplars are those of test.bin.

    Raises:
        DataError: a file is missing or damaged, or a size other than 32 is requested.
    """
    path, size = path_and_side(argument)
    require_folder(name, path, CIFAR_100)
    missing = [file for file in ("train.bin", "test.bin", "fine_label_names.txt") if not (path / file).is_file()]
    if missing:
        pickled = (
            " This folder is the Python version, which is a pickle and is not read." if (path / "meta").exists() else ""
        )
        raise DataContentError(path, f"it has no {', '.join(missing)}.{pickled} {CIFAR_100}")
    if size not in (None, 32):
        raise DataError(f"{name}: CIFAR-100's pictures are 32 x 32; leave @{size} away.")
    text = (path / "fine_label_names.txt").read_text(encoding="utf-8", errors="replace")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    reject_same_names(name, names)
    parts = [_records(name, path / file, len(names)) for file in ("train.bin", "test.bin")]
    items, labels = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    of_test = torch.cat([torch.full((len(part[1]),), i == 1) for i, part in enumerate(parts)])
    order = labels.argsort(stable=True)
    progress(len(items), len(items))
    held_out = held_out_names(names, held_out_count(len(names), 10))
    return DataSet(
        name=name,
        kind="picture",
        class_names=tuple(names),
        items=items[order],
        class_of=labels[order],
        held_out_classes=torch.tensor([class_name in held_out for class_name in names]),
        held_out_exemplars=of_test[order],
        sources=("train.bin", "test.bin"),
        source_of=of_test[order].long(),
        licence="its page states none; cite Krizhevsky 2009",
    )
