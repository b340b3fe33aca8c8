"""The only module that opens pictures: as a viewer shows them, in red, green and blue, or refused by name.

EXIF orientation       turned upright
transparency           laid on a background (white unless another is named)
16 bits a channel      65,535 is white, also in PGM; the value that a PNG names as transparent shows the background
integers and floats    0 to 1, 0 to 255 or 0 to 65,535 where the values lie so; else from the least to the greatest
CMYK, palette, grey    as red, green and blue
animated, many pages   the first frame, with a remark
refused                vector drawings (SVG), truncated files, more than 89,478,485 pixels, sides of more than 200 to
                       1, values that are no numbers, formats that are not listed
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from miclab import storage
from miclab.data.dataset import DataContentError
from miclab.errors import ConfigError

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "AVIF")
"""Accepted formats. Of the others, some start programs (EPS), and none holds photographs."""
MOST_PIXELS = 89_478_485
"""Pillow's own limit. A larger file may be made to fill the memory."""
MOST_ASPECT = 200
"""Largest ratio of longer to shorter side, that of Qwen's processor."""
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Modes of more than eight bits a channel."""
DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, AttributeError, EOFError, MemoryError,
    ArithmeticError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow and its decoders raise at a damaged file."""
DRAWINGS = (b"<svg", b"<?xml", b"<!doctype svg", b"\x1f\x8b")
"""Beginnings of SVG files, also of compressed ones."""


class PictureError(DataContentError):
    """A picture that cannot be shown."""


def resolve(path: str, roots: Sequence[Path]) -> Path:
    """The file of a relative path, below the first root that has it: the task's folder, then the benchmark's root.

    Links that lie in a root are followed.

    Arguments:
        path: as in the JSON.
        roots: folders, in the order in which they are searched.

    Raises:
        PictureError: the path leads out of the roots, or no root has the file; the message says where it was sought.
    """
    named = os.path.normpath(path.replace("\\", "/"))
    if os.path.isabs(named) or named.split("/")[0] in ("..", "") or ":" in named.split("/")[0]:
        raise PictureError(
            f"image {path[:80]!r}",
            f"it leads out of the task's folder. Pictures lie below {' or '.join(map(str, roots))}, and their paths "
            "are relative to it.",
        )
    for root in roots:
        if (root / named).is_file():
            return root / named
    raise PictureError(f"image {path[:80]}", f"it is missing: looked for in {', '.join(map(str, roots))}.")


def background_colour(name: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour's name or #RRGGBB.

    Raises:
        ConfigError: it is no colour.
    """
    try:
        found = ImageColor.getrgb(name)
    except ValueError as error:
        raise ConfigError("background", name, "the name of a colour, such as white, or #RRGGBB") from error
    return found[0], found[1], found[2]


def open_picture(path: Path, background: str = "white") -> tuple[Image.Image, tuple[str, ...]]:
    """A picture in red, green and blue, upright, and remarks on its parts that are not shown.

    Arguments:
        path: the file.
        background: colour that transparent parts show.

    Raises:
        PictureError: it cannot be shown (see the module's text).
        ConfigError: the background is no colour.
    """
    colour = background_colour(background)
    try:
        with warnings.catch_warnings():
            # The limit below is Pillow's, which warns there and raises only at twice as many.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # Damage to text chunks and tags does not affect the pixels, and Pillow can read around it.
            warnings.simplefilter("ignore", UserWarning)
            storage.check_regular(path)
            with Image.open(path, formats=_readable()) as image:
                _check_size(path, image.size)
                remarks = _remarks(image)
                image.load()
                seen = _plain(path, image, colour)
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(path, f"it is no picture that can be read ({_unknown(path)})") from error
    except DAMAGE as error:
        raise PictureError(path, f"it is no picture that can be read ({error})") from error
    return seen, remarks


@cache
def _readable() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(path, f"it is {width} x {height} and holds no pixels.")
    if width * height > MOST_PIXELS:
        raise PictureError(path, f"it is {width} x {height}: more than {MOST_PIXELS:,} pixels. Shrink it.")
    if max(size) > MOST_ASPECT * min(size):
        raise PictureError(
            path, f"it is {width} x {height}: one side is over {MOST_ASPECT} times the other. Crop it or pad it."
        )


def _remarks(image: Image.Image) -> tuple[str, ...]:
    """Parts of a file that are not shown. Phones put a second picture into MPO files, which does not show the scene."""
    frames = int(getattr(image, "n_frames", 1))
    return (f"the first of {frames} frames is shown",) if frames > 1 and image.format != "MPO" else ()


def _unknown(path: Path) -> str:
    """Why Pillow does not know a file, from its first bytes."""
    head = path.read_bytes()[:512].lstrip().lower() if path.is_file() else b""
    if path.suffix.lower() in (".svg", ".svgz") or (head.startswith(DRAWINGS) and b"<svg" in head):
        return "it is a vector drawing (SVG); save it as PNG in the size in which it is to be seen"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"hevc"):
        return "it is HEIC, which Pillow does not read; save it as JPEG or PNG"
    return f"it is none of {', '.join(FORMATS)}, or is damaged" if head else "it is empty"


def _plain(path: Path, image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """The first frame, upright, in red, green and blue."""
    turned = ImageOps.exif_transpose(image)
    if turned.mode in DEEP:
        return _deep(path, turned, is_full=image.format == "PPM" and turned.mode != "F", background=background)
    if turned.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in turned.info:
        shown = turned.convert("RGBA")
        paper = Image.new("RGBA", shown.size, (*background, 255))
        return Image.alpha_composite(paper, shown).convert("RGB")
    return turned.convert("RGB")


def _deep(path: Path, image: Image.Image, *, is_full: bool, background: tuple[int, int, int]) -> Image.Image:
    """A grey picture of many bits in red, green and blue. PNG may name one of its values as transparent.

    Arguments:
        is_full: whether 65,535 is white, whatever the values are, since the format's reader scales them so.
    """
    values = np.asarray(image, np.float64)
    seen = np.asarray(_eight_bits(path, image.mode, values, is_full=is_full).convert("RGB")).copy()
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        seen[values == hidden] = background
    return Image.fromarray(seen)


def _eight_bits(path: Path, mode: str, values: NDArray[np.float64], *, is_full: bool) -> Image.Image:
    """A grey picture of many bits in eight."""
    if not np.isfinite(values).all():
        raise PictureError(path, "it holds values that are no numbers.")
    low, high = float(values.min()), float(values.max())
    if mode.startswith("I;16") or is_full:
        low, span = 0.0, 65535.0
    elif mode == "F" and low >= 0 and high <= 1:
        low, span = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, span = 0.0, 255.0
    elif low >= 0 and high <= 65535:
        low, span = 0.0, 65535.0
    else:
        # Where all values are one, there is no contrast to show.
        span = high - low or 1.0
    return Image.fromarray(np.round((values - low) * (255 / span)).astype(np.uint8))
