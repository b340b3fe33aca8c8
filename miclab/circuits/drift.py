"""Drift: how far training moved each matrix of a decoder, and whether it still reads and writes the same directions.

For a matrix before (A) and after (B), of which the r leading singular directions are kept:

    change    ||B - A|| / ||A||        (Frobenius norms; about 1.4 for an independent matrix of the same norm)
    angles    principal angles between the leading directions of A and B
    overlap   (mean cos^2 - r / n) / (1 - r / n)      1: the same subspace, 0: as random ones of n dimensions

r is the effective rank of A, at most half of the dimensions. The products QK and OV of a head do not depend on the
basis inside the head. They hold the gain of the norm before it (see `miclab.circuits.weights`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from miclab.circuits.checkpoint_pair import BesideSibling, CheckpointPair
from miclab.circuits.find import stored_part
from miclab.circuits.weights import effective_rank, head_matrices
from miclab.config.run import RunConfig
from miclab.model.decoder import Decoder, Parameters
from miclab.model.parts import decoder_parts
from miclab.runs.run import Run
from miclab.tables import Number, Table, table

Matrix = Float[Tensor, "row column"]
Angles = Float[Tensor, " direction"]
"""Principal angles in radians, rising."""
MLP = ("gate", "value", "out")
WRITES = ("output", "out")
"""Matrices whose columns are the residual stream; the rows of others are."""


def relative_change(before: Matrix, after: Matrix) -> float:
    """Frobenius norm of the difference over that of `before`."""
    return float((after.double() - before.double()).norm() / before.double().norm().clamp(min=1e-300))


def principal_angles(one: Matrix, other: Matrix) -> Angles:
    """Angles between the spaces of two orthonormal bases [dimension direction]."""
    cosines = torch.linalg.svdvals(one.double().T @ other.double()).clamp(max=1.0)
    return cosines.arccos()


def leading_angles(before: Matrix, after: Matrix, rank: int) -> tuple[Angles, Angles]:
    """Principal angles between the leading singular directions of two matrices, of their rows and of their columns.

    Arguments:
        rank: number of directions.
    """
    spaces = []
    for matrix in (before, after):
        left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
        spaces.append((left[:, :rank], right[:rank].T))
    (one, two), (three, four) = spaces
    return principal_angles(one, three), principal_angles(two, four)


def overlap(angles: Angles, dimensions: int) -> float:
    """How much two spaces have in common beyond chance: 1 all, 0 as much as random ones."""
    chance = len(angles) / dimensions
    return (float(angles.cos().square().mean()) - chance) / (1 - chance)


def kept_rank(matrix: Matrix) -> int:
    """Number of leading directions that are compared: the effective rank, at most half of the smaller dimension."""
    return max(1, min(round(effective_rank(matrix)), min(matrix.shape) // 2))


@dataclass(frozen=True)
class Moved:
    """How far one matrix moved.

    Arguments:
        name: of the matrix: `head 1.0 query`, `head 1.0 QK`, `mlp 0 gate`, `readout`.
        change: relative change.
        rank: directions compared.
        angles: mean principal angle in degrees, by side: `read`, `written` or, of QK, `query` and `key`.
        overlaps: likewise, overlap beyond chance.
    """

    name: str
    change: float
    rank: int
    angles: Mapping[str, float]
    overlaps: Mapping[str, float]

    @property
    def overlap(self) -> float:
        """Mean over sides."""
        return sum(self.overlaps.values()) / len(self.overlaps)

    @property
    def angle(self) -> float:
        """Mean over sides, in degrees."""
        return sum(self.angles.values()) / len(self.angles)

    def as_json(self) -> dict[str, Any]:
        """It as plain data."""
        sides = {"angles": self.angles, "overlaps": self.overlaps}
        shown = {key: {side: round(value, 6) for side, value in one.items()} for key, one in sides.items()}
        return {"matrix": self.name, "change": round(self.change, 6), "rank": self.rank, **shown}


def moved(name: str, before: Matrix, after: Matrix, sides: tuple[str, str]) -> Moved:
    """How far a matrix moved.

    Arguments:
        sides: what its rows and its columns are; empty for a side that is not the residual stream.
    """
    rank = kept_rank(before)
    found = dict(zip(sides, leading_angles(before, after, rank), strict=True))
    dimensions = dict(zip(sides, before.shape, strict=True))
    known = {side: angles for side, angles in found.items() if side}
    return Moved(
        name,
        relative_change(before, after),
        rank,
        {side: math.degrees(float(angles.mean())) for side, angles in known.items()},
        {side: overlap(angles, dimensions[side]) for side, angles in known.items()},
    )


def matrices(config: RunConfig, parameters: Parameters) -> dict[str, Matrix]:
    """Every matrix of the decoder's parts: of each head its own share, of each MLP its three, and the readout.

    Raises:
        RunError: attention is no plain softmax.
    """
    found: dict[str, Matrix] = {}
    for part, mask in decoder_parts(config, Decoder(config).shapes()).items():
        if part.startswith("head ") and part.count(" ") == 2:
            name = next(name for name in mask if not name.endswith("_bias"))
            own, value = mask[name], parameters[name]
            found[part] = value[own.any(1)] if part.endswith("output") else value[:, own.any(0)]
        elif part.startswith("mlp "):
            start = f"decoder.blocks.{part.split()[1]}.mlp"
            found |= {f"{part} {name}": parameters[f"{start}.{name}.weight"] for name in MLP}
    return found | {"readout": parameters["decoder.readout"]}


@torch.no_grad()
def drift_of(checkpoints: CheckpointPair) -> tuple[Moved, ...]:
    """How far every matrix moved between two checkpoints."""
    config = checkpoints.later.config
    before, after = (matrices(config, weights) for weights in checkpoints.weights)
    found = []
    for name, matrix in before.items():
        sides = ("", "written") if name.split()[-1] in WRITES else ("read", "")
        found.append(moved(name, matrix, after[name], sides))
    old, new = (head_matrices(config, weights) for weights in checkpoints.weights)
    for (layer, head), one in old.items():
        other = new[layer, head]
        found.append(moved(f"head {layer}.{head} QK", one.qk, other.qk, ("query", "key")))
        found.append(moved(f"head {layer}.{head} OV", one.ov, other.ov, ("read", "written")))
    return tuple(found)


@dataclass(frozen=True)
class Drift(BesideSibling[Moved]):
    """How far every matrix of a run's decoder moved; arguments: see `BesideSibling`."""

    def of(self, name: str) -> Moved:
        """One matrix."""
        return next(one for one in self.found if one.name == name)

    def tables(self) -> tuple[Table, ...]:
        """A row for each matrix."""
        beside = {one.name: one for one in self.sibling}
        rows = []
        for one in self.found:
            row: list[Any] = [one.name, Number(one.change, 3), one.rank, Number(one.angle, 1), Number(one.overlap, 3)]
            if self.sibling:
                other = beside[one.name]
                row += [Number(other.change, 3), Number(other.angle, 1), Number(other.overlap, 3)]
            rows.append(row)
        columns = ["matrix", "change", "directions", "mean angle (degrees)", "overlap"]
        columns += ["sibling: change", "sibling: angle", "sibling: overlap"] if self.sibling else []
        title = f"{self.runs[0]} at step {self.steps[0]:,} to {self.runs[1]} at step {self.steps[1]:,}"
        notes = ["Change: 1.4 for an independent matrix of the same norm. Overlap of leading directions: 0 by chance."]
        if not self.sibling:
            notes.append("Without --sibling nobody can say how far training longer on stage 1 would have moved them.")
        return (table(title, columns, rows, notes),)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return self.json_of("matrices")

    def stored(self) -> dict[str, float]:
        """Numbers under the names of stored analyses, in which layers and heads count from 1."""
        values: dict[str, float] = {}
        for one in self.found:
            values[stored_part(one.name, "change")] = one.change
            values[stored_part(one.name, "overlap")] = one.overlap
            values[stored_part(one.name, "angle")] = one.angle
        return values


def drift(run: Run, sibling: Run | None = None, *, step: int | None = None) -> Drift:
    """How far each matrix of a run's decoder moved since the run that it started from.

    Arguments:
        run: a run of stage 2, or any that started from another run's weights.
        sibling: a run of one modality that started from the same checkpoint, looked at at the same step.
        step: the run's checkpoint; None: the last good one.

    Raises:
        RunError: the run started from random weights, the sibling is none, or attention is no plain softmax.
        ConfigError: there is no such checkpoint.
    """
    return Drift.compared(run, sibling, step, drift_of)
