"""The result of causal tracing over one or several runs: effects with intervals, tables, and a heat map of parts and
layers by role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.effect_shares import WORDS, Shares, trace_runs
from miclab.circuits.existence import OnProgress
from miclab.circuits.patching import METRICS, POINTS, Metric, Place, trace_split
from miclab.circuits.patching_request import DIRECTIONS, PatchingRequest
from miclab.errors import ConfigError
from miclab.runs.run import Run
from miclab.statistics.intervals import Interval
from miclab.tables import Table, table

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Patching(Shares):
    """Effects of causal tracing; arguments: see `Shares`."""

    @property
    def places(self) -> tuple[Place, ...]:
        """The places that were patched in every run."""
        return tuple(p for p in self.traced[0].patched if all(p in one.patched for one in self.traced))

    def tables(self) -> tuple[Table, ...]:
        """The effect of the corruption. Then for each part a row for each layer or head, and a column for each role."""
        found = [self.change_table()]
        if not self.has_effect():
            return tuple(found)
        for part in dict.fromkeys(place.part for place in self.places):
            here = [place for place in self.places if place.part == part]
            roles = list(dict.fromkeys(place.role for place in here))
            by_where: dict[str, dict[str, Interval | None]] = {}
            for place in here:
                by_where.setdefault(place.where, {})[place.role] = self.effect(place)
            shown = [[where, *(effects[role] for role in roles)] for where, effects in by_where.items()]
            heading = f"{part}: effect on the {WORDS[self.metric]}, {DIRECTIONS[self.direction]} [95 % interval]"
            found.append(table(heading, ["layer" if here[-1].head is None else "head", *roles], shown))
        return tuple(found)

    def long_table(self) -> Table:
        """A row for each place, with the effect on every metric."""
        columns = ["part", "layer", "role", *(WORDS[metric] for metric in METRICS)]
        rows = [[p.part, p.where, p.role, *(self.effect(p, metric) for metric in METRICS)] for p in self.places]
        return table(self.words, columns, rows, self.notes)

    def frame(self) -> pl.DataFrame:
        """A row for each place as a frame of polars; of each metric the effect and both ends of its interval.

        A metric that the corruption does not change has nulls alone; a warning says why (see `notes`).
        """
        self.warn_of_nulls()
        return self.long_table().frame()

    def grid(self, metric: Metric | None = None) -> tuple[list[str], list[str], NDArray[np.floating]]:
        """Rows (part and layer), columns (roles) and effects [row, column] of the heat map; not a number where there
        is no effect."""
        rows = list(dict.fromkeys(f"{p.part} {p.where}" for p in self.places))
        roles = list(dict.fromkeys(p.role for p in self.places))
        values = np.full((len(rows), len(roles)), np.nan)
        for place in self.places:
            found = self.effect(place, metric)
            if found is not None:
                values[rows.index(f"{place.part} {place.where}"), roles.index(place.role)] = found.mean
        return rows, roles, values

    def plot(self, axes: Axes | None = None) -> Axes:
        """A heat map: parts and layers from top to bottom, roles from left to right, the normalised effect in each
        cell.

        Arguments:
            axes: where to draw; None: new axes.
        """
        from miclab.statistics.style import new_axes

        rows, roles, values = self.grid()
        axes = axes or new_axes(2.5 + 0.9 * len(roles), 1.8 + 0.32 * len(rows))
        image = axes.imshow(values, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            if value == value:
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize="small")
        axes.set_xticks(range(len(roles)), roles, rotation=30, ha="right")
        axes.set_yticks(range(len(rows)), rows)
        axes.set_title(f"{self.corruption}, {self.direction}: share of the {WORDS[self.metric]}", fontsize="small")
        axes.figure.colorbar(image, ax=axes, label="normalised effect")
        return axes

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return self.head_json() | {
            "effects": [
                {"part": p.part, "layer": p.layer if p.layer >= 0 else None, "head": p.head, "role": p.role,
                 **self.effects_json(p)}
                for p in self.places
            ],
        }  # fmt: skip


def patch(
    runs: Sequence[Run],
    request: PatchingRequest,
    parts: Sequence[str] = tuple(POINTS),
    on_progress: OnProgress | None = None,
) -> Patching:
    """Causal tracing of runs: every part at every layer and role, restored or corrupted.

    Arguments:
        runs: seeds of one experiment.
        request: checkpoints, corruption and sequences.
        parts: of `POINTS`.
        on_progress: called with the number of sets of novel classes done over all runs.

    Raises:
        RunError: the runs differ in more than the seed, or the corruption changes no sequence.
        ConfigError: there is no such corruption, modality, part, checkpoint or split.
    """
    if not parts:
        raise ConfigError("parts", parts, f"some of {', '.join(POINTS)}")
    return trace_runs(
        Patching, runs, request,
        lambda config, world, parameters, found, modality, on_set: trace_split(
            config, world, parameters, found, modality,
            parts=parts, direction=request.direction, split=request.split, sizes=request.sizes, on_set=on_set,
        ),
        on_progress,
    )  # fmt: skip
