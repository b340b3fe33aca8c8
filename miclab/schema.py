"""Dataclasses to plain data and back, strictly, and the hash that names a run."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from miclab.errors import ConfigError, nearest

SEMANTICS = 2
"""Raised when the same configuration comes to mean another result."""

T = TypeVar("T")


def to_mapping(config: object) -> dict[str, Any]:
    """A configuration as nested dictionaries of plain values (tuples become lists)."""

    def plain(value: object) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(v) for v in value]
        return value

    return plain(config)


def from_mapping(kind: type[T], data: Any, owner: str = "", base: T | None = None) -> T:
    """A configuration from nested dictionaries, as a YAML file holds them.

    Arguments:
        kind: the dataclass to make.
        data: a mapping; fields that it lacks are taken from `base`, or are the dataclass's defaults.
        owner: dotted name of the place of `data`, for messages.
        base: configuration that `data` changes.

    Raises:
        ConfigError: on an unknown field (naming the nearest known one) or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(owner or kind.__name__, data, "a mapping of fields to values")
    hints = _hints(kind)
    names = _items(kind)
    values = {} if base is None else {name: getattr(base, name) for name in names}
    for name, value in data.items():
        if name not in names:
            raise ConfigError(
                f"{owner}.{name}" if owner else str(name), value, f"a known field: {nearest(name, names)}"
            )
        values[name] = _value(hints[name], value, f"{owner}.{name}" if owner else name, values.get(name))
    return kind(**values)


@functools.cache
def _items(kind: type) -> dict[str, dataclasses.Field]:
    return {item.name: item for item in dataclasses.fields(kind)}


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def field_value(kind: type, name: str, data: Any, base: Any = None) -> Any:
    """The value of one field of a dataclass from plain data, as `from_mapping` reads it.

    Raises:
        ConfigError: as `from_mapping` does.
    """
    return _value(_hints(kind)[name], data, name, base)


def _value(hint: Any, value: Any, where: str, base: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, where, base)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(where, value, "a mapping of names to values")
        old = base or {}
        return {str(k): _value(arguments[1], v, f"{where}.{k}", old.get(k)) for k, v in value.items()}
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(where, value, "a list")
        return tuple(_value(arguments[0], v, f"{where}[{i}]", None) for i, v in enumerate(value))
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(where, value, nearest(str(value), arguments))
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, where, base)
    # YAML reads 1e-3, without a point, as text.
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except (OverflowError, ValueError) as error:
            raise ConfigError(where, value, "a number that fits into a float") from error
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise ConfigError(where, value, f"a value of type {getattr(hint, '__name__', hint)}")


def _without_defaults(config: Any) -> dict[str, Any]:
    """Fields that differ from their default; an empty part is left out as a whole."""
    kept: dict[str, Any] = {}
    for name, item in _items(type(config)).items():
        _keep(kept, item, getattr(config, name))
    return kept


def _keep(kept: dict[str, Any], item: dataclasses.Field, value: Any) -> None:
    """Adds a field to `kept`, unless it is at its default."""
    if dataclasses.is_dataclass(type(value)):
        value = _without_defaults(value)
        if value:
            kept[item.name] = value
    elif isinstance(value, Mapping):
        # Which modalities there are, and in which order, is never a default.
        kept[item.name] = [[name, _without_defaults(part)] for name, part in value.items()]
    elif value != item.default:
        # 0 and 0.0 are the same setting.
        kept[item.name] = float(value) if isinstance(item.default, float) else to_mapping(value)


def field_text(kind: type, name: str, value: Any) -> str:
    """What one field of a configuration adds to its hash, as canonical JSON; empty where it is at its default."""
    kept: dict[str, Any] = {}
    _keep(kept, _items(kind)[name], value)
    return json.dumps(kept[name], sort_keys=True, separators=(",", ":")) if kept else ""


def hash_of_texts(texts: Mapping[str, str]) -> str:
    """The trajectory hash of a configuration whose fields have these texts (see `field_text`)."""
    config = ",".join(f'"{name}":{texts[name]}' for name in sorted(texts) if texts[name])
    return hashlib.sha256(f'{{"config":{{{config}}},"semantics":{SEMANTICS}}}'.encode()).hexdigest()


def trajectory_hash(config: Any) -> str:
    """SHA-256 in hexadecimal of what decides a trajectory: the fields of `config` that differ from their default,
    and the version of our semantics."""
    kind = type(config)
    return hash_of_texts({name: field_text(kind, name, getattr(config, name)) for name in _items(kind)})
