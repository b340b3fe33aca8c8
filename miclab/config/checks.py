"""Checks of single fields of a configuration, which say what is allowed."""

from __future__ import annotations

import math
import sys

from miclab.errors import ConfigError, nearest

LARGEST = sys.float_info.max


def check_number(
    owner: str, config: object, name: str, low: float, high: float = math.inf, *, open_low: bool = False
) -> None:
    """Raises ConfigError unless field `name` of `config` is a finite number from `low` to `high`."""
    value = getattr(config, name)
    if type(value) is float and low < value <= high and value <= LARGEST:
        # The usual case, which a plan of 100,000 points meets a million times.
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # NaN is in no range; a whole number too large for a float is compared as it is.
    if not is_number or not low <= value <= min(high, LARGEST) or (open_low and value == low):
        edge = "above" if open_low else "at least"
        top = "" if high == math.inf else f" and at most {high:g}"
        where = f"{owner}.{name}" if owner else name
        raise ConfigError(where, value, f"a finite number {edge} {low:g}{top}")


def check_whole(owner: str, config: object, name: str, low: int, high: float = math.inf) -> None:
    """Raises ConfigError unless field `name` of `config` is a whole number from `low` to `high`."""
    value = getattr(config, name)
    if type(value) is int and low <= value <= high and value <= LARGEST:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{owner}.{name}" if owner else name, value, f"a whole number, {low} or more")
    if not low <= value <= min(high, LARGEST):
        check_number(owner, config, name, low, high)


def check_known(owner: str, config: object, name: str, known: tuple[str, ...]) -> None:
    """Raises ConfigError unless field `name` of `config` is one of `known`."""
    value = getattr(config, name)
    if value not in known:
        raise ConfigError(f"{owner}.{name}" if owner else name, value, nearest(str(value), known))


def check_divides(owner: str, config: object, name: str, of: str, whole: int) -> None:
    """Raises ConfigError unless field `name` of `config` divides `whole`, which messages call `of`."""
    value = getattr(config, name)
    if whole % value:
        divisors = [size for size in range(1, whole + 1) if whole % size == 0]
        raise ConfigError(f"{owner}.{name}" if owner else name, value, f"a divisor of {of} = {whole}: {divisors}")
