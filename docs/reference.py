"""Reference pages from the code: help texts, tables of configuration fields, docstrings for the API pages."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import itertools
import re
import textwrap
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SECTIONS = ("Arguments:", "Returns:", "Raises:", "Yields:")


# -- the command line -----------------------------------------------------------------------------------------------
def subcommands(text: str, name: str) -> list[str]:
    """Names of a command's own commands, from the usage line of its help."""
    found = re.match(rf"usage: miclab {re.escape(name)} \{{([^}}]*)\}}", text)
    return found.group(1).split(",") if found else []


def commands(text: str) -> list[str]:
    """Names of all commands, from the text of `miclab --help`."""
    listed = text.partition("commands:\n")[2].partition("\n\n")[0]
    return [line.split()[0] for line in listed.splitlines() if re.match(r"  \w", line)]


def help_texts(output: Callable[[Sequence[str]], str]) -> dict[str, str]:
    """The help text of `miclab` (under an empty name), of each command and of each of their commands."""
    texts = {"": output(["--help"])}
    for name in commands(texts[""]):
        texts[name] = output([name, "--help"])
        for part in subcommands(texts[name], name):
            texts[f"{name} {part}"] = output([name, part, "--help"])
    return texts


def command_line(output: Callable[[Sequence[str]], str]) -> str:
    """The page of all commands."""
    parts = [
        "# Command line",
        "This page holds the `--help` text of every command, as it is when the site is built. Exit status of every"
        " command: 0 means done. 1 means that a run diverged, failed or was stopped, or that a check found damage."
        " 2 means that the command could not be carried out; the message says why and what to do.",
    ]
    for name, text in help_texts(output).items():
        level = "##" if " " not in name else "###"
        heading = f"{level} miclab {name}".rstrip()
        parts += [heading, f"```text\n{_wrapped(text)}\n```"]
    return "\n\n".join(parts) + "\n"


def _wrapped(text: str, width: int = 100) -> str:
    """A help text without trailing blanks, whose prose lines are at most `width` wide."""
    lines: list[str] = []
    for line in text.rstrip().splitlines():
        line = line.rstrip()
        if len(line) > width and not line.startswith(("│", "╭", "╰")):
            indent = line[: len(line) - len(line.lstrip())]
            lines += textwrap.wrap(line, width, subsequent_indent=indent or "  ", break_long_words=False)
        else:
            lines.append(line)
    return "\n".join(lines)


# -- the configuration ----------------------------------------------------------------------------------------------
def _class_modules(package: Path, name: str) -> str:
    """The module that defines a class, found in the text of the modules."""
    for path in sorted(package.rglob("*.py")):
        if re.search(rf"^class {name}\b", path.read_text(), re.MULTILINE):
            parts = path.relative_to(package.parent).with_suffix("").parts
            return ".".join(part for part in parts if part != "__init__")
    raise LookupError(f"No module of {package} defines {name}.")


def _tree(kind: type) -> ast.ClassDef:
    module = importlib.import_module(kind.__module__)
    source = Path(typing.cast(str, module.__file__)).read_text()
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return next(node for node in classes if node.name == kind.__name__)


