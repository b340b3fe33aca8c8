"""`miclab data list`, `show`, `check` and `embed`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from miclab.cli.options import output_file
from miclab.cli.terminal import bar, parse, print_json, print_table
from miclab.data.catalogue import load
from miclab.data.check import checked
from miclab.data.dataset import DataSet
from miclab.data.registry import Progress, registered
from miclab.data.shipped import SHIPPED
from miclab.errors import ConfigError, MiclabError, nearest, visible

if TYPE_CHECKING:
    from miclab.data.pretrained import Kind


def usage() -> str:
    """The text of `miclab data --help`, with all registered names."""
    width = max(len(known.usage) for known in registered())
    lines = [
        "usage: miclab data {list,show,check,embed} [options]",
        "",
        "  list    the data sets: classes, exemplars, what is held out, licence",
        "  show    a picture of sampled classes with their exemplars: `data show NAME --output FILE.png`",
        "  check   hashes, counts, duplicates, and what all items have in common: `data check [NAME ...]`",
        "  embed   embeddings of pictures, texts or sounds by a Hugging Face encoder, as a file for `vectors:FILE`",
        "",
        "NAME is one of these:",
        *(f"  {known.usage:<{width}}  {known.words}" for known in registered()),
        "`show` also takes `concepts`: all three side by side.",
        "`miclab data COMMAND --help` shows the options of each.",
    ]
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """List the data sets."""

    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True, kw_only=True)
class ShowDataOptions:
    """Draw sampled classes with their exemplars."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """NAME of a data set, or `concepts`."""
    output: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File to write: .png, .pdf or .svg."""
    classes: int = 10
    """How many classes, 1 to 40."""
    exemplars: int = 6
    """How many exemplars of a class at most, 1 to 20."""
    seed: int = 0
    """Seed of the choice of classes."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Check data sets; by default all shipped ones."""

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="[NAME ...]", help_behavior_hint="(default: all that are shipped)"),
    ] = ()
    """Data sets."""
    json: bool = False
    """Print as JSON."""


def run_data(arguments: list[str]) -> int:
    """`miclab data ...`; `check` has exit status 1 if something is wrong with the data."""

    commands = {"list": _list, "show": _show, "check": _check, "embed": run_embed}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] not in commands:
        raise MiclabError(f"{arguments[0]!r} is no command of data: {nearest(arguments[0], commands)}")
    return commands[arguments[0]](arguments[1:])


@contextlib.contextmanager
def _reading_bar(title: str) -> Iterator[Progress]:
    """A progress bar for reading items, which appears if there are many."""
    with contextlib.ExitStack() as stack:
        advance = None

        def progress(done: int, total: int) -> None:
            nonlocal advance
            if total > 2000 and advance is None:
                advance = stack.enter_context(bar(title, total))
            if advance is not None:
                advance(done, "items")

        yield progress


def _load(name: str) -> DataSet:
    with _reading_bar(f"reading {name.partition(':')[0]}") as progress:
        return load(name, progress=progress)


def _described(data: DataSet) -> dict[str, Any]:
    counts = data.exemplars_per_class
    return {
        "name": data.name,
        "kind": data.kind,
        "classes": len(data.class_names),
        "held_out_classes": int(data.held_out_classes.sum()),
        "exemplars": len(data.items),
        "exemplars_per_class": [int(counts.min()), int(counts.max())],
        "held_out_exemplars": len(data.indices("held-out exemplars")),
        "item_shape": list(data.item_shape),
        "sources": len(data.sources),
        "licence": data.licence,
    }


def _list(arguments: list[str]) -> int:
    options = parse(ListOptions, "data list", arguments)
    rows = [_described(load(known.name)) for known in registered() if not known.argument]
    if options.json:
        print_json(rows)
        return 0
    columns = ["name", "kind", "classes (held out)", "exemplars (held out)", "a class", "item", "licence"]
    cells = [
        [
            row["name"],
            row["kind"],
            f"{row['classes']:,} ({row['held_out_classes']})",
            f"{row['exemplars']:,} ({row['held_out_exemplars']:,})",
            " to ".join(dict.fromkeys(map(str, row["exemplars_per_class"]))),
            " x ".join(map(str, row["item_shape"])),
            row["licence"],
        ]
        for row in rows
    ]
    print_table("data sets", columns, cells)
    print()
    others = [[known.usage, known.words] for known in registered() if known.argument]
    print_table("read from elsewhere", ["name", "what it is"], others)
    return 0


