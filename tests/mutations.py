"""Wrong content, generated: plain data with one value exchanged, lost or added, and directory entries of every kind."""

from __future__ import annotations

import copy
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NESTED: Any = []
for _ in range(60):
    NESTED = [NESTED]
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 7, 10**18, 10**400, 1e308, 0.5, "", "x", "../../x", "[/x][bold]", "\x1b[2J\r", "\ud800",
    "1e9", [], {}, [[]], [None], {"": {}}, {"x": [1]}, [1, "x"], NESTED,
)  # fmt: skip
"""What takes the place of a value."""


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _nodes(value[key], (*path, key))
    elif isinstance(value, list):
        for place, one in enumerate(value[:3]):
            yield from _nodes(one, (*path, place))


def mutated(value: Any, source: random.Random) -> Any:
    """A copy of plain data with one node exchanged, removed, or joined by another."""
    path = source.choice(list(_nodes(value)))
    found = copy.deepcopy(value)
    if not path:
        return source.choice(VALUES)
    inner = found
    for step in path[:-1]:
        inner = inner[step]
    kind = source.random()
    if kind < 0.2:
        del inner[path[-1]]
    elif kind < 0.3 and isinstance(inner, dict):
        inner[source.choice(("", "x", "../y", "checkpoints/0", "rows/000000009.jsonl"))] = inner[path[-1]]
    else:
        inner[path[-1]] = copy.deepcopy(source.choice(VALUES))
    return found


def _socket(path: Path) -> None:
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


IRREGULAR: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "directory": Path.mkdir,
    "socket": _socket,
    "dangling": lambda path: path.symlink_to("nowhere"),
}
"""What may stand in the place of a file, by name: each makes one at a path."""


def survived(cases: Iterator[tuple[str, Callable[[], Any]]], refusals: type[Exception]) -> tuple[int, list[str]]:
    """Carries out cases; returns their number, and those that raised anything but a refusal."""
    count, broken = 0, []
    for name, act in cases:
        count += 1
        try:
            act()
        except refusals as error:
            if not (str(error).isprintable() and getattr(error, "file", "x") and getattr(error, "problem", "x")):
                broken.append(f"{name}: says no file, or nothing of it: {error!r:.200}")
        except (Exception, SystemExit) as error:
            broken.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
    return count, broken
