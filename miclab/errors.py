"""The errors that a user can cause. Each says what was wrong, what is allowed, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MiclabError(Exception):
    """Base of all errors that the command line prints without a traceback (exit status 2)."""


class ConfigError(MiclabError, ValueError):
    """A configuration that cannot work.

    Arguments:
        field: dotted name of the field, as in YAML files and command-line options.
        value: what was given.
        allowed: what would be accepted, in words.
    """

    def __init__(self, field: str, value: object, allowed: str):
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(f"{field} = {value!r} is not possible. Allowed: {allowed}")


class RunError(MiclabError):
    """A run directory that is missing, damaged, busy or unfit for what was requested."""


class BusyError(RunError):
    """A run that another process holds."""


class MistakenError(RunError):
    """A directory that holds another run than the one that was meant.

    Arguments:
        path: the directory.
        meant: name or hash by which the run was meant.
        found: hash of the run that it holds.
    """

    def __init__(self, path: object, meant: str, found: str):
        super().__init__(
            f"{path} holds another run: {found}, and not {meant}. Move it away, or give it back its own name, which"
            f" ends with {found[:12]}."
        )


class DamagedError(RunError):
    """A file of a run whose bytes are not those that were written.

    Arguments:
        path: the damaged file.
        remedy: what can be done now.
    """

    def __init__(self, path: object, remedy: str):
        self.path = str(path)
        super().__init__(f"{path} is damaged or missing: it is not the file whose SHA-256 was recorded. {remedy}")


def missing_extra(command: str, extra: str, package: str) -> str:
    """The message that a command needs an extra of which a package is not installed."""
    return (
        f"`{command}` needs the extra `{extra}`, of which {package!r} is not installed. Install it in the clone of "
        f"miclab with: pip install '.[{extra}]'"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a machine's or a GPU's memory was exhausted. The CPU's allocator of PyTorch has no type of its own."""
    message = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("allocate" in message or "out of memory" in message)
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """`known` as text for an error message, led by the entry that `name` was probably meant to be."""
    names = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}one of {', '.join(names)}"
