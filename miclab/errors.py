"""The errors that a user can cause. Each says what was wrong, what is allowed, and what to do next."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from typing import Self

UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that control a terminal, reverse other text, or cannot be written. Tabs and line feeds stay."""


def visible(text: object) -> str:
    """A text with every letter of `UNSEEN` as its escape (`\\x1b`): what others wrote is shown, and does nothing."""
    shown = str(text)
    # Most texts have no such letter.
    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], shown) if UNSEEN.search(shown) else shown


class MiclabError(Exception):
    """Base of all errors that the command line prints without a traceback (exit status 2). Its text is `visible`."""

    def __str__(self) -> str:
        return visible(super().__str__())


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

    @classmethod
    def worded(cls, field: str, value: object, message: str) -> Self:
        """The error in words of its own, where what is allowed is no list of values."""
        found = cls(field, value, message)
        found.args = (message,)
        return found


class RunError(MiclabError):
    """A run directory that is missing, damaged, busy or unfit for what was requested."""


class BusyError(RunError):
    """A run that another process holds."""


class ContentError(MiclabError):
    """A file, perhaps written by others, whose content its reader cannot use. Base of the readers' errors: of runs,
    states of studies, data, tasks, results and models. Each room has its own kind, which is also an error of that
    room.

    Arguments:
        file: the file or folder.
        problem: what was expected there, and what there is instead, in words.
        place: where in it, in the words of the format (`timing[3].step`, `line 2`); empty: all of it.
    """

    def __init__(self, file: object, problem: str, place: str = ""):
        self.file, self.place, self.problem = str(file), place, problem.rstrip(".")
        super().__init__(f"{file}: {f'{place}: ' if place else ''}{self.problem}.")

    def _says(self, file: object, words: str) -> None:
        """Is about the whole file, in words that follow its name in a sentence."""
        self.file, self.place, self.problem = str(file), "", words
        Exception.__init__(self, f"{file} {words}")

    @classmethod
    def of_field(cls, file: object, error: ConfigError, where: str = "") -> Self:
        """The error that a field of a file is not possible.

        Arguments:
            where: in the file, in words before the field.
        """
        found = cls(file, str(error), where)
        found.place = error.field
        return found


class RunContentError(ContentError, RunError):
    """A file of a run or of a study's state whose content is wrong although its checksum is right."""


class MistakenError(RunContentError):
    """A directory that holds another run than the one requested.

    Arguments:
        path: the directory.
        meant: name or hash by which the run was meant.
        found: hash of the run that it holds.
    """

    def __init__(self, path: object, meant: str, found: str):
        self._says(
            path,
            f"holds another run: {found}, and not {meant}. Move it away, or give it back its own name, which ends with"
            f" {found[:12]}.",
        )


class DamagedError(RunContentError):
    """A file of a run whose bytes are not those that were written.

    Arguments:
        path: the damaged file.
        remedy: what can be done now.
    """

    def __init__(self, path: object, remedy: str):
        self.path = str(path)
        self._says(path, f"is damaged or missing: it is not the file whose SHA-256 was recorded. {remedy}")


GONE = "The working directory is gone: go to one that exists (`cd`), then give the command again."


def is_working_directory_gone() -> bool:
    """Whether the working directory was removed, so that no relative path means anything."""
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def missing_extra(command: str, extra: str, package: str) -> str:
    """The message that a command needs an extra whose packages are not installed."""
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


def article(noun: str) -> str:
    """A noun after its indefinite article."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`known` as text for an error message, with the entry nearest to `name` first."""
    names = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}one of {', '.join(names)}"
