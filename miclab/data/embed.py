"""Embeddings of pictures, texts or sounds as one file of vectors that `vectors:FILE` reads.

    FILE.safetensors        vectors [row, dimension], labels [row]; metadata: names of classes, encoder, its weights
    FILE.safetensors.parts/KEY.safetensors
                            vectors of a few batches; KEY is a hash of the encoder and of these items

A run that was killed finds its parts again by their keys. Parts of another encoder, or of changed items, have other
keys and are computed again. The folder of parts is removed at the end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from miclab.data.dataset import DataError
from miclab.data.embed_items import Item, read_items
from miclab.data.pretrained import EncoderError, PretrainedEncoder
from miclab.errors import ContentError
from miclab.storage import digest, read_file, tensor_bytes, tensors_from, write_bytes

PART = 8
"""Batches in a part."""


@dataclass(frozen=True)
class Embedded:
    """The result.

    Arguments:
        path: the file.
        rows, classes, dimension: its sizes.
        reused: rows that an earlier, interrupted run had computed.
    """

    path: Path
    rows: int
    classes: int
    dimension: int
    reused: int


def _key(encoder: PretrainedEncoder, items: list[Item], batch: int, background: str) -> str:
    own: list[object] = [encoder.kind, encoder.method, encoder.weights, batch, encoder.device]
    if encoder.kind == "images":
        # Parts that were computed before pictures were laid on a background have another key.
        own.append(background)
    return digest(json.dumps([own, [[item.class_name, item.key] for item in items]]).encode())[:32]


def _kept(path: Path, rows: int) -> Tensor | None:
    """The vectors of a complete part."""
    try:
        found = tensors_from(read_file(path), path)["vectors"]
    except (OSError, ContentError, KeyError):
        return None
    return found if found.dim() == 2 and len(found) == rows else None


def with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """A safetensors file with metadata. Its keys are sorted, so that equal content is equal bytes.

    Arguments:
        content: a safetensors file without metadata.
    """
    length = int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(content[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":")).encode()
    # The data begin at a multiple of 8 bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def embed(
    encoder: PretrainedEncoder,
    items: list[Item],
    output: Path,
    *,
    batch: int = 32,
    background: str = "white",
    on_progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Writes the vectors of all items. After a kill and a restart it ends with the same bytes.

    Arguments:
        items: class after class (see `find_items`).
        output: the file to write; its parts lie beside it until it is complete.
        batch: items at a time.
        background: colour that transparent parts of pictures show.
        on_progress: takes the number of finished items and their total.

    Raises:
        DataError: an item cannot be read, or the encoder gives no finite vectors.
        RunError: the file cannot be written.
    """
    folder = output.with_name(f"{output.name}.parts")
    vectors: list[Tensor] = []
    reused, size = 0, batch * PART
    for start in range(0, len(items), size):
        part = items[start : start + size]
        path = folder / f"{_key(encoder, part, batch, background)}.safetensors"
        found = _kept(path, len(part))
        if found is None:
            lots = (part[first : first + batch] for first in range(0, len(part), batch))
            found = _computed(
                encoder, lots, background, lambda done, start=start: _report(on_progress, start + done, items)
            )
            write_bytes(path, tensor_bytes({"vectors": found}))
        else:
            reused += len(part)
            _report(on_progress, start + len(part), items)
        if vectors and found.shape[1] != vectors[0].shape[1]:
            raise EncoderError(f"{encoder.name} gave vectors of {vectors[0].shape[1]} and of {found.shape[1]} numbers.")
        vectors.append(found)
    names = list(dict.fromkeys(item.class_name for item in items))
    place = {name: number for number, name in enumerate(names)}
    tensors = {"vectors": torch.cat(vectors), "labels": torch.tensor([place[item.class_name] for item in items])}
    metadata = {
        "class_names": json.dumps(names),
        "encoder": encoder.name,
        "features": encoder.method,
        "weights": encoder.weights,
    }
    write_bytes(output, with_metadata(tensor_bytes(tensors), metadata))
    shutil.rmtree(folder, ignore_errors=True)
    return Embedded(output, len(items), len(names), tensors["vectors"].shape[1], reused)


def _report(on_progress: Callable[[int, int], None] | None, done: int, items: list[Item]) -> None:
    if on_progress is not None:
        on_progress(done, len(items))


def _computed(
    encoder: PretrainedEncoder, lots: Iterable[list[Item]], background: str, report: Callable[[int], None]
) -> Tensor:
    """The vectors of one part, a batch at a time."""
    found, done = [], 0
    for some in lots:
        values = encoder(read_items(encoder, some, background))
        bad = (~values.isfinite().all(1)).nonzero()[:, 0].tolist()
        if bad:
            item = some[bad[0]]
            raise DataError(f"{encoder.name} gave NaN or infinity for {item.path or repr(item.text)}.")
        found.append(values)
        done += len(some)
        report(done)
    return torch.cat(found)
