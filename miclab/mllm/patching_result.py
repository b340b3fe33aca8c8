"""The result of causal tracing in a production model: tables of layers or heads by kind of position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miclab.mllm.pair_effects import PairEffects
from miclab.tables import Table, table


@dataclass(frozen=True)
class Place:
    """A patched place.

    Arguments:
        part: of a layer.
        layers: indices of the layers that are patched together.
        head: the head, or the key-value head of keys and values; None: the whole part.
        role: kind of position.
        where: layers and head in words.
    """

    part: str
    layers: tuple[int, ...]
    head: int | None
    role: str
    where: str


@dataclass(frozen=True)
class Patching(PairEffects[Place]):
    """Effects of causal tracing; arguments: see `PairEffects`."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts that were patched."""
        return tuple(dict.fromkeys(place.part for place in self.places))

    def of(self, part: str) -> tuple[list[str], list[str], dict[tuple[str, str], Place]]:
        """Rows (layers or heads), columns (kinds of position) and places of a part."""
        here = [place for place in self.places if place.part == part]
        rows, roles = (list(dict.fromkeys(names)) for names in zip(*((p.where, p.role) for p in here), strict=True))
        return rows, roles, {(place.where, place.role): place for place in here}

    def grid(self, part: str) -> tuple[list[str], list[str], NDArray[np.floating]]:
        """Rows, columns and effects [row, column] of a part's heat map; NaN where there is no effect."""
        rows, roles, places = self.of(part)
        values = np.full((len(rows), len(roles)), np.nan)
        for (where, role), place in places.items():
            found = self.effect(place)
            if found is not None:
                values[rows.index(where), roles.index(role)] = found.mean
        return rows, roles, values

    def tables(self) -> tuple[Table, ...]:
        """What the corruption changes. Then for each part a row for each layer or head, a column for each kind of
        position."""
        return self.listed(0)

    def listed(self, top: int) -> tuple[Table, ...]:
        """The same tables; of parts by head only the rows with the strongest effects.

        Arguments:
            top: number of heads; 0: all.
        """
        found = [self.change_table()]
        for part in self.parts:
            rows, roles, places = self.of(part)
            by_head = next(iter(places.values())).head is not None
            shown: Sequence[str] = rows
            if by_head and 0 < top < len(rows):
                values = np.abs(np.nan_to_num(self.grid(part)[2])).max(1)
                shown = [rows[i] for i in np.argsort(-values, kind="stable")[:top].tolist()]
            cells = [[where, *(self.effect(places[where, role]) if (where, role) in places else None
                               for role in roles)] for where in shown]  # fmt: skip
            notes = [f"The {len(shown)} of {len(rows)} heads with the strongest effect."] * (len(shown) < len(rows))
            name = "layers" if not by_head else "key-value head" if part in ("key", "value") else "head"
            found.append(table(f"{part}: {self.heading}", [name, *roles], cells, notes))
        return tuple(found)

    def as_json(self) -> dict[str, Any]:
        """Everything but the episodes as plain data."""
        return self.head_json() | {
            "effects": [
                {"part": p.part, "where": p.where, "layers": list(p.layers), "head": p.head, "role": p.role}
                | self.place_json(p)
                for p in self.places
            ]
        }  # fmt: skip


def patch_rows(found: Patching) -> list[dict[str, Any]]:
    """A row for each place and episode that has such a position."""
    return found.rows(
        lambda p: {"part": p.part, "where": p.where, "head": -1 if p.head is None else p.head, "role": p.role}
    )
