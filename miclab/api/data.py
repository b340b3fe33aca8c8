"""Data sets, and embeddings made by the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.errors import MiclabError
from miclab.tables import Mark, Table, Tabled, table

if TYPE_CHECKING:
    from miclab.data.embed import Embedded
    from miclab.data.pretrained import Kind


class DataCheck(Tabled):
    """Faults of data sets and notes on them; make it with `miclab.check_data`.

    Arguments:
        reports: of each data set its `name`, `faults`, `notes`, and `common_share` (of the items' norm).
    """

    def __init__(self, reports: Sequence[dict[str, Any]]):
        self.reports = tuple(reports)

    @property
    def good(self) -> bool:
        """Whether no data set has a fault."""
        return not any(report["faults"] for report in self.reports)

    def tables(self) -> tuple[Table, ...]:
        """A row for each data set."""
        rows = [
            [one["name"], Mark("NOT good", "bad") if one["faults"] else Mark("good", "good"),
             "\n".join([*one["faults"], *one["notes"]])]
            for one in self.reports
        ]  # fmt: skip
        return (table("", ["data set", "state", "remarks"], rows),)

    def as_json(self) -> list[dict[str, Any]]:
        """The reports as plain data, as `miclab data check --json` has them."""
        return list(self.reports)

    def __repr__(self) -> str:
        return f"DataCheck({', '.join(one['name'] for one in self.reports)}: {'good' if self.good else 'NOT good'})"


def check_data(*names: str) -> DataCheck:
    """Checks data sets: hashes, counts, duplicates, and what all items have in common.

    Arguments:
        names: data sets, for example `concepts.pictures` or `vectors:FILE`; none: all shipped ones.

    Raises:
        MiclabError: no source of this name is registered (the message names the nearest).
        MissingDataError: the data are not there.
    """
    from miclab.data.catalogue import load
    from miclab.data.check import checked
    from miclab.data.shipped import SHIPPED

    return DataCheck(checked(names or tuple(SHIPPED), load))


def embed(
    model: str,
    output: str | Path,
    *,
    images: str | Path | None = None,
    texts: str | Path | None = None,
    audio: str | Path | None = None,
    batch: int = 32,
    device: str = "auto",
    offline: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Computes embeddings by a Hugging Face encoder and writes them as a file for a source `vectors:FILE`.

    After an interruption, the same call resumes. Needs the extra `mllm`.

    Arguments:
        model: folder or hub id of an encoder (CLIP, SigLIP, CLAP, DINOv2, ...) with weights in safetensors.
        output: the file, which ends in .safetensors: vectors [row, dimension] and their labels [row].
        images: folder with one folder of pictures per class.
        texts: CSV or TSV file with the header `label,text`.
        audio: folder with one folder of .wav files per class.
        batch: items at a time.
        device: cpu, cuda, cuda:1, ...; auto: a GPU if there is one.
        offline: use no network.
        overwrite: replace the file if it exists.
        on_progress: called with the number of finished items and of all.

    Returns:
        The file's path, its rows, classes and dimension.

    Raises:
        MiclabError: not one of `images`, `texts` and `audio` is given, or the file is there already.
        DataError: an item cannot be read, or the encoder gives no finite vectors.
    """
    from miclab.data.embed import embed as compute
    from miclab.data.embed_items import find_items
    from miclab.data.pretrained import load_encoder

    places: dict[Kind, str | Path | None] = {"images": images, "texts": texts, "audio": audio}
    given: list[tuple[Kind, Path]] = [
        (kind, Path(place).expanduser()) for kind, place in places.items() if place is not None
    ]
    file = Path(output)
    if len(given) != 1:
        raise MiclabError("Give one of images, texts and audio.")
    if batch < 1:
        raise MiclabError("batch is 1 or more.")
    if file.suffix != ".safetensors":
        raise MiclabError(f"{file} has to end in .safetensors.")
    if not file.parent.is_dir():
        raise MiclabError(f"There is no directory {file.parent}: make it, or give another path.")
    if file.exists() and not overwrite:
        raise MiclabError(f"{file} is there already. Name another file, or give overwrite=True.")
    ((kind, place),) = given
    items = find_items(kind, place)
    encoder = load_encoder(model, kind, device=device, offline=offline)
    return compute(encoder, items, file, batch=batch, on_progress=on_progress)
