"""A ladder: the fixed values of one axis on which a threshold is sought, and the values that must be run.

The first runs are those at the `brackets`. Where the states of two neighbours differ, the rung halfway between them is
run next, until no rung is left between. Where the seeds of a rung differ, its neighbours are run. Only the states of
ended runs decide what is run next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from miclab.errors import ConfigError, nearest
from miclab.statistics.threshold import State, majority

Ended = State | str
"""The state of a run, or `failed`."""


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The axis of a threshold and its rungs.

    Arguments:
        axis: dotted field of the configuration.
        values: the rungs, from the lowest on.
        brackets: the first rungs to run.
    """

    axis: str
    values: tuple[int, ...]
    brackets: tuple[int, ...]


def read_ladder(value: Any, where: str) -> Ladder:
    """A ladder from plain data.

    Raises:
        ConfigError: a key is unknown or missing, rungs do not rise, or a bracket is no rung.
    """
    known = ("axis", "values", "brackets")
    if not isinstance(value, Mapping):
        raise ConfigError(where, value, f"a mapping with {', '.join(known)}")
    for name in value:
        if name not in known:
            raise ConfigError(f"{where}.{name}", value[name], f"a known key: {nearest(str(name), known)}")
    axis, values, brackets = (value.get(name) for name in known)
    if not isinstance(axis, str):
        raise ConfigError(f"{where}.axis", axis, "a dotted field, such as modalities.m1.classes")
    if not isinstance(values, list) or len(values) < 2 or any(type(one) is not int or one < 1 for one in values):
        raise ConfigError(f"{where}.values", values, "a list of at least two whole numbers above 0")
    if sorted(set(values)) != values:
        raise ConfigError(f"{where}.values", values, "numbers that rise")
    brackets = [values[0], values[-1]] if brackets is None else brackets
    if not isinstance(brackets, list) or not brackets:
        raise ConfigError(f"{where}.brackets", brackets, "a list of rungs")
    for one in brackets:
        if one not in values:
            raise ConfigError(f"{where}.brackets", one, f"rungs of the ladder: {', '.join(map(str, values))}")
    return Ladder(axis=axis, values=tuple(values), brackets=tuple(sorted(set(brackets))))


def climbed(
    ladder: Ladder, seeds: tuple[int, ...], ended: Callable[[int, int], Ended | None]
) -> tuple[tuple[int, ...], bool]:
    """The rungs that must be run, as far as is known, and whether these are all.

    Arguments:
        ladder: the ladder.
        seeds: of every rung.
        ended: function of rung and seed that gives the run's outcome; None: it has not ended.
    """
    wanted = set(ladder.brackets)
    while True:
        states: dict[int, dict[int, Any]] = {}
        for rung in sorted(wanted):
            found = {seed: ended(rung, seed) for seed in seeds}
            if any(state is None for state in found.values()):
                return tuple(sorted(wanted)), False
            states[rung] = {seed: state for seed, state in found.items() if state != "failed"}
        more = _between(ladder, states) | _beside(ladder, states)
        if more <= wanted:
            return tuple(sorted(wanted)), True
        wanted |= more


def _between(ladder: Ladder, states: Mapping[int, Mapping[int, Any]]) -> set[int]:
    """Halfway between neighbours whose states differ."""
    found = set()
    rungs = [rung for rung in sorted(states) if states[rung]]
    for low, high in pairwise(rungs):
        between = [rung for rung in ladder.values if low < rung < high]
        if between and majority(states[low]) != majority(states[high]):
            found.add(between[len(between) // 2])
    return found


def _beside(ladder: Ladder, states: Mapping[int, Mapping[int, Any]]) -> set[int]:
    """The neighbours of rungs whose seeds differ."""
    found = set()
    for rung, own in states.items():
        if len(set(own.values()) - {"plateau"}) > 1:
            place = ladder.values.index(rung)
            found |= set(ladder.values[max(place - 1, 0) : place + 2])
    return found
