"""`miclab data embed`: a file of vectors for `vectors:FILE`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from miclab.cli.options import output_file
from miclab.cli.terminal import bar, parse, print_json
from miclab.errors import ConfigError, MiclabError

if TYPE_CHECKING:
    from miclab.data.pretrained import Kind

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
    """cpu, cuda, cuda:1, ...; auto: a GPU where there is one."""
    offline: bool = False
    """Use no network; take hub ids from the cache."""
    overwrite: bool = False
    """Replace FILE.safetensors if it is there."""
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
    print(f"wrote {made.path}: {made.rows} vectors of dimension {made.dimension}, {made.classes} classes")
    print(f"features: {encoder.method}")
    print(f"look at it with `miclab data check vectors:{made.path}`")
    return 0
