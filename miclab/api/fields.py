"""Fields of a configuration by short names: `heads=4` for `decoder.heads`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from miclab.config import schema
from miclab.config.axes import AXES
from miclab.config.options import AttentionOptions, LossOptions
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.errors import ConfigError

REQUEST = "request"
LIST = "`miclab train unimodal --help` and `miclab train multimodal --help` list all fields."


def paths(config: Any, owner: str = "") -> Iterator[str]:
    """Dotted names of all fields of a configuration, parts before their fields. An attention mechanism or a term of the
    loss is one field."""
    values = (
        config.items() if isinstance(config, Mapping) else ((f.name, getattr(config, f.name)) for f in fields(config))
    )
    for name, value in values:
        path = f"{owner}{name}"
        yield path
        if isinstance(value, Mapping) or (
            is_dataclass(value) and not isinstance(value, (AttentionOptions, LossOptions))
        ):
            yield from paths(value, f"{path}.")


def resolve(name: str, known: tuple[str, ...]) -> str:
    """The dotted name of a short or dotted one.

    Arguments:
        name: a dotted name, or a last part of one that no other has.
        known: all dotted names.

    Raises:
        ConfigError: there is no such field (the message names the nearest ones), or several end so.
    """
    if name in known:
        return name
    meant = [path for path in known if path.endswith(f".{name}")]
    if len(meant) == 1:
        return meant[0]
    if meant:
        allowed = f"one of {', '.join(meant)}, in the argument `fields`: the short name is that of several"
        raise ConfigError(name, "a short name", allowed)
    short = {path.rpartition(".")[2] for path in known}
    raise ConfigError.worded(name, "a field", f"There is no field {name!r}{_meant(name, short, known)} {LIST}")


def _meant(name: str, short: Iterable[str], known: tuple[str, ...]) -> str:
    """What may have been meant by a name that no field has; empty: nothing is near."""
    if name in AXES:
        field = AXES[name].field
        last = field.rpartition(".")[2]
        own = f"{last}=" if sum(path.endswith(f".{last}") for path in known) == 1 else f"fields={{{field!r}: ...}}"
        return f": in studies it is short for {field}; give {own} here."
    close = difflib.get_close_matches(name, sorted(known if "." in name else short), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else "."


def changed(
    config: RunConfig, request: Request, short: Mapping[str, Any], dotted: Mapping[str, Any] | None = None
) -> tuple[RunConfig, Request]:
    """A configuration and a request with other values in some fields.

    Arguments:
        short: values by short name (the last part of a dotted one) or by the name of a whole part, such as `decoder`.
        dotted: values by dotted name; those of the request begin with `request.`.

    Raises:
        ConfigError: a field is unknown, several have the short name, one is given twice, or its value is not possible.
    """
    known = (*paths(config), *(f"{REQUEST}.{path}" for path in paths(request)))
    given: dict[str, Any] = {}
    for name, value in [*short.items(), *(dotted or {}).items()]:
        path = name if name in (dotted or {}) and _is_open(name, config) else resolve(name, known)
        if any(path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.") for other in given):
            raise ConfigError(path, value, "one value: it is given twice")
        given[path] = value
    change: dict[str, Any] = {}
    for path, value in given.items():
        place, names = change, path.split(".")
        for name in names[:-1]:
            place = place.setdefault(name, {})
        place[names[-1]] = schema.to_mapping(value)
    for part in ("modalities", "objective"):
        if part in change and isinstance(change[part], Mapping):
            # Fields of one modality leave the others; a whole mapping replaces them.
            others = {} if part in given else {name: {} for name in getattr(config, part)}
            change[part] = others | dict(change[part])
    wanted = schema.from_mapping(Request, change.pop(REQUEST, {}), REQUEST, request)
    return schema.from_mapping(RunConfig, change, "", config), wanted


def _is_open(name: str, config: RunConfig) -> bool:
    """Whether a dotted name belongs to options of a choice, or to an added modality. Then `from_mapping` checks it."""
    if name.startswith(("decoder.attention.", "objective.")):
        return True
    owner, _, rest = name.partition(".")
    return owner == "modalities" and rest.partition(".")[0] not in config.modalities
