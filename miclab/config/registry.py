"""Registries: the names that a configuration can use, and the decorator that adds to them.

A registry maps names to classes or functions. Everything that researchers can extend is in a registry: attention,
position codes, loss terms, sources, measures and claims. A name is registered when its module is imported. So a user's
file adds to a registry as a module of this package does (see `miclab.config.extensions`).

A registry also knows the package's own names before their modules are imported: a configuration is checked, and
`--help` printed, without torch.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from miclab.errors import ConfigError, MiclabError, article, nearest

T = TypeVar("T")
NAME = re.compile(r"[a-z][a-z0-9_]*([.-][a-z0-9_]+)*|[A-Z][A-Za-z0-9]*")
"""Names of extensions: lower case with underscores; sources also have `.` and `-`; ids of claims begin with a capital
letter."""


_recordings: list[list[str]] = []


@contextlib.contextmanager
def recorded() -> Iterator[list[str]]:
    """A list of the files that register anything, in any registry, while the context is open."""
    files: list[str] = []
    _recordings.append(files)
    try:
        yield files
    finally:
        _recordings.remove(files)


class Registry(Generic[T], Mapping[str, T]):
    """Named objects, in the order of their registration.

    Arguments:
        kind: the kind of object, in words, for messages: `position code`.
        field: the field of a configuration that holds a name of this registry, if there is one.
        built_in: the package's own names, and the module that registers each; it is imported when it is needed.
    """

    def __init__(self, kind: str, field: str = "", built_in: Mapping[str, str] | None = None):
        self.kind, self.field = kind, field
        self._built_in = dict(built_in or {})
        self._known: dict[str, T] = {}
        self._files: dict[str, str] = {}

    def register(self, name: str, origin: object = None) -> Callable[[T], T]:
        """A decorator that registers a class or function under `name`.

        Arguments:
            origin: an object defined in the registering file, if the registered one is made elsewhere; default: the
                object.

        Raises:
            MiclabError: the name is not a plain word, or another file has registered it.
        """
        if not NAME.fullmatch(name):
            raise MiclabError(f"{name!r} is no name for {article(self.kind)}: use lower-case letters, digits and _.")

        def add(thing: T) -> T:
            source = thing if origin is None else origin
            file, module = _file_of(source), getattr(source, "__module__", "")
            is_taken = name in self._known and self._files[name] != file
            if is_taken or self._built_in.get(name, module) != module:
                taken = self.file(name)
                raise MiclabError(
                    f"There is {article(self.kind)} named {name!r} already (in {taken}): choose another name."
                )
            self._known[name], self._files[name] = thing, file
            for files in _recordings:
                files.append(file)
            return thing

        return add

    def find(self, name: str, field: str = "") -> T:
        """The object of a name.

        Arguments:
            field: dotted field of the configuration that holds the name; default: the registry's own.

        Raises:
            ConfigError: nothing is registered under it; the message names the nearest ones.
        """
        self.check(name, field)
        return self[name]

    def check(self, name: Any, field: str = "") -> None:
        """Raises ConfigError unless `name` is registered."""
        if not isinstance(name, str) or name not in self:
            hint = f"{nearest(str(name), tuple(self))}; {article(self.kind)} of your own needs --plugin FILE.py"
            raise ConfigError(field or self.field or self.kind, name, hint)

    def file(self, name: str) -> str:
        """The file in which a name was registered."""
        if name in self._files:
            return self._files[name]
        spec = importlib.util.find_spec(self._built_in[name])
        return (spec.origin or "") if spec else ""

    def summary(self, name: str) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(_unwrapped(self[name])) or "").strip().split("\n")[0]

    def __getitem__(self, name: str) -> T:
        if name not in self._known and name in self._built_in:
            importlib.import_module(self._built_in[name])
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self._built_in

    def __iter__(self) -> Iterator[str]:
        return iter({**self._built_in, **self._known})

    def __len__(self) -> int:
        return len({**self._built_in, **self._known})


class _PlainText(type):
    """The type of a type whose values are plain text."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, str)


class Name(str, metaclass=_PlainText):
    """The type of a field that holds a name of a registry; a subclass says of which. Its values are plain text."""

    registry: ClassVar[Registry]

    @classmethod
    def read(cls, value: Any, where: str) -> str:
        """The name from plain data.

        Raises:
            ConfigError: there is no such name; the message names the nearest one.
        """
        cls.registry.check(value, where)
        return value


def modules_in(package: str, *others: str) -> dict[str, str]:
    """The modules of a package by their last name, for a registry in which each registers an object of its own name.

    Arguments:
        others: last names of modules that register nothing.
    """
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    names = sorted(module.name for module in pkgutil.iter_modules(places))
    return {name: f"{package}.{name}" for name in names if name not in others}


def _unwrapped(thing: Any) -> Any:
    """The function of a registered object, if it has one (`__wrapped__`); else the object."""
    return inspect.unwrap(thing)


def _file_of(thing: Any) -> str:
    try:
        return inspect.getfile(_unwrapped(thing))
    except (TypeError, OSError):
        # An instance: the file of the code that registers it.
        return inspect.stack()[2].filename
