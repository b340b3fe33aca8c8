"""Conversion of dataclasses to plain data and back, strictly, and the hash that names a run."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from miclab.config.registry import Name
from miclab.errors import ConfigError, nearest

SEMANTICS = 2
"""Raised when the same configuration gives another result than before."""

T = TypeVar("T")
_LEAVES = frozenset({str, int, float, bool, type(None)})


def to_mapping(config: object) -> dict[str, Any]:
    """A configuration as nested dictionaries of plain values (tuples become lists)."""

    def plain(value: object) -> Any:
        # Most values; the questions below take ten times as long.
        if type(value) in _LEAVES:
            return value
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {name: plain(getattr(value, name)) for name in _items(type(value))}
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(v) for v in value]
        return value

    return plain(config)


def from_mapping(kind: type[T], data: Any, owner: str = "", base: T | None = None, also: Iterable[str] = ()) -> T:
    """A configuration from nested dictionaries, as a YAML file holds them.

    Arguments:
        kind: the dataclass to make.
        data: a mapping; fields that it lacks are taken from `base`, or are the dataclass's defaults.
        owner: dotted name of the place of `data`, for messages.
        base: configuration that `data` changes.
        also: further names that are allowed in the same place, for messages.

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
                f"{owner}.{name}" if owner else str(name), value, f"a known field: {nearest(name, (*names, *also))}"
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
    if hint in (int, str, bool) and type(value) is hint:
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Name):
        return hint.read(_switch(value, hint.registry), where)
    if read := getattr(hint, "read", None):
        # The dataclass depends on the chosen name.
        return read(value, where, base)
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
        value = _switch(value, arguments)
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
    raise ConfigError(where, value, f"a value of type {getattr(hint, '__name__', hint)}")


def _switch(value: Any, choices: Iterable[Any]) -> Any:
    """The intended choice, where YAML 1.1 reads on, yes, off and no without quotes as true and false."""
    if value is True or value is False:
        return next((word for word in (("on", "yes") if value else ("off", "no")) if word in choices), value)
    return value


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def field_text(kind: type, name: str, value: Any) -> str:
    """The part of a field in the hash, as canonical JSON; empty if the field is at its default."""
    if isinstance(value, (int, float, str, tuple)) or value is None:
        return _leaf_text(kind, name, value)
    if isinstance(value, Mapping):
        # The modalities and their order always count, even at their default.
        entries = [f"[{_CANONICAL.encode(part)},{_object_text(config) or '{}'}]" for part, config in value.items()]
        return f"[{','.join(entries)}]" if entries else ""
    return _leaf_text(kind, name, tuple(value)) if isinstance(value, list) else _object_text(value)


def _object_text(config: Any) -> str:
    """The fields that differ from their default; empty if none does, so that the whole part is left out."""
    kind, entries = type(config), []
    for name, default in _sorted_defaults(kind):
        value = getattr(config, name)
        if value is default:
            continue
        text = field_text(kind, name, value)
        if text:
            entries.append(f'"{name}":{text}')
    return f"{{{','.join(entries)}}}" if entries else ""


@functools.cache
def _sorted_defaults(kind: type) -> tuple[tuple[str, Any], ...]:
    """Fields in the order of their names, each with its default if that is a plain value. Another default cannot be
    recognised by its identity: the text of a dataclass is that of its own fields."""
    plain = (int, float, str, tuple, type(None))
    items = sorted(_items(kind).items())
    return tuple(
        (name, item.default if isinstance(item.default, plain) else dataclasses.MISSING) for name, item in items
    )


@functools.lru_cache(maxsize=100_000, typed=True)
def _leaf_text(kind: type, name: str, value: Any) -> str:
    default = _items(kind)[name].default
    if value == default:
        return ""
    # 0 and 0.0 are the same setting.
    return _CANONICAL.encode(float(value) if isinstance(default, float) else to_mapping(value))


def hash_of_texts(texts: Mapping[str, str], semantics: int | None = None) -> str:
    """The trajectory hash of a configuration whose fields have these texts (see `field_text`), by a version of our
    semantics; None: the present one."""
    config = ",".join([f'"{name}":{texts[name]}' for name in sorted(texts) if texts[name]])
    return hashlib.sha256(f'{{"config":{{{config}}},"semantics":{semantics or SEMANTICS}}}'.encode()).hexdigest()


def trajectory_hash(config: Any) -> str:
    """SHA-256 in hexadecimal of everything that determines a trajectory. This is the fields of `config` that differ
    from their default, and the version of the semantics."""
    return hash_of_texts(_field_texts(config))


def _field_texts(config: Any) -> dict[str, str]:
    kind = type(config)
    return {name: field_text(kind, name, getattr(config, name)) for name in _items(kind)}


def names_trajectory(identity: str, config: Any) -> bool:
    """Whether a hash is that of a configuration, by the present version of the semantics or an earlier one. Existing
    runs keep their names."""
    texts = _field_texts(config)
    return any(identity == hash_of_texts(texts, semantics) for semantics in range(SEMANTICS, 0, -1))
