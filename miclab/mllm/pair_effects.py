"""Normalised effects of patching on pairs of prompts, with intervals over episodes.

The measure is the logit difference: the first token of the clean answer minus that of its rival. An effect is what a
patch changes, over the whole change between corrupted and clean prompts. It is a ratio of means over episodes: 0 is no
effect, 1 is the whole effect of the corruption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.patching_request import DIRECTIONS
from miclab.mllm.episode_pairs import CORRUPTIONS
from miclab.statistics.intervals import Interval, accuracy_interval, episode_interval, ratio_interval
from miclab.tables import Table, Tabled, table

Place = TypeVar("Place")
NO_EFFECT = "The interval of the logit difference's change contains 0"


@dataclass(frozen=True)
class PairEffects(Tabled, Generic[Place]):
    """Effects of patching one model on one task.

    Arguments:
        model: its name.
        task: its name.
        corruption: its name.
        direction: `restore` or `corrupt`.
        names: of the episodes.
        clean: logit difference on clean prompts [episode].
        corrupted: the same on corrupted ones.
        patched: the same under each patch; NaN where an episode has no such position.
        remarks: what was left out.
        problem: why some episodes are missing; empty if none is.
    """

    model: str
    task: str
    corruption: str
    direction: str
    names: tuple[str, ...]
    clean: NDArray[np.floating] = field(repr=False)
    corrupted: NDArray[np.floating] = field(repr=False)
    patched: Mapping[Place, NDArray[np.floating]] = field(repr=False)
    remarks: tuple[str, ...] = ()
    problem: str = ""
    _kept: dict[bytes, bool] = field(default_factory=dict, repr=False, compare=False)
    _effects: dict[Place, Interval | None] = field(default_factory=dict, repr=False, compare=False)

    @property
    def places(self) -> tuple[Place, ...]:
        """What was patched."""
        return tuple(self.patched)

    @cached_property
    def change(self) -> Interval:
        """The logit difference on clean prompts minus that on corrupted ones."""
        return episode_interval(self.clean - self.corrupted)

    def effect(self, place: Place) -> Interval | None:
        """The normalised effect of a patch over the episodes that have such a position. None where the corruption does
        not change their logit difference: the interval of that change contains 0."""
        if place not in self._effects:
            self._effects[place] = self._effect(self.patched[place])
        return self._effects[place]

    def _effect(self, patched: NDArray[np.floating]) -> Interval | None:
        there = ~np.isnan(patched)
        if not there.any() or not self._is_changed(there):
            return None
        clean, corrupted, value = self.clean[there], self.corrupted[there], patched[there]
        above = value - corrupted if self.direction == "restore" else clean - value
        return ratio_interval([above[None]], [(clean - corrupted)[None]])

    def _is_changed(self, there: NDArray[np.bool_]) -> bool:
        key = there.tobytes()
        if key not in self._kept:
            change = episode_interval((self.clean - self.corrupted)[there])
            self._kept[key] = not change.low <= 0 <= change.high
        return self._kept[key]

    def accuracy(self, place: Place) -> Interval:
        """How often the clean answer beats its rival under a patch, over the episodes that have such a position."""
        values = self.patched[place]
        return _accuracy(values[~np.isnan(values)])

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks: what was left out, and why there is no effect."""
        change = self.change
        if change.low <= 0 <= change.high:
            why = f"{NO_EFFECT} ({change}), so nothing has a normalised effect."
            return (*self.remarks, f"{why} A task with more episodes makes it narrower.")
        return self.remarks

    def change_table(self) -> Table:
        """What the corruption does to the logit difference and to the accuracy between the two answers."""
        right = [(values > 0).astype(float) for values in (self.clean, self.corrupted)]
        rows = [
            ["logit difference", episode_interval(self.clean), episode_interval(self.corrupted), self.change],
            ["accuracy between the two", _accuracy(self.clean), _accuracy(self.corrupted),
             episode_interval(right[0] - right[1])],
        ]  # fmt: skip
        on = f"{self.model} on {len(self.names)} episodes of {self.task}"
        title = f"{on}, {self.corruption}: {CORRUPTIONS[self.corruption].words}"
        return table(title, ["of the clean answer", "clean", "corrupted", "change"], rows, self.notes)

    @property
    def heading(self) -> str:
        """What the effects are of, for the titles of tables."""
        return f"effect on the logit difference, {DIRECTIONS[self.direction]} [95 % interval]"

    def head_json(self) -> dict[str, Any]:
        """What was corrupted and how, as plain data."""
        return {
            "model": self.model, "task": self.task, "corruption": self.corruption,
            "changes": CORRUPTIONS[self.corruption].words, "direction": self.direction, "episodes": len(self.names),
            "notes": list(self.notes),
            "logit_difference": {"clean": episode_interval(self.clean).as_json(),
                                 "corrupted": episode_interval(self.corrupted).as_json(),
                                 "change": self.change.as_json()},
            "accuracy": {"clean": _accuracy(self.clean).as_json(), "corrupted": _accuracy(self.corrupted).as_json()},
        }  # fmt: skip

    def place_json(self, place: Place) -> dict[str, Any]:
        """The effect of a patch and the accuracy under it, as plain data."""
        effect = self.effect(place)
        return {"effect": None if effect is None else effect.as_json(), "accuracy": self.accuracy(place).as_json()}

    def rows(self, columns: Callable[[Place], dict[str, Any]]) -> list[dict[str, Any]]:
        """A row for each patch and episode that has such a position, for the table on disk.

        Arguments:
            columns: gives the columns that name a place.
        """
        return [
            columns(place) | {"episode": name, "clean": float(self.clean[row]), "corrupted": float(self.corrupted[row]),
                              "patched": float(values[row])}
            for place, values in self.patched.items()
            for row, name in enumerate(self.names)
            if not np.isnan(values[row])
        ]  # fmt: skip


def _accuracy(differences: NDArray[np.floating]) -> Interval:
    """Share of episodes whose logit difference is above 0."""
    return accuracy_interval([(differences > 0).astype(float)[None]])
