"""What every benchmark is as a program.

Its options are the fields of a dataclass, its measurement is a generator of lines, and both make a command:

    python -m benchmarks.NAME --help      options with their defaults and units
    python -m benchmarks.NAME             a line for each measurement, as soon as it is there
    python -m benchmarks.NAME --json      one JSON list of what was measured, when all is there

Exit status: 0 measured; 1 a check failed, a part of it failed, or it was interrupted; 2 it could not be carried out.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

from miclab.errors import ConfigError, MiclabError, is_out_of_memory, visible


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every benchmark."""

    json: bool = False
    """Print what was measured as one JSON list."""


@dataclass(frozen=True)
class Line:
    """One line of a benchmark's output.

    Arguments:
        text: as people read it; empty: nothing is printed.
        values: what was measured, for JSON; None: the line is for readers alone.
        failed: whether it shows that something is not as it should be (exit status 1).
    """

    text: str
    values: Mapping[str, Any] | None = None
    failed: bool = False


class FailedError(MiclabError):
    """A part of a benchmark that did not do what is timed (exit status 1)."""


T = TypeVar("T", bound=Options)
Lines = Iterator[Line]


def say(text: str) -> None:
    """A line about the progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def check_numbers(options: Options) -> None:
    """Raises ConfigError for a number that is not positive; 0 is allowed where it is the default."""
    for field in fields(options):
        given = getattr(options, field.name)
        for value in given if isinstance(given, tuple) else (given,):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            kind = "a whole number" if isinstance(value, int) else "a number"
            may_be_zero = field.default is not MISSING and field.default == 0
            if not math.isfinite(value) or value < 0 or (value == 0 and not may_be_zero):
                name = field.name.replace("_", "-")
                raise ConfigError(f"--{name}", given, f"{kind} {'of 0 or more' if may_be_zero else 'above 0'}")


def parsed(kind: type[T], command: str, arguments: Sequence[str], description: str | None) -> T:
    """Options that were given; prints help on request, or an error, and exits.

    Without tyro, as on a machine that has PyTorch alone, help has no explanations. Options must then have
    defaults, whose types are those of the values.
    """
    try:
        import tyro
    except ModuleNotFoundError:
        parser = argparse.ArgumentParser(prog=command, description=(description or "").partition("\n")[0])
        for field in fields(kind):
            option, default = f"--{field.name.replace('_', '-')}", field.default
            one = default[0] if isinstance(default, tuple) else default
            if isinstance(one, bool):
                parser.add_argument(option, action="store_true")
            else:
                several = "+" if isinstance(default, tuple) else None
                parser.add_argument(option, type=type(one), nargs=several, default=default, help=f"default: {default}")
        found: dict[str, Any] = vars(parser.parse_args(arguments))
        found |= {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
        return kind(**found)
    return tyro.cli(kind, prog=command, args=arguments, description=description)


def program(
    name: str, kind: type[T], measure: Callable[[T], Lines], description: str | None
) -> Callable[[Sequence[str] | None], int]:
    """The command of a benchmark: a function from its arguments (None: those of the process) to the exit status.

    Arguments:
        name: of the module in `benchmarks`.
        kind: its options.
        measure: makes its lines.
        description: the text above the options in `--help`.
    """

    def main(arguments: Sequence[str] | None = None) -> int:
        given = sys.argv[1:] if arguments is None else list(arguments)
        options = parsed(kind, f"python -m benchmarks.{name}", given, description)
        try:
            check_numbers(options)
            return _print(measure(options), options.json)
        except FailedError as error:
            return _ended(name, error, 1)
        except MiclabError as error:
            return _ended(name, error, 2)
        except subprocess.CalledProcessError as error:
            command = " ".join(map(str, error.cmd))[:200]
            said = error.stderr.strip()[-1000:] if isinstance(error.stderr, str) else ""
            return _ended(name, f"`{command}` ended with status {error.returncode}: {said}", 1)
        except KeyboardInterrupt:
            return _ended(name, "interrupted", 1)
        except BrokenPipeError:
            # The reader of the output has closed it, as `| head` does.
            sys.stderr.close()
            return 0
        except OSError as error:
            return _ended(name, f"{error.filename or ''}: {error.strerror or error}. Choose another place.", 2)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return _ended(name, "there is too little memory. Choose smaller sizes.", 2)

    return main


def _print(lines: Lines, as_json: bool) -> int:
    """Prints the lines of a benchmark; returns the exit status."""
    status, values = 0, list[Mapping[str, Any]]()
    for line in lines:
        status = max(status, int(line.failed))
        if line.values is not None:
            values.append(line.values)
        if line.text and not as_json:
            print(line.text, flush=True)
    if as_json:
        print(json.dumps(values, indent=1))
    return status


def _ended(name: str, why: object, status: int) -> int:
    print(f"{name}: {visible(why)}", file=sys.stderr)
    return status
