"""Files of embeddings, read as they are: vectors and labels, whatever the format. Nothing that could run code is read.

    .npy           [class, exemplar, dimension], or [row, dimension] with labels in a file beside it
    .npz           an array `vectors` of either form, and an array `labels`
    .safetensors   a tensor `vectors` of either form, and `labels` (whole numbers; names in the metadata `class_names`)
    .parquet       a column of vectors and a column of labels
    FOLDER         what Hugging Face `datasets` saves with `save_to_disk`, with two such columns

Labels beside FILE.npy lie in FILE.labels.csv or FILE.labels.npy, also for the formats whose labels are missing.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from miclab import storage
from miclab.data.dataset import DataContentError

VECTORS, LABELS = ("vectors", "vector", "embeddings", "embedding"), ("labels", "label", "classes", "class")
"""Names under which vectors and labels are sought; the first is ours."""
CONVERT = "Save it as .npy, .npz, .safetensors or .parquet."


@dataclass(frozen=True)
class Table:
    """The content of a file.

    Arguments:
        vectors: float [row, dimension] or [class, exemplar, dimension], in the file's own precision.
        labels: one for each row, or for each class; None: the file has none.
    """

    vectors: Tensor
    labels: list[str] | None


def read_table(path: Path) -> Table:
    """Vectors and labels of a file or folder.

    Raises:
        DataContentError: it is damaged, of another format, or holds no vectors; the message begins with the path.
    """
    if path.is_dir():
        return _datasets_folder(path)
    reader = FORMATS.get(path.suffix.lower())
    if reader is None:
        raise DataContentError(path, f"it has a format that is not read. {CONVERT}{_why_not(path.suffix.lower())}")
    table = reader(path)
    return Table(table.vectors, labels_beside(path)) if table.labels is None else table


def _why_not(suffix: str) -> str:
    if suffix in (".pt", ".pth", ".bin", ".pkl", ".pickle", ".joblib"):
        return " Files of this kind may be pickles, which can run any code when they are read."
    if suffix in (".h5", ".hdf5"):
        return ' With h5py: `numpy.save("vectors.npy", file["vectors"][:])`.'
    return ""


# -- NumPy --------------------------------------------------------------------------------------------------------
def float_tensor(path: Path, values: np.ndarray, what: str = "its array") -> Tensor:
    """An array of vectors as a tensor.

    Raises:
        DataContentError: it holds no floats.
    """
    if values.dtype.kind != "f" or values.dtype.itemsize > 8:
        raise DataContentError(
            path,
            f"{what} is of type {values.dtype}; vectors are float16, float32 or float64. "
            "Convert them with `values.astype(numpy.float32)`.",
        )
    # A copy, so that neither a mapped file nor foreign byte order reaches PyTorch.
    return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("=")))


def label_list(path: Path, values: np.ndarray, what: str = "labels") -> list[str]:
    """An array of labels as text; whole numbers become their digits.

    Raises:
        DataContentError: it is no list of texts or whole numbers.
    """
    if values.ndim != 1 or values.dtype.kind not in "iuUS":
        raise DataContentError(
            path,
            f"{what} has shape {list(values.shape)} and type {values.dtype}; labels are one list of texts or "
            "whole numbers.",
        )
    if values.dtype.kind == "S":
        return [value.decode("utf-8", "replace") for value in values.tolist()]
    return [str(value) for value in values.tolist()]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever a parser raises on damaged bytes, which is no closed set, into a DataContentError. What is no
    regular file is not opened."""
    try:
        if not path.is_dir():
            storage.check_regular(path)
        yield
    except (DataContentError, MemoryError):
        raise
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        fault = f"it cannot be read: {why}. It is damaged or not of the format that its ending says."
        if "pickle" in why or "Python objects" in why:
            fault = "it holds Python objects (an object array), which are never read. Save plain numbers."
        raise DataContentError(path, fault) from error


def _mapped(path: Path) -> np.ndarray:
    """A `.npy` file. It is mapped, so that a header that promises too much takes no memory."""
    with _reading(path):
        return np.lib.format.open_memmap(path, mode="r")


def _npy(path: Path) -> Table:
    return Table(float_tensor(path, _mapped(path)), None)


def _chosen(names: Sequence[str], wanted: Sequence[str], others: Sequence[str] = ()) -> str | None:
    """The first of the wanted names; without one, the only name that is not among the others."""
    for name in wanted:
        if name in names:
            return name
    left = [name for name in names if name not in others]
    return left[0] if len(left) == 1 else None


