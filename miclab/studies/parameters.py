"""Parameters of a study file: values that are given when it is used, such as the paths of two files.

    parameters:
      m1: {words: "embeddings of M1, as vectors:PATH"}
      labels: {words: labels of M1, default: 32}
    config: {modalities: {m1: {source: $m1, labels: $labels}}}

`$NAME` as a whole value is replaced by the parameter's value before the study is read. So the value is in the
configurations of runs, and in their hashes. A parameter without a default has to be given, and is a text. The others
are of their default's type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from miclab.errors import ConfigError, MiclabError, nearest

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
REFERENCE = re.compile(r"\$([A-Za-z_]\w*)")
KINDS = {int: "a whole number", float: "a number", str: "a text"}
"""Types of defaults, in words."""
NONE = "none, since the study file has no `parameters`"

Values = Mapping[str, str]
"""Given values by name, as the user wrote them."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of a study file.

    Arguments:
        name: small letters, digits and `_`.
        words: what it is, for messages.
        default: a whole number, a number or a text; None: it has to be given.
    """

    name: str
    words: str
    default: int | float | str | None = None

    def read(self, text: str) -> int | float | str:
        """The value that a text stands for.

        Raises:
            ConfigError: the text is empty, or no value of the default's type.
        """
        kind = str if self.default is None else type(self.default)
        try:
            if not text:
                raise ValueError
            return kind(text)
        except ValueError:
            raise ConfigError(f"parameter {self.name}", text, f"{KINDS[kind]}: {self.words}") from None


def assignments(texts: Iterable[str]) -> dict[str, str]:
    """The values of `--parameter NAME=VALUE`, by name.

    Raises:
        ConfigError: a text is no assignment, or a name is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError("parameter", text, "NAME=VALUE, for example m1=vectors:FILE.npy")
        if name in found:
            raise ConfigError("parameter", text, f"each name once, and {name} is {found[name]!r} already")
        found[name] = value
    return found


def read_parameters(value: Any) -> dict[str, Parameter]:
    """The parameters that a study file declares, from its key `parameters`.

    Raises:
        ConfigError: a name, a key or a default cannot be used.
    """
    if not isinstance(value, Mapping):
        raise ConfigError("parameters", value, "a mapping of names to `words` and `default`")
    found = {}
    for name, part in value.items():
        where = f"parameters.{name}"
        if not NAME.fullmatch(str(name)):
            raise ConfigError("parameters", name, "names of small letters, digits and _, up to 40 of them")
        if not isinstance(part, Mapping):
            raise ConfigError(where, part, "a mapping with `words`, and perhaps a `default`")
        for key in part:
            if key not in ("words", "default"):
                raise ConfigError(f"{where}.{key}", part[key], nearest(str(key), ("words", "default")))
        words, default = part.get("words"), part.get("default")
        if not isinstance(words, str) or not words:
            raise ConfigError(f"{where}.words", words, "a text that says what to give")
        if default is not None and type(default) not in KINDS:
            raise ConfigError(f"{where}.default", default, "a whole number, a number or a text")
        found[name] = Parameter(name=name, words=words, default=default)
    return found


def filled(data: Mapping[str, Any], given: Values) -> dict[str, Any]:
    """A study file without its key `parameters`, with values in the place of references.

    Arguments:
        data: as it was read. Without the key it stays as it is.
        given: values by name.

    Raises:
        MiclabError: a value is missing.
        ConfigError: one is unknown or of the wrong type; a reference names no parameter; or a parameter stands nowhere.
    """
    known = read_parameters(data.get("parameters", {}))
    check_given(given, [known])
    values: dict[str, Any] = {}
    for name, parameter in known.items():
        if name not in given and parameter.default is None:
            raise MiclabError(f"the parameter {name} is missing: give --parameter {name}=VALUE ({parameter.words}).")
        values[name] = parameter.read(given[name]) if name in given else parameter.default
    rest = {key: part for key, part in data.items() if key != "parameters"}
    if not known:
        return rest
    used: set[str] = set()
    found = {key: _replaced(part, values, used, key) for key, part in rest.items()}
    for name in known:
        if name not in used:
            raise ConfigError(f"parameters.{name}", known[name].words, f"one that stands in the file as ${name}")
    return found


def check_given(given: Values, known: Sequence[Mapping[str, Parameter]]) -> None:
    """Refuses values of parameters that no study has.

    Arguments:
        known: the parameters of each study.

    Raises:
        ConfigError: a name is unknown.
    """
    names = list(dict.fromkeys(name for one in known for name in one))
    for name, value in given.items():
        if name not in names:
            raise ConfigError(f"parameter {name}", value, nearest(name, names) if names else NONE)


def _replaced(value: Any, values: Mapping[str, Any], used: set[str], where: str) -> Any:
    """A value of the file with parameters' values in the place of references; adds their names to `used`."""
    if isinstance(value, Mapping):
        return {key: _replaced(part, values, used, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, list):
        return [_replaced(part, values, used, where) for part in value]
    if not isinstance(value, str) or not (found := REFERENCE.fullmatch(value)):
        return value
    if found[1] not in values:
        raise ConfigError(where, value, f"a parameter of this file: {nearest(found[1], values)}")
    used.add(found[1])
    return values[found[1]]