def field_docstrings(kind: type) -> dict[str, str]:
    """The text below each field of a dataclass."""
    found, body = {}, _tree(kind).body
    for node, after in itertools.pairwise(body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[node.target.id] = " ".join(str(after.value.value).split())
    return found


def _number(node: ast.expr) -> str | None:
    """A number in the code as text; None for anything else."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        value = 2**63 - 1 if ast.unparse(node) == "2 ** 63 - 1" else None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def field_ranges(kind: type) -> dict[str, str]:
    """The range of each field that the class checks with `check_whole` or `check_number`, from the text of the class.

    The names of the fields are constants, or those of the loop around the call.
    """
    found: dict[str, str] = {}
    for loop, call in _calls(_tree(kind)):
        named = call.func.id if isinstance(call.func, ast.Name) else ""
        if named not in ("check_whole", "check_number") or len(call.args) < 4:
            continue
        names = [call.args[2]] if loop is None or isinstance(call.args[2], ast.Constant) else loop
        low, high = _number(call.args[3]), _number(call.args[4]) if len(call.args) > 4 else None
        if low is None:
            continue
        edge = "above" if any(word.arg == "open_low" for word in call.keywords) else "from"
        text = f"{edge} {low}" + (f" to {high}" if high else "")
        for name in names:
            if isinstance(name, ast.Constant):
                found[str(name.value)] = text
    return found


def _calls(tree: ast.AST) -> list[tuple[list[ast.expr] | None, ast.Call]]:
    """Every call below a node with the constants that the `for` loop around it goes through."""
    found: list[tuple[list[ast.expr] | None, ast.Call]] = []

    def walk(node: ast.AST, loop: list[ast.expr] | None) -> None:
        if isinstance(node, ast.For) and isinstance(node.iter, (ast.Tuple, ast.List)):
            loop = node.iter.elts
        if isinstance(node, ast.Call):
            found.append((loop, node))
        for child in ast.iter_child_nodes(node):
            walk(child, loop)

    walk(tree, None)
    return found


def _type_text(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_type_text(arguments[0])}"
    # The name of something that a registry holds.
    if known := getattr(hint, "registry", None):
        return ", ".join(f"`{name}`" for name in known)
    words = {int: "whole number", float: "number", str: "text", bool: "yes or no"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def _default_text(item: dataclasses.Field) -> str:
    if item.default is dataclasses.MISSING:
        return ""
    value = item.default
    if value in ("", ()):
        return "empty"
    return f"`{value:,}`" if type(value) is int else f"`{value}`"


def _fields_table(kind: type) -> str:
    texts, ranges, hints = field_docstrings(kind), field_ranges(kind), typing.get_type_hints(kind)
    rows = ["| field | type | default | range | meaning |", "| --- | --- | --- | --- | --- |"]
    for item in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[item.name]) or typing.get_origin(hints[item.name]) is dict:
            continue
        cells = (f"`{item.name}`", _type_text(hints[item.name]), _default_text(item), ranges.get(item.name, ""),
                 texts.get(item.name, "").replace("|", "\\|"))  # fmt: skip
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _parts(kind: type, prefix: str) -> list[tuple[str, type]]:
    """Dataclasses below a dataclass with their dotted places, depth first."""
    found: list[tuple[str, type]] = []
    for name, hint in typing.get_type_hints(kind).items():
        if typing.get_origin(hint) is dict:
            name, hint = f"{name}.NAME", typing.get_args(hint)[1]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found += [(f"{prefix}{name}", hint), *_parts(hint, f"{prefix}{name}.")]
    return found


def _loaded(package: Path, name: str) -> type:
    return getattr(importlib.import_module(_class_modules(package, name)), name)


def configuration(package: Path) -> str:
    """The page of all fields of a configuration and of a request."""
    config, request = _loaded(package, "RunConfig"), _loaded(package, "Request")
    parts = [
        "# Configuration",
        "Every field of a run's configuration, with its type, default, range and meaning. This page is made from the"
        " dataclasses when the site is built. The defaults are the paper's values; a preset changes some of them"
        " (see {doc}`../guide/train`). A field is an option of `miclab train`: `decoder.heads` is `--decoder.heads`,"
        " and `_` becomes `-`. In a YAML file it is written as `decoder: {heads: 4}`.",
        "Fields at their default stay out of the hash that names a run, so a new field renames no old run."
        " Ranges that depend on other fields are checked as well; the message names both fields.",
        "## Run",
        typing.cast(str, config.__doc__),
        _fields_table(config),
    ]
    for place, kind in _parts(config, ""):
        parts += [f"## {place}", f"{' '.join((kind.__doc__ or '').split())}", _fields_table(kind)]
    request_text = "How long to train, what to evaluate and what to keep. No field of it changes a weight or a hash."
    parts += ["## request", request_text, _fields_table(request)]
    return "\n\n".join(parts) + "\n"


# -- docstrings -----------------------------------------------------------------------------------------------------
def docstring_lines(lines: Sequence[str]) -> list[str]:
    """A docstring of ours as reStructuredText.

    Drawings, which are indented or aligned with blanks, become code. In prose, marks that reStructuredText would read
    as its own are escaped outside backticks. Sections such as `Arguments:` stay as they are, for napoleon.
    """
    found: list[str] = []
    in_section = False
    for block in _blocks(lines):
        if not block[0].strip():
            found += block
            continue
        starts_section = block[0].strip() in SECTIONS and not block[0].startswith(" ")
        in_section = starts_section or (in_section and block[0].startswith(" "))
        if not in_section and _is_drawing(block):
            found += ["", ".. code-block:: text", "", *[f"    {line}" for line in block], ""]
        else:
            found += _escaped("\n".join(block)).split("\n")
    return found


def _blocks(lines: Sequence[str]) -> list[list[str]]:
    """Lines in groups between blank ones; a blank line is a group of its own."""
    found: list[list[str]] = []
    for line in lines:
        if found and line.strip() and found[-1][0].strip():
            found[-1].append(line)
        else:
            found.append([line])
    return found


def _is_drawing(block: Sequence[str]) -> bool:
    aligned = sum(bool(re.search(r"\S {2,}\S", line)) or line.startswith("|") for line in block)
    return block[0].startswith("    ") or 2 * aligned >= len(block) + 1


def _escaped(text: str) -> str:
    """Prose with the marks of reStructuredText escaped, outside of backticks, which may hold a line's end."""

    def prose(piece: str) -> str:
        piece = re.sub(r"([\\*|])", r"\\\1", piece)
        return re.sub(r"(?<=\w)_(?!\w)", r"\\_", piece)

    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if len(piece) > 1 and piece[0] == piece[-1] == "`" else prose(piece) for piece in pieces)