def _npz(path: Path) -> Table:
    # Opened here: NumPy leaves the file of a damaged archive open.
    with _reading(path), path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataContentError(path, "it is no archive of arrays, as its ending says.")
        name = _chosen(file.files, VECTORS, LABELS)
        if name is None:
            problem = f"it holds the arrays {', '.join(file.files) or 'none'}: name one of them 'vectors'."
            raise DataContentError(path, problem)
        vectors = float_tensor(path, file[name], f"the array {name!r}")
        own = next((label for label in LABELS if label in file.files), None)
        return Table(vectors, None if own is None else label_list(path, file[own], f"the array {own!r}"))


# -- safetensors --------------------------------------------------------------------------------------------------
def _safetensors(path: Path) -> Table:
    from safetensors import safe_open

    with _reading(path), safe_open(path, framework="pt") as file:
        names, metadata = list(file.keys()), file.metadata() or {}
        name = _chosen(names, VECTORS, LABELS)
        if name is None:
            problem = f"it holds the tensors {', '.join(names) or 'none'}: name one of them 'vectors'."
            raise DataContentError(path, problem)
        vectors = file.get_tensor(name)
        own = next((label for label in LABELS if label in names), None)
        numbers = None if own is None else file.get_tensor(own)
    if not vectors.is_floating_point() or vectors.element_size() < 2:
        raise DataContentError(path, f"the tensor {name!r} is of type {vectors.dtype}; vectors are float16 to float64.")
    if numbers is None:
        return Table(vectors, None)
    if numbers.is_floating_point() or numbers.is_complex():
        raise DataContentError(path, f"the tensor {own!r} is of type {numbers.dtype}; labels are whole numbers.")
    labels = label_list(path, numbers.numpy(), f"the tensor {own!r}")
    if "class_names" in metadata:
        labels = named_labels(path, labels, metadata["class_names"])
    return Table(vectors, labels)