def _show(arguments: list[str]) -> int:
    options = parse(ShowDataOptions, "data show", arguments)
    endings = (".png", ".pdf", ".svg")
    if options.output.suffix not in endings:
        raise MiclabError(f"--output {options.output} has to end in {', '.join(endings)}.")
    if not 1 <= options.classes <= 40 or not 1 <= options.exemplars <= 20:
        raise MiclabError("--classes may be 1 to 40 and --exemplars 1 to 20.")
    output = output_file(str(options.output))
    from miclab.data.contact import CONCEPTS, draw

    data = None if options.name == CONCEPTS else _load(options.name)
    path = draw(options.name, data, output, classes=options.classes, exemplars=options.exemplars,
                seed=options.seed)  # fmt: skip
    print(visible(f"wrote {path}"))
    return 0


def _check(arguments: list[str]) -> int:
    options = parse(CheckOptions, "data check", arguments)
    reports = checked(options.names or tuple(SHIPPED), _load)
    faults = sum(len(report["faults"]) for report in reports)
    if options.json:
        print_json(reports)
        return 1 if faults else 0
    for report in reports:
        print(visible(f"{report['name']}: {'good' if not report['faults'] else 'NOT good'}"))
        for line in [*report["faults"], *report["notes"]]:
            print(visible(f"  {line}"))
    return 1 if faults else 0


Folder = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """Compute embeddings by a Hugging Face encoder: one vector for each picture, text or sound.

    Give one of --images, --texts and --audio. If the command is interrupted, the same command again resumes it.
    """

    model: Annotated[str, tyro.conf.arg(metavar="MODEL")]
    """Folder or hub id of an encoder (CLIP, SigLIP, CLAP, DINOv2, ...) with weights in safetensors."""
    output: Annotated[Path, tyro.conf.arg(metavar="FILE.safetensors")]
    """File to write; a source then names it as vectors:FILE.safetensors."""
    images: Folder = None
    """Folder with one folder per class, with pictures inside."""
    texts: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """CSV or TSV file with the header label,text."""
    audio: Folder = None
    """Folder with one folder per class, with .wav files inside."""
    batch: int = 32
    """Items at a time."""
    background: str = "white"
    """Colour that transparent parts of pictures show: a name, or #RRGGBB."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto: a GPU if there is one."""
    offline: bool = False
    """Use no network; take hub ids from the cache."""
    overwrite: bool = False
    """Replace FILE.safetensors if it exists."""
    json: bool = False
    """Print as JSON."""

    def check(self) -> None:
        """Raises MiclabError, or ConfigError, for options that cannot be used."""
        if self.batch < 1:
            raise ConfigError("batch", self.batch, "1 and more")
        if sum(place is not None for place in (self.images, self.texts, self.audio)) != 1:
            raise MiclabError("Give one of --images FOLDER, --texts FILE and --audio FOLDER.")
        if self.output.suffix != ".safetensors":
            raise MiclabError(f"--output {self.output} has to end in .safetensors.")

    @property
    def chosen(self) -> tuple[Kind, Path]:
        """The kind of items and where they are."""
        places: dict[Kind, Path | None] = {"images": self.images, "texts": self.texts, "audio": self.audio}
        return next((kind, place.expanduser()) for kind, place in places.items() if place is not None)


def run_embed(arguments: list[str]) -> int:
    """`miclab data embed ...`."""
    options = parse(EmbedOptions, "data embed", arguments)
    options.check()
    output = output_file(str(options.output))
    if output.exists() and not options.overwrite:
        raise MiclabError(f"--output {output} is there already. Name another file, or add --overwrite.")
    from miclab.data.embed import embed
    from miclab.data.embed_items import find_items
    from miclab.data.pictures import background_colour
    from miclab.data.pretrained import load_encoder

    background_colour(options.background)
    kind, place = options.chosen
    items = find_items(kind, place)
    encoder = load_encoder(options.model, kind, device=options.device, offline=options.offline)
    with bar(f"embedding {kind}", len(items)) as advance:
        made = embed(encoder, items, output, batch=options.batch, background=options.background,
                     on_progress=lambda done, total: advance(done, kind))  # fmt: skip
    found = {
        "source": f"vectors:{made.path}",
        "rows": made.rows,
        "classes": made.classes,
        "dimension": made.dimension,
        "features": encoder.method,
        "reused_rows": made.reused,
        "weights": encoder.weights,
    }
    if options.json:
        print_json(found)
        return 0
    print(visible(f"wrote {made.path}: {made.rows} vectors of dimension {made.dimension}, {made.classes} classes"))
    print(f"features: {encoder.method}")
    print(visible(f"look at it with `miclab data check vectors:{made.path}`"))
    return 0
