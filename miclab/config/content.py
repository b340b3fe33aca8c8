"""JSON that others may have written: parsed and checked step by step, with the place of any fault."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Collection, Iterator
from typing import Any

from miclab.errors import ContentError, RunContentError

LARGEST = 2**53
"""Largest whole number for steps, counts and times; floats cannot hold all larger ones."""


class Content:
    """A value in a file. A listing looks into tens of thousands of manifests, so it is small. Its place is put into
    words by an error alone.

    Arguments:
        file: the file, as messages name it.
        value: plain data.
        place: of the value; empty: the whole file.
        error: type of raised errors.
        key: of an entry or a field, its number or its name in the value at `place`.
    """

    __slots__ = ("_key", "_within", "error", "file", "value")

    def __init__(
        self,
        file: str,
        value: Any,
        place: str | Content = "",
        error: type[ContentError] = RunContentError,
        key: str | int = "",
    ):
        self.file, self.value, self._within, self.error, self._key = file, value, place, error, key

    @property
    def place(self) -> str:
        """Where it stands in the file."""
        within = self._within.place if isinstance(self._within, Content) else self._within
        return f"{within}[{self._key}]" if isinstance(self._key, int) else f"{within}.{self._key}".strip(".")

    def fail(self, expected: str) -> ContentError:
        """The error that `expected` was expected here."""
        return self.error(self.file, f"expected {expected}, found {_short(self.value)}", self.place)

    def mapping(self) -> dict[str, Any]:
        """It, which is an object."""
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        return self.value

    def __getitem__(self, key: str) -> Content:
        """A field of it, which must exist."""
        value = self.value
        if type(value) is not dict or key not in value:
            self.mapping()
            raise self.error(self.file, f"expected an object with the field {key!r}", self.place)
        return Content(self.file, value[key], self, self.error, key)

    def fields(self) -> Iterator[tuple[str, Content]]:
        """Its fields, by name."""
        return ((key, self[key]) for key in self.mapping())

    def entries(self) -> list[Content]:
        """Its entries; it is a list."""
        if not isinstance(self.value, list):
            raise self.fail("a list")
        return [Content(self.file, one, self, self.error, i) for i, one in enumerate(self.value)]

    def text(self, among: Collection[str] = ()) -> str:
        """It, which is a text, one of `among` where they are given."""
        if not isinstance(self.value, str) or (among and self.value not in among):
            raise self.fail(f"one of {', '.join(sorted(among))}" if among else "a text")
        return self.value

    def whole(self, least: int = 0) -> int:
        """It, which is a whole number from `least` on."""
        if type(self.value) is not int or not least <= self.value <= LARGEST:
            raise self.fail(f"a whole number from {least} on")
        return self.value

    def number(self) -> float | None:
        """It, which is a number, or null for one that is not finite."""
        if self.value is None or (type(self.value) is int and abs(self.value) <= LARGEST):
            return self.value
        if type(self.value) is not float or self.value - self.value != 0:
            raise self.fail("a finite number, or null")
        return self.value


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Spares the search for cycles of objects: reading and planning make a million objects and no cycle."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def json_of(raw: bytes | str, file: object, place: str = "", error: type[ContentError] = RunContentError) -> Content:
    """The value of a JSON text.

    Raises:
        ContentError: it is none; of the type `error`.
    """
    try:
        return Content(str(file), json.loads(raw), place, error)
    except (ValueError, RecursionError) as fault:
        raise error(file, f"expected JSON ({str(fault)[:100]})", place) from fault


def _short(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = (
        str(value)[:60] if isinstance(value, str) else f"{value!r:.60}" if isinstance(value, float) else str(value)[:60]
    )
    return repr(text) if isinstance(value, str) else text
