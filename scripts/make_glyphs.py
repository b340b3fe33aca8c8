"""Makes the data set `glyphs`: letters of many scripts, each drawn from several free typefaces.

    python scripts/make_glyphs.py --cache FOLDER

A class is a Unicode letter; an exemplar is that letter in one face, scaled so that its ink fills a box of 24 pixels
and centred on 28 x 28 one-bit pixels. No exemplar is a distortion of another: each is another typeface, or another
weight or slant of a typeface, and which of the two is recorded. Needs apt-get, dpkg-deb, npm, and Pillow and fontTools
in the versions of `sources.json`; the same versions give the same bytes.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import sources
from fontTools import unicodedata as scripts
from fontTools.ttLib import TTFont
from PIL import Image, ImageFont

BOX, CELL, DRAWN, COLUMNS = 24, 28, 96, 120
"""Side of the ink's box and of a cell, and size at which faces are drawn, in pixels; cells in a row of a sheet."""
STYLES = {"Regular": 0, "Book": 0, "Medium": 0, "Black": 1, "Bold": 1, "Light": 2, "ExtraLight": 2, "Italic": 3,
          "Oblique": 3}  # fmt: skip
"""Styles that are drawn, by rank: upright, heavy, light, slanted. A typeface gives at most one of each rank."""
MOST, FEWEST, FEWEST_TYPEFACES = 6, 4, 2
ALIKE = 0.8
"""Two letters are near duplicates if ink in common / ink of either exceeds this in most of the faces that have both."""
HELD_OUT = 320
SKIPPED_SCRIPTS = {"Hani", "Hang", "Zyyy", "Zinh"}

Face = dict[str, Any]


def faces(cache: Path) -> list[Face]:
    """The faces to draw from, in the order of `sources.json`: file, package, family, style, characters."""
    found: dict[tuple[str, int], Face] = {}
    for package, pin in sources.PINS["debian"].items():
        folder = sources.debian_package(package, cache)
        for path in sorted([*folder.rglob("*.ttf"), *folder.rglob("*.otf")]):
            # Condensed and user-interface cuts are the same drawings, squeezed; display cuts nearly so.
            # "goffer" is ornate beyond what 28 pixels can show.
            if any(
                word in path.name for word in ("Condensed", "UI", "Display", "Slanted", "Math", "Symbols", "goffer")
            ):
                continue
            font = TTFont(path, lazy=True)
            names = font["name"]
            # Cuts of one design, such as "Padauk" and "Padauk Book", count as one typeface.
            family = re.sub(r" (Book|Light|Mono|New|One)\b", "", str(names.getDebugName(16) or names.getDebugName(1)))
            style = str(names.getDebugName(17) or names.getDebugName(2) or "Regular")
            if style not in STYLES or (family, STYLES[style]) in found:
                continue
            found[family, STYLES[style]] = {"path": path, "package": package, "licence": pin["licence"],
                                            "family": family, "style": style,
                                            "characters": set(font.getBestCmap() or ())}  # fmt: skip
    return sorted(found.values(), key=lambda face: STYLES[face["style"]])


