"""The blocks of commands and Python on the pages of the site and in README.md."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
GENERATED = ("claims/", "reference/cli.md", "reference/config.md", "reference/api/")
"""Pages below docs/ that are written at build."""
MARK = re.compile(r"<!-- run(?P<cheaper>(?:,[ \n](?:with )?`[^`]*` as `[^`]*`)*) -->\n")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Arguments:
        page: its file, relative to the root.
        language: `bash` or `python`.
        text: its lines, as a reader sees them.
        run: the lines that a test runs: the same, or with texts replaced by cheaper ones. Empty: none does.
    """

    page: str
    language: str
    text: str
    run: str

    @property
    def commands(self) -> list[str]:
        """The commands of a bash block, without comments and without the lines of a file between `<<'END'` and END."""
        found, inside = [], False
        for line in self.text.splitlines():
            if inside or not line.strip():
                inside = inside and line != "END"
                continue
            inside = line.endswith("<<'END'")
            found.append(re.sub(r"\s+# .*", "", line).strip())
        return found


def pages() -> list[Path]:
    """README.md and every page that is written by hand."""
    docs = ROOT / "docs"
    found = [p for p in sorted(docs.rglob("*.md")) if not str(p.relative_to(docs)).startswith(GENERATED)]
    return [ROOT / "README.md", *found]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page in their order. Cells of a notebook are none: the build of the site executes them."""
    text = page.read_text()
    for found in re.finditer(rf"({MARK.pattern})?^```(bash|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        mark, cheaper, language, body = found.groups()
        run = body if mark else ""
        for old, new in re.findall(r"`([^`]*)` as `([^`]*)`", cheaper or ""):
            assert old in run, f"{page}: no `{old}` in the block that is to be run without it"
            run = run.replace(old, new)
        yield Block(str(page.relative_to(ROOT)), language, body, run)


def options(command: str) -> tuple[list[str], list[str]]:
    """The words of a `miclab` command before its first option, and the names of its options. `--plugin FILE`, which
    every command takes, is left out."""
    words = shlex.split(command)[1:]
    while "--plugin" in words:
        place = words.index("--plugin")
        del words[place : place + 2]
    names = [word.partition("=")[0] for word in words if word.startswith("--")]
    first = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    return words[:first], names
