"""What a configuration has to know of a position code, so that it is checked without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from miclab.config.registry import Name, Registry


@dataclass(frozen=True, kw_only=True)
class PositionFacts:
    """Facts about a position code.

    Arguments:
        slots: whether it is absolute: a sequence starts at one of its slots and must fit.
        beside: whether it is concatenated to each token, one column a slot.
        rotates: whether it changes queries and keys.
        learnt: whether it has parameters.
        even: what has to be even: the width of a `head`, the `width` of the residual stream, or nothing (empty).
    """

    slots: bool = False
    beside: bool = False
    rotates: bool = False
    learnt: bool = False
    even: Literal["", "head", "width"] = ""


FACTS: dict[str, PositionFacts] = {
    "none": PositionFacts(),
    "onehot": PositionFacts(slots=True, beside=True),
    "learned": PositionFacts(slots=True, learnt=True),
    "sinusoidal": PositionFacts(slots=True, even="width"),
    "rope": PositionFacts(rotates=True, even="head"),
    "rope_released": PositionFacts(rotates=True, even="head"),
    "alibi": PositionFacts(),
    "hybrid": PositionFacts(slots=True, beside=True, rotates=True, even="head"),
}
"""Facts of every code by name; `miclab.model.positions.position_code` adds those of codes from elsewhere."""
POSITION_CODES: Registry[Any] = Registry(
    "position code", "decoder.positions", dict.fromkeys(FACTS, "miclab.model.positions")
)
"""Position codes: subclasses of `miclab.model.positions.PositionCode`."""

if TYPE_CHECKING:
    PositionName = str
else:

    class PositionName(Name):
        """Name of a position code."""

        registry = POSITION_CODES
