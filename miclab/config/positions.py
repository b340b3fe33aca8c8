"""The position code in a configuration: a name, or a name and options, in one form of text.

    decoder: {positions: rope}            decoder: {positions: "partial_rope:fraction=0.25"}
    decoder: {positions: {name: partial_rope, fraction: 0.25}}

The configuration holds the text. A code with options has a dataclass for them, a subclass of `PositionOptions`, in the
file that registers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from miclab.config.options import named_fields, option_text
from miclab.config.registry import Name, Registry, modules_in
from miclab.config.schema import from_mapping
from miclab.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PositionFacts:
    """Facts about a position code.

    Arguments:
        slots: whether it is absolute: a sequence starts at one of its slots and must fit.
        beside: whether it is concatenated to each token, one column a slot.
        rotates: whether it changes queries and keys.
        learnt: whether it has parameters.
        even: the width that must be even: that of a `head`, the `width` of the residual stream, or none (empty).
    """

    slots: bool = False
    beside: bool = False
    rotates: bool = False
    learnt: bool = False
    even: Literal["", "head", "width"] = ""


@dataclass(frozen=True, kw_only=True)
class PositionOptions:
    """Options of a position code. A code with options has a subclass with fields."""

    name: str
    """The code."""

    def check(self, owner: str) -> None:
        """Raises ConfigError for impossible values."""

    def check_shape(self, owner: str, head: int) -> None:
        """Raises ConfigError for options that do not fit heads of this width."""


KNOWN: dict[str, PositionFacts] = {
    "none": PositionFacts(),
    "onehot": PositionFacts(slots=True, beside=True),
    "learned": PositionFacts(slots=True, learnt=True),
    "sinusoidal": PositionFacts(slots=True, even="width"),
    "rope": PositionFacts(rotates=True, even="head"),
    "rope_released": PositionFacts(rotates=True, even="head"),
    "alibi": PositionFacts(),
    "hybrid": PositionFacts(slots=True, beside=True, rotates=True, even="head"),
}
"""Facts about the codes of `miclab.model.positions`, none of which has options. So their studies are planned without
torch. Facts about other codes are read from their classes."""
POSITION_CODES: Registry[Any] = Registry(
    "position code",
    "decoder.positions",
    dict.fromkeys(KNOWN, "miclab.model.positions") | modules_in("miclab.model.position_codes"),
)
"""Position codes: subclasses of `miclab.model.positions.PositionCode`."""


def facts(code: str) -> PositionFacts:
    """Facts about a position code, `NAME` or `NAME:OPTION=VALUE,...`.

    Raises:
        ConfigError: there is no such code.
    """
    name = code.partition(":")[0]
    return KNOWN[name] if name in KNOWN else POSITION_CODES.find(name).facts()


def position_options(data: Any, where: str = "decoder.positions") -> PositionOptions:
    """A position code with its options from plain data: text, or a mapping of `name` and options.

    Raises:
        ConfigError: an unknown code or option (naming the nearest one), or a value that cannot be.
    """
    if isinstance(data, str) and data in KNOWN:
        # It has no options, and a plan needs it at every point.
        return PositionOptions(name=data)
    if isinstance(data, str):
        name, found = named_fields(data, where)
        data = {**found, "name": name}
    if not isinstance(data, Mapping) or "name" not in data:
        raise ConfigError(where, data, "a position code's name, or a mapping of `name` and its options to values")
    POSITION_CODES.check(data["name"], where)
    kind = PositionOptions if data["name"] in KNOWN else POSITION_CODES[data["name"]].Options
    options = from_mapping(kind, data, where)
    options.check(where)
    return options


def position_text(data: Any, where: str = "decoder.positions") -> str:
    """The one text of a position code with its options.

    Raises:
        ConfigError: as `position_options` does.
    """
    if isinstance(data, str) and data in KNOWN:
        return data
    options = position_options(data, where)
    return option_text(options.name, options)


if TYPE_CHECKING:
    PositionName = str
else:

    class PositionName(Name):
        """A position code, with its options after a colon if it has any."""

        registry = POSITION_CODES

        @classmethod
        def read(cls, value, where):
            return position_text(value, where)
