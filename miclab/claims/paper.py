"""The paper's figures that are numbers, from `paper.yaml`, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from miclab.errors import ConfigError, ContentError, nearest

FILE = Path(__file__).with_name("paper.yaml")
Number = float | tuple[float, float]
"""A number, or its lowest and highest value."""


def figure(claim: str, name: str) -> Number:
    """One of the paper's figures.

    Raises:
        ConfigError: the file has no such claim or name.
    """
    known = figures(claim)
    if name not in known:
        raise ConfigError(f"{claim}", name, nearest(name, known))
    return known[name]


def figures(claim: str) -> Mapping[str, Number]:
    """The paper's figures of a claim by their names, in the file's order.

    Raises:
        ConfigError: the file has no such claim.
    """
    known = read(FILE)
    if claim not in known:
        raise ConfigError(FILE.name, claim, nearest(claim, known))
    return known[claim]


def value(claim: str, name: str) -> float:
    """One of the paper's figures that is a single number.

    Raises:
        ConfigError: there is none, or it is a range.
    """
    found = figure(claim, name)
    if isinstance(found, tuple):
        raise ConfigError(f"{claim}.{name}", found, "a single number")
    return found


@cache
def read(file: Path) -> Mapping[str, Mapping[str, Number]]:
    """All figures of a file, by claim and name.

    Raises:
        ContentError: it holds anything except numbers and ranges by claim and name.
    """
    from miclab.config.strict_yaml import read_yaml

    data = read_yaml(file)
    try:
        return {
            claim: {name: _number(f"{claim}.{name}", value) for name, value in _mapping(claim, part).items()}
            for claim, part in _mapping("claims", data).items()
        }
    except ConfigError as error:
        raise ContentError.of_field(file, error) from error


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ConfigError(where, value, "a mapping of names to values")
    return value


def _number(where: str, value: Any) -> Number:
    if isinstance(value, list):
        if len(value) != 2 or not all(isinstance(_number(where, end), float) for end in value) or value[0] > value[1]:
            raise ConfigError(where, value, "a range: [lowest, highest]")
        return float(value[0]), float(value[1])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(where, value, "a number or a range: [lowest, highest]")
    return float(value)
