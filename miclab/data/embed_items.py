"""The items of `miclab data embed`: pictures and sounds in one folder per class, texts in a table."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from miclab import storage
from miclab.data.dataset import DataContentError, reject_same_names, too_few
from miclab.data.folders import ENDINGS, require_folder
from miclab.data.pictures import open_picture
from miclab.data.pretrained import Kind, PretrainedEncoder
from miclab.data.vectors import LEAST_CLASSES

SOUNDS = (".wav",)


@dataclass(frozen=True)
class Item:
    """One picture, text or sound.

    Arguments:
        class_name: of its class.
        path: its file; None for a text.
        text: the text; empty for a file.
    """

    class_name: str
    path: Path | None
    text: str

    @property
    def key(self) -> str:
        """What says that the item is still the same: name, size and time of its file, or the text."""
        if self.path is None:
            return self.text
        state = self.path.stat()
        return f"{self.path.name} {state.st_size} {state.st_mtime_ns}"


def find_items(kind: Kind, path: Path) -> list[Item]:
    """The items under a path, class after class.

    Raises:
        MissingDataError: there is nothing at the path.
        DataError: there are fewer than 10 classes, two of one name, or one with fewer than two items.
    """
    items = _texts(path) if kind == "texts" else _files(kind, path)
    counts: dict[str, int] = {}
    for item in items:
        counts[item.class_name] = counts.get(item.class_name, 0) + 1
    reject_same_names(str(path), list(counts))
    few = [name for name, count in counts.items() if count < 2]
    if few:
        raise too_few(str(path), few)
    if len(counts) < LEAST_CLASSES:
        raise DataContentError(
            path,
            f"it has {len(counts)} classes; `vectors:` needs {LEAST_CLASSES} or more. Add classes: "
            + ("rows with other labels." if kind == "texts" else "one folder per class."),
        )
    order = {name: number for number, name in enumerate(counts)}
    return sorted(items, key=lambda item: order[item.class_name])


def _files(kind: Kind, path: Path) -> list[Item]:
    endings = ENDINGS if kind == "images" else SOUNDS
    require_folder(f"--{kind}", path, f"Give the folder that holds one folder per class, with {', '.join(endings)}.")
    items = []
    for folder in sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith(".")):
        files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in endings and not f.name.startswith(".")]
        if not files:
            raise DataContentError(
                folder, f"it holds no file {', '.join(endings)}. Put some there, or take the folder away."
            )
        items += [Item(folder.name, file, "") for file in files]
    if not items:
        raise DataContentError(
            path, f"it holds no folder. It needs one folder per class, with that class's {kind} inside."
        )
    return items


def _texts(path: Path) -> list[Item]:
    how = "Give a CSV or TSV file with the header label,text."
    if not path.is_file():
        fault = "this is a folder" if path.is_dir() else "there is no such file"
        raise DataContentError(f"--texts {path}", f"{fault}. {how}")
    try:
        storage.check_regular(path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except (OSError, ValueError, csv.Error) as error:
        raise DataContentError(path, f"it cannot be read: {error}. {how}") from error
    items = []
    for number, row in enumerate(rows):
        label, text = (row.get("label") or "").strip(), (row.get("text") or "").strip()
        if not label or not text:
            raise DataContentError(
                path, f"row {number} (counted from 0, without the header) has no label or no text. {how}"
            )
        items.append(Item(label, None, text))
    return items


def read_items(encoder: PretrainedEncoder, items: Sequence[Item], background: str = "white") -> list[Any]:
    """The inputs of an encoder: PIL images in RGB, texts, or samples at its rate.

    Arguments:
        background: colour that transparent parts of pictures show.

    Raises:
        DataError: a file cannot be read; it is named.
    """
    if encoder.kind == "texts":
        return [item.text for item in items]
    paths = [item.path for item in items if item.path is not None]
    if encoder.kind == "images":
        return [open_picture(path, background)[0] for path in paths]
    return [_sound(path, encoder.sampling_rate) for path in paths]


def _sound(path: Path, rate: int) -> np.ndarray:
    """The samples of a WAV file, float32 from -1 to 1: the mean of its channels, at `rate` samples a second."""
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    try:
        with warnings.catch_warnings():
            # Unknown chunks hold no samples.
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            own, samples = wavfile.read(path)
    except Exception as error:
        raise DataContentError(
            path, f"it is no WAV file that can be read ({error}). Mend it or take it away."
        ) from error
    if not len(samples) or own < 1:
        raise DataContentError(path, "it holds no samples. Take it away.")
    if samples.dtype.kind == "u":
        values = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        values = samples.astype(np.float32) / float(2 ** (8 * samples.dtype.itemsize - 1))
    else:
        values = samples.astype(np.float32)
    if values.ndim == 2:
        values = values.mean(1)
    if own != rate:
        common = gcd(own, rate)
        values = resample_poly(values, rate // common, own // common)
    return np.ascontiguousarray(values, np.float32)
