"""Functions that commands share: reading options, tables, JSON, progress bars and warnings."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from miclab.errors import MiclabError, visible
from miclab.runs import interrupts
from miclab.runs.run import Run
from miclab.tables import table

T = TypeVar("T")


class Result(Protocol):
    """What a command prints."""

    def as_json(self) -> Any: ...
    def show(self) -> None: ...


def parse(kind: type[T], name: str, arguments: list[str], default: T | None = None) -> T:
    """Options of a command, typed by a dataclass; prints help on request, or an error, and exits.

    Raises:
        ConfigError: a value that the dataclass rejects.
    """
    import tyro

    from miclab.cli.options import RULES

    program = f"miclab {name}"
    if default is None:
        return tyro.cli(kind, prog=program, args=arguments, registry=RULES)
    return tyro.cli(kind, prog=program, args=arguments, default=default, registry=RULES)


def refuse_ignored(arguments: Sequence[str], options: Iterable[str], why: str) -> None:
    """Refuses options that would have no effect.

    Arguments:
        arguments: of the command.
        options: names of fields that do nothing here.
        why: the condition under which they have an effect.

    Raises:
        MiclabError: one of them was given.
    """
    given = {word.partition("=")[0].replace("_", "-") for word in arguments}
    for option in options:
        name = f"--{option.replace('_', '-')}"
        if given & {name, f"--no-{name[2:]}"}:
            raise MiclabError(f"{name} has no effect here: {why}. Leave it out.")


def print_json(value: Any) -> None:
    """One JSON document on standard output; of a list each entry on a line of its own."""
    if isinstance(value, list) and value:
        # Without indentation the encoder is the one in C: a list may have a hundred thousand entries.
        lines = (json.dumps(one, allow_nan=False) for one in value)
        print("[\n ", ",\n ".join(lines), "\n]", sep="")
        return
    print(json.dumps(value, indent=1, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table of plain values and cells on standard output (see `miclab.tables.cell`)."""
    table(title, columns, rows).show()


def warn(run: Run) -> None:
    """Warnings about damaged files of a run, each once, on standard error."""
    for line in dict.fromkeys(run.warnings):
        say(f"warning: {line}")


def say(text: str) -> None:
    """A line of the program itself on standard error."""
    print(f"miclab: {visible(text)}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A time in words: `3 d 4 h`, `2 h 05 min`, `12 min`, `40 s`."""
    whole = int(seconds)
    if whole >= 86400:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min" if whole >= 120 else f"{whole} s"


def print_result(found: Result, runs: Iterable[Run], as_json: bool) -> int:
    """Prints the result of a command as JSON or as tables, after the warnings about files of runs. Returns exit status
    0."""
    for run in runs:
        warn(run)
    if as_json:
        print_json(found.as_json())
    else:
        found.show()
    return 0


@contextmanager
def bar(title: str, total: int, start: int = 0, waiting: str = "") -> Iterator[Callable[[int, str], None]]:
    """A progress bar on standard error: steps done, steps in all, time left. It gives a function of the steps done and
    a short text.

    If standard error is no terminal, lines with the same content are printed occasionally.

    Arguments:
        waiting: text on the work before the first step, if that takes long.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    title = visible(title)
    console = Console(stderr=True)
    if not console.is_terminal:
        shown, began = [start], time.monotonic()
        if waiting:
            print(f"{title}: {start:,}/{total:,} {waiting}", file=sys.stderr, flush=True)

        def plain(done: int, text: str) -> None:
            interrupts.heed()
            if shown[0] < total and (done >= total or done - shown[0] >= max(1, (total - start) // 5)):
                shown[0] = done
                seconds = (time.monotonic() - began) * (total - done) / max(1, done - start)
                left = f", about {duration(seconds)} left" if done < total else ""
                print(f"{title}: {done:,}/{total:,} {visible(text)}".rstrip() + left, file=sys.stderr, flush=True)

        yield plain
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        task = progress.add_task(title, total=total, completed=start, text=waiting)
        last = ""

        def update(done: int, text: str) -> None:
            nonlocal last
            interrupts.heed()
            last = visible(text) or last
            progress.update(task, completed=done, text=last)

        yield update
