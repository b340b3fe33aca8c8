"""Finds words that are not to be used, and sentences that are too long, in code and pages.

`python -m scripts.words` lists them and exits with 1. Sentences are those of `sentences.py`. The list of words is
`words.toml` beside this file. Every word has what to say instead (`say`) and, where it needs them,

    within    [[pattern, reason], ...]: regular expressions within which the word may stand
    only      [path, ...]: the word is looked for in these files and folders alone
    allowed   [[path, count, reason], ...]: a file, or a folder with a / at its end, that still holds the word so often

A count is a ratchet: both a larger and a smaller number are errors, so that words which are gone stay gone.
Identifiers are split at underscores and capitals, and upper and lower case are the same.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.sentences import too_long

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_name("words.toml")
SEARCHED = (
    *(f"{folder}/**/*.py" for folder in ("miclab", "tests", "scripts", "benchmarks")),
    *(f"miclab/**/*.{kind}" for kind in ("html", "js")),
    *("docs/*.py", "docs/**/*.md", "README.md", "CHANGELOG.md"),
)
SKIPPED = ("docs/claims/", "docs/reference/api/", "docs/reference/cli.md", "docs/reference/config.md")
"""Pages that `make docs` writes."""
READ = re.compile(r"miclab/.*\.py|.*\.md")
"""Files whose sentences are counted."""
PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""Words of a line; identifiers give several."""


@dataclass(frozen=True)
class Found:
    """A listed word in a file; `line` counts from 1."""

    path: str
    line: int
    word: str


class Rule:
    """What the list says of one word, in all its forms."""

    def __init__(self, forms: str, entry: dict[str, Any]):
        self.forms, self.say = tuple(forms.split()), str(entry["say"])
        self.within = [re.compile(pattern) for pattern, _ in entry.get("within", [])]
        self.only: tuple[str, ...] = tuple(entry.get("only", [""]))
        self.allowed: dict[str, int] = {path: count for path, count, _ in entry.get("allowed", [])}

    def found_in(self, line: str) -> list[str]:
        """The forms of the word in a line, outside its exceptions."""
        for pattern in self.within:
            line = pattern.sub(" ", line)
        return [part.lower() for part in PARTS.findall(line) if part.lower() in self.forms]


def read_rules(text: str) -> list[Rule]:
    """The rules of a list: a table for each word, whose key holds its forms, such as `tell tells`."""
    return [Rule(forms, entry) for forms, entry in tomllib.loads(text).items()]


def find_words(rules: Iterable[Rule], path: str, text: str) -> Iterator[Found]:
    """The listed words of a file."""
    rules = [rule for rule in rules if path.startswith(rule.only)]
    for number, line in enumerate(text.splitlines(), 1):
        for rule in rules:
            if any(form in line.lower() for form in rule.forms):
                yield from (Found(path, number, word) for word in rule.found_in(line))


def complaints(rules: Iterable[Rule], found: Iterable[Found]) -> list[str]:
    """A line for every word that is not allowed, and for every count that is no longer true."""
    found, lines = list(found), []
    for rule in rules:
        here, counted = [f for f in found if f.word in rule.forms], set[str]()
        for place, count in rule.allowed.items():
            those = [f for f in here if f.path == place or (place.endswith("/") and f.path.startswith(place))]
            counted |= {f.path for f in those}
            if len(those) != count:
                lines.append(f"{place}: {rule.forms[0]}: {len(those)}, the list allows {count} -> say {rule.say}")
        lines += [f"{f.path}:{f.line}: {f.word} -> say {rule.say}" for f in here if f.path not in counted]
    return lines


def searched(root: Path) -> Iterator[tuple[str, str]]:
    """Paths from `root` and texts of all files that are searched."""
    for pattern in SEARCHED:
        for path in sorted(root.glob(pattern)):
            name = path.relative_to(root).as_posix()
            if not name.startswith(SKIPPED) and path != Path(__file__).resolve():
                yield name, path.read_text(encoding="utf-8")


def main() -> int:
    rules = read_rules(LIST.read_text(encoding="utf-8"))
    files = list(searched(ROOT))
    lines = complaints(rules, [f for name, text in files for f in find_words(rules, name, text)])
    lines += [line for name, text in files if READ.fullmatch(name) for line in too_long(name, text)]
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
