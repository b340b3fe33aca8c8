"""Registries: what a configuration can name, and the decorator that adds to it.

A registry maps names to classes or functions. Everything that researchers extend is in one: attention, position codes,
loss terms, sources, measures, claims and corruptions. A name is registered when its module is imported, so a file of
one's own adds to a registry as a module of this package does (see `miclab.config.extensions`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from miclab.errors import ConfigError, MiclabError, nearest

T = TypeVar("T")
NAME = re.compile(r"[a-z][a-z0-9_]*|[A-Z][A-Za-z0-9]*")
"""Names of extensions: lower case with underscores; ids of claims begin with a capital letter."""


class Registry(Generic[T], Mapping[str, T]):
    """Names and what they stand for, in the order in which they were registered.

    Arguments:
        kind: what is registered, in words, for messages: `position code`.
        field: the field of a configuration that holds a name of this registry, if there is one.
    """

    def __init__(self, kind: str, field: str = ""):
        self.kind, self.field = kind, field
        self._known: dict[str, T] = {}
        self._files: dict[str, str] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that registers a class or function under `name`.

        Raises:
            MiclabError: the name is no plain word, or another file has registered it.
        """
        if not NAME.fullmatch(name):
            raise MiclabError(f"{name!r} is no name for a {self.kind}: use lower-case letters, digits and _.")

        def add(thing: T) -> T:
            file = _file_of(thing)
            if name in self._known and self._files[name] != file:
                taken = self._files[name]
                raise MiclabError(f"There is a {self.kind} named {name!r} already (in {taken}): choose another name.")
            self._known[name], self._files[name] = thing, file
            return thing

        return add

    def find(self, name: str, field: str = "") -> T:
        """What a name stands for.

        Arguments:
            field: dotted field of the configuration that holds the name; default: the registry's own.

        Raises:
            ConfigError: nothing is registered under it; the message names the nearest ones.
        """
        self.check(name, field)
        return self._known[name]

    def check(self, name: Any, field: str = "") -> None:
        """Raises ConfigError unless `name` is registered."""
        if not isinstance(name, str) or name not in self._known:
            hint = f"{nearest(str(name), tuple(self._known))}; a {self.kind} of your own needs --plugin FILE.py"
            raise ConfigError(field or self.field or self.kind, name, hint)

    def file(self, name: str) -> str:
        """The file in which a name was registered."""
        return self._files[name]

    def summary(self, name: str) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self._known[name]) or "").strip().split("\n")[0]

    def __getitem__(self, name: str) -> T:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def _file_of(thing: object) -> str:
    try:
        return inspect.getfile(thing)  # type: ignore[arg-type]
    except (TypeError, OSError):
        # An instance: the file of the code that registers it.
        return inspect.stack()[2].filename
