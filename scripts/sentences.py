"""Sentences that are too long: of public docstrings, of pages and of the README.

Code, tables, formulas, headings and quotations are not sentences. A piece of code, a formula, an interval and a link
count as one word each. Criteria of claims are no docstrings, and their pages are written by `make docs`, so that
neither is searched.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST = 25
"""Words of a sentence."""

WORD = re.compile(r"[^\W_]")
END = re.compile(r"""(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!et al\.)[")\]*_]*\s+(?=[("'`\[*_$]*[A-Z0-9`$])""")
"""The space after a sentence."""
ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+|\s+\*{0,2}\w+(?:, \w+)*:\s")
"""The start of an item of a list, or of the description of an argument."""
COLUMNS = re.compile(r"\S {2,}\S")
"""Spaces that only tables and drawings have within a line."""
ONE_WORD = (
    (re.compile(r"```.*?```|``.+?``|`[^`]+`", re.S), "`x`"),
    (re.compile(r"\{[\w:+-]+\}(?=`)"), ""),  # the role of MyST before a piece of code
    (re.compile(r"\$[^$]+\$", re.S), "`x`"),
    (re.compile(r"!?\[([^\]]*)\]\([^)]*\)", re.S), r"\1"),
    (re.compile(r"\[\s*[-+\d.,e\s]+\]"), "`x`"),
    (re.compile(r"<[^>]+>|\\."), ""),
)


@dataclass(frozen=True)
class Sentence:
    """A sentence and its line, from 1."""

    line: int
    text: str

    @property
    def words(self) -> int:
        return sum(1 for piece in self.text.split() if WORD.search(piece))


def sentences(text: str, first: int = 1) -> Iterator[Sentence]:
    """The sentences of a text in Markdown whose first line has the number `first`."""
    for line, paragraph in paragraphs(text):
        for pattern, instead in ONE_WORD:
            paragraph = pattern.sub(instead, paragraph)
        start = 0
        for end in [*(m.end() for m in END.finditer(paragraph)), len(paragraph)]:
            yield Sentence(first + line + paragraph.count("\n", 0, start), " ".join(paragraph[start:end].split()))
            start = end


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Paragraphs and items of lists, each with the number of its first line from 0."""
    fence, start, kept, blank = "", 0, list[str](), True

    def ended() -> Iterator[tuple[int, str]]:
        if kept:
            yield start, "\n".join(kept)
        kept.clear()

    for number, line in enumerate(text.splitlines()):
        bare = line.strip()
        mark = re.match(r"`{3,}|~{3,}|\$\$|^---$", bare)
        if fence:
            fence = "" if bare.endswith(fence) and (bare == fence or fence == "$$") else fence
            continue
        if mark and not (mark[0] == "---" and number):
            yield from ended()
            fence = "" if mark[0] == "$$" and bare.endswith("$$") and len(bare) > 2 else mark[0]
            continue
        before, blank = blank, not bare
        code = before and not kept and line.startswith("    ") and not ITEM.match(line)
        blank = blank or code  # the lines after it are code as well
        if (
            not bare
            or code
            or bare[0] in "|>#:"
            or (bare.startswith(("<", "(", "%")) and bare.endswith((">", ")=", "%")))
        ):
            yield from ended()
            continue
        if item := ITEM.match(line):
            yield from ended()
            line = line[item.end() :]
        elif COLUMNS.search(line):
            yield from ended()
            continue
        start = start if kept else number
        kept.append(line)
    yield from ended()


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Public docstrings of a module, also those under its constants and fields, each with its line number."""
    pending: list[ast.AST] = [ast.parse(text)]
    while pending:
        node = pending.pop(0)
        body: list[ast.stmt] = getattr(node, "body", [])
        for place, statement in enumerate(body):
            match statement:
                case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    pending += [] if name.startswith("_") else [statement]
                case ast.Expr(value=ast.Constant(value=str(found))):
                    if place == 0 or isinstance(body[place - 1], ast.Assign | ast.AnnAssign):
                        yield statement.lineno, inspect.cleandoc(found)
                case _:
                    pass


def too_long(path: str, text: str) -> Iterator[str]:
    """A line for each sentence of a file that has more than `LONGEST` words."""
    parts = docstrings(text) if path.endswith(".py") else [(1, text)]
    for first, part in parts:
        for sentence in sentences(part, first):
            if sentence.words > LONGEST:
                yield f"{path}:{sentence.line}: {sentence.words} words: {sentence.text}"