def named_labels(path: Path, labels: list[str], class_names: str) -> list[str]:
    """Labels that are numbers, as the names with these numbers.

    Raises:
        DataContentError: the names are no JSON list of texts, or a number has none.
    """
    try:
        names = json.loads(class_names)
    except ValueError as error:
        raise DataContentError(path, "its metadata 'class_names' is no JSON list of names.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataContentError(path, "its metadata 'class_names' is no JSON list of names.")
    for row, label in enumerate(labels):
        if not 0 <= int(label) < len(names):
            raise DataContentError(path, f"row {row} has the label {label}, and there are {len(names)} class names.")
    return [names[int(label)] for label in labels]


# -- tables of columns --------------------------------------------------------------------------------------------
def _columns(path: Path, frame: Any, names_of: dict[str, list[str]]) -> Table:
    """Vectors and labels of a polars frame; `names_of` gives names for columns of numbers."""
    import polars as pl

    is_list = {c: isinstance(t, (pl.List, pl.Array)) and t.inner.is_float() for c, t in frame.schema.items()}
    is_text = {c: t.is_integer() or t in (pl.String, pl.Categorical, pl.Enum) for c, t in frame.schema.items()}
    lists, texts = [c for c in is_list if is_list[c]], [c for c in is_text if is_text[c]]
    vector_column, label_column = _chosen(lists, VECTORS), _chosen(texts, LABELS)
    present = ", ".join(f"{column} ({kind})" for column, kind in frame.schema.items()) or "none"
    if vector_column is None:
        which = "one column of lists of floats, or name it 'vectors'"
        raise DataContentError(path, f"it needs {which}; its columns: {present}.")
    if label_column is None and texts:
        problem = f"it has several columns that may be labels: name one 'labels'; its columns: {present}."
        raise DataContentError(path, problem)
    values = frame[vector_column]
    inner = frame.schema[vector_column].inner
    values = values.cast(pl.List(inner))
    lengths = values.list.len()
    if not len(values):
        raise DataContentError(path, f"column {vector_column!r} has no rows.")
    for row, length in enumerate(lengths.to_list()):
        if length is None:
            raise DataContentError(path, f"row {row} of column {vector_column!r} is empty (null).")
        if length != lengths[0]:
            raise DataContentError(
                path,
                f"row {row} of column {vector_column!r} has {length} numbers, and row 0 has {lengths[0]}. "
                "All vectors need one dimension.",
            )
    flat = values.explode()
    if flat.null_count():
        row = int(flat.is_null().arg_max() or 0) // lengths[0]
        raise DataContentError(path, f"row {row} of column {vector_column!r} has a number that is null.")
    vectors = float_tensor(path, flat.to_numpy(), f"column {vector_column!r}").view(len(values), -1)
    if label_column is None:
        return Table(vectors, None)
    column = frame[label_column].cast(pl.String)
    if column.null_count():
        problem = f"row {column.is_null().arg_max()} of column {label_column!r} has no label (null)."
        raise DataContentError(path, problem)
    labels = column.to_list()
    if label_column in names_of:
        labels = named_labels(path, labels, json.dumps(names_of[label_column]))
    return Table(vectors, labels)


def _polars(path: Path, read: Callable[[Any], Any]) -> Any:
    import polars as pl

    with _reading(path):
        try:
            return read(pl)
        except pl.exceptions.PanicException as error:
            # No Exception by its type: a fault in polars' own code, met on damaged files.
            raise DataContentError(path, f"it cannot be read: {error}. It is damaged.") from error


def _parquet(path: Path) -> Table:
    return _columns(path, _polars(path, lambda pl: pl.read_parquet(path, use_statistics=False, glob=False)), {})


def _datasets_folder(path: Path) -> Table:
    """A folder that `datasets` saved: `state.json` names the Arrow files, `dataset_info.json` the classes."""
    if (path / "dataset_dict.json").is_file():
        splits = sorted(child.name for child in path.iterdir() if child.is_dir())
        example = f": give the folder of one, as in {path / splits[0]}" if splits else ""
        raise DataContentError(path, f"it holds the splits {', '.join(splits) or 'none'}{example}.")
    if not (path / "state.json").is_file():
        raise DataContentError(
            path,
            "it is a folder without state.json. Give a file of vectors, or a folder that Hugging Face `datasets` "
            "saved. For a folder of pictures: folder:PATH, or `miclab data embed`.",
        )
    state, info = _json(path / "state.json"), {}
    if (path / "dataset_info.json").is_file():
        info = _json(path / "dataset_info.json")
    if state.get("_indices_data_files"):
        problem = "it is a choice of rows: save it with `dataset.flatten_indices().save_to_disk(PATH)`."
        raise DataContentError(path, problem)
    frames = [_polars(file, lambda pl, file=file: pl.read_ipc_stream(file)) for file in _arrow_files(path, state)]
    features = info.get("features")
    features = features if isinstance(features, dict) else {}
    names_of = {c: f["names"] for c, f in features.items() if isinstance(f, dict) and isinstance(f.get("names"), list)}
    return _columns(path, _polars(path, lambda pl: pl.concat(frames)), names_of)


def _arrow_files(path: Path, state: dict[str, Any]) -> list[Path]:
    """The data files that `state.json` names; none may lead out of the folder."""
    listed = state.get("_data_files")
    files = []
    for entry in listed if isinstance(listed, list) else []:
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str) or Path(name).name != name:
            raise DataContentError(path / "state.json", f"it names {name!r}, which is no file of this folder.")
        files.append(path / name)
        if not files[-1].is_file():
            raise DataContentError(files[-1], f"it is missing; {path / 'state.json'} names it.")
    if not files:
        raise DataContentError(path / "state.json", "it names no data files.")
    return files


def _json(path: Path) -> dict[str, Any]:
    with _reading(path):
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise DataContentError(path, "it is no JSON object.")
    return found


# -- labels beside ------------------------------------------------------------------------------------------------
def labels_beside(path: Path) -> list[str] | None:
    """Labels in `STEM.labels.csv` or `STEM.labels.npy` beside a file; None where there is neither.

    Raises:
        DataContentError: both are there, or the file cannot be used.
    """
    found = [path.with_name(f"{path.stem}.labels{ending}") for ending in (".csv", ".npy")]
    there = [file for file in found if file.is_file()]
    if len(there) > 1:
        raise DataContentError(path, f"both {there[0].name} and {there[1].name} are there. Take one away.")
    if not there:
        return None
    return _csv_labels(there[0]) if there[0].suffix == ".csv" else label_list(there[0], _mapped(there[0]), "the array")


def _csv_labels(path: Path) -> list[str]:
    """The column `label` (or `labels`) of a CSV file with a header, or the only column of one without."""
    with _reading(path), path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    header = [cell.strip().casefold() for cell in rows[0]] if rows else []
    column = next((header.index(name) for name in LABELS if name in header), None)
    body = rows if column is None else rows[1:]
    if column is None and any(len(row) != 1 for row in rows):
        raise DataContentError(path, "several columns need a header, and one of them the name 'label'.")
    for line, row in enumerate(body):
        if (column or 0) >= len(row):
            problem = f"row {line} has {len(row)} cells, and the label is in column {(column or 0) + 1}."
            raise DataContentError(path, problem)
    return [row[column or 0] for row in body]


FORMATS: dict[str, Callable[[Path], Table]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}
"""Readers by the ending of a file."""