def draw(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray | None:
    """A letter as booleans [28, 28], or None where the face draws nothing."""
    mask = font.getmask(character, mode="L")
    if not mask.size[0] or not mask.size[1]:
        return None
    image = Image.new("L", mask.size)
    image.im.paste(mask, (0, 0, *mask.size))
    frame = image.getbbox()
    if frame is None:
        return None
    image = image.crop(frame)
    scale = BOX / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    ink = np.asarray(image.resize(size, Image.Resampling.BOX)) >= 100
    cell = np.zeros((CELL, CELL), bool)
    top, left = (CELL - size[1]) // 2, (CELL - size[0]) // 2
    cell[top : top + size[1], left : left + size[0]] = ink
    return cell if ink.any() else None


def candidates(available: list[Face]) -> dict[str, list[int]]:
    """Letters that at least two typefaces and four faces have, with the faces in order of preference."""
    having: dict[str, list[int]] = collections.defaultdict(list)
    for number, face in enumerate(available):
        for code in face["characters"]:
            having[chr(code)].append(number)
    chosen = {}
    for character in sorted(having):
        plain = unicodedata.category(character) in ("Ll", "Lu", "Lo") and not unicodedata.decomposition(character)
        if not plain or scripts.script(character) in SKIPPED_SCRIPTS:
            continue
        numbers = having[character]
        if len(numbers) >= FEWEST and len({available[n]["family"] for n in numbers}) >= FEWEST_TYPEFACES:
            chosen[character] = numbers
    return chosen


def near_duplicates(drawings: dict[str, dict[int, np.ndarray]]) -> set[str]:
    """Letters that look like an earlier one (by code point) in most of the faces that have both."""
    letters = list(drawings)
    shared = np.zeros((len(letters), len(letters)), np.int32)
    alike = np.zeros_like(shared)
    for face in sorted({face for drawn in drawings.values() for face in drawn}):
        rows = np.array([i for i, letter in enumerate(letters) if face in drawings[letter]])
        ink = np.stack([drawings[letters[i]][face].reshape(-1) for i in rows]).astype(np.float32)
        common = ink @ ink.T
        either = ink.sum(1)[:, None] + ink.sum(1)[None] - common
        shared[np.ix_(rows, rows)] += 1
        alike[np.ix_(rows, rows)] += common > ALIKE * either
    dropped: set[int] = set()
    for i in range(len(letters)):
        earlier = [j for j in range(i) if j not in dropped and shared[i, j] and 2 * alike[i, j] > shared[i, j]]
        if earlier:
            dropped.add(i)
    return {letters[i] for i in dropped}


def exemplars(drawn: dict[int, np.ndarray], available: list[Face], taken: set[bytes]) -> list[int]:
    """At most six faces whose drawings differ from each other and from those `taken` by other letters; empty if the
    letter has too few. What it has is added to `taken`."""
    kept: list[int] = []
    contents: set[bytes] = set()
    for number, cell in drawn.items():
        if len(kept) < MOST and cell.tobytes() not in contents | taken:
            kept.append(number)
            contents.add(cell.tobytes())
    typefaces = {available[n]["family"] for n in kept}
    if len(kept) < FEWEST or len(typefaces) < FEWEST_TYPEFACES:
        return []
    taken |= contents
    return kept


def held_out_typeface(kept: list[int], available: list[Face]) -> str:
    """The typeface whose exemplars are held out: the one with the fewest in the class, the last of equals."""
    counts = collections.Counter(available[n]["family"] for n in kept)
    fewest = min(counts.values())
    return [family for family in counts if counts[family] == fewest][-1]


def sheet(cells: list[np.ndarray]) -> bytes:
    """Cells in rows of 120 as a one-bit PNG, ink black."""
    rows = -(-len(cells) // COLUMNS)
    picture = np.zeros((rows * CELL, COLUMNS * CELL), bool)
    for i, cell in enumerate(cells):
        top, left = i // COLUMNS * CELL, i % COLUMNS * CELL
        picture[top : top + CELL, left : left + CELL] = cell
    buffer = io.BytesIO()
    Image.fromarray(np.where(picture, 0, 255).astype(np.uint8)).convert("1", dither=Image.Dither.NONE).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


def main() -> None:
    """Fetches, draws, chooses and writes."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder for what is fetched")
    parser.add_argument("--output", type=Path, default=sources.DATA / "glyphs")
    options = parser.parse_args()
    sources.require_python("pillow", "fonttools", "numpy")
    from miclab.data.split import held_out_names

    available = faces(options.cache.resolve())
    letters = candidates(available)
    drawings: dict[str, dict[int, np.ndarray]] = {letter: {} for letter in letters}
    for number, face in enumerate(available):
        font = ImageFont.truetype(str(face["path"]), DRAWN, layout_engine=ImageFont.Layout.BASIC)
        for letter in letters:
            cell = draw(font, letter) if number in letters[letter] else None
            if cell is not None:
                drawings[letter][number] = cell
    duplicates = near_duplicates(drawings)
    taken: set[bytes] = set()
    kept = {letter: exemplars(drawings[letter], available, taken) for letter in drawings if letter not in duplicates}
    kept = {letter: numbers for letter, numbers in kept.items() if numbers}
    names = {letter: unicodedata.name(letter).lower() for letter in kept}
    held_out = held_out_names(list(names.values()), HELD_OUT)

    used = sorted({n for numbers in kept.values() for n in numbers})
    new_number = {n: i for i, n in enumerate(used)}
    classes, cells = [], collections.defaultdict(list)
    for letter, numbers in kept.items():
        unseen, seen, listed = held_out_typeface(numbers, available), set(), []
        for n in numbers:
            face = available[n]
            cells[face["licence"]].append(drawings[letter][n])
            listed.append([new_number[n], int(face["family"] not in seen), int(face["family"] == unseen)])
            seen.add(face["family"])
        classes.append({"name": names[letter], "character": letter,
                        "script": scripts.script_name(scripts.script(letter)),
                        "held_out": names[letter] in held_out, "exemplars": listed})  # fmt: skip
    packages = sorted({available[n]["package"] for n in used})
    parts = {licence: f"{licence.lower()}.png" for licence in sorted(cells)}
    files = {parts[licence]: sheet(cells[licence]) for licence in parts}
    listing = {"classes": classes, "faces": [{k: available[n][k] for k in ("family", "style", "package", "licence")}
               for n in used]}  # fmt: skip
    files["classes.json"] = (json.dumps(listing, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
    for licence, text in sources.licence_texts(parts, options.cache.resolve()).items():
        files[f"licences/{licence}.txt"] = text.encode()
    files["licences/SOURCES.txt"] = notices(packages, options.cache.resolve()).encode()
    manifest = {"format": 1, "cell": CELL, "columns": COLUMNS, "sheets": parts,
                "packages": {p: sources.PINS["debian"][p] for p in packages}}  # fmt: skip
    sources.write_data_set(options.output, files, manifest)
    count = sum(len(numbers) for numbers in kept.values())
    other = sum(not e[1] for c in classes for e in c["exemplars"])
    print(f"{len(letters)} letters drawn, {len(duplicates)} near duplicates left out, {len(kept)} classes, "
          f"{count} exemplars ({count - other} each another typeface, {other} another weight or slant)")  # fmt: skip


def notices(packages: list[str], cache: Path) -> str:
    """The copyright lines of the Debian packages that were drawn from."""
    text = "Faces were drawn from these Debian packages. Only bitmaps of letters are here, no font.\n"
    for package in packages:
        pin = sources.PINS["debian"][package]
        folder = sources.debian_package(package, cache)
        lines = (folder / "usr/share/doc" / package / "copyright").read_text(errors="replace").splitlines()
        rights = [
            " ".join(line.split()) for line in lines if "copyright" in line.lower() and any(c.isdigit() for c in line)
        ]
        text += f"\n{package} {pin['version']} ({pin['licence']})\n" + "".join(
            f"  {r}\n" for r in dict.fromkeys(rights)
        )
    return text


if __name__ == "__main__":
    main()
