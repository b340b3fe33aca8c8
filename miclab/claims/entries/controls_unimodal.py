"""Controls that the paper did not run, on one modality: X1 (position code against width), X2 (optimiser), X4
(transience), X9 (U5 at its own point)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miclab.claims.evidence import Evidence, EvidenceCells, column_values, grid
from miclab.claims.plots.figures import curves_of
from miclab.claims.registry import claim
from miclab.claims.verdict import Finding
from miclab.config.axes import field_of
from miclab.statistics.grid import Predicate, accuracy, column, mean

GAP = 0.05
"""Of accuracy: the bound of U5, too."""
EARLY_STEPS = 3000
"""By then ICL has arisen at every K of the study of transience."""
Decoder = tuple[str, int, int]
"""Position code, width, hidden width of the MLP."""
EXPLANATIONS: tuple[tuple[str, Decoder, Decoder], ...] = (
    ("rotation, at equal width and parameters", ("onehot", 128, 0), ("rope", 128, 0)),
    ("the width of 128 instead of 64 under rope", ("rope", 128, 0), ("rope", 64, 0)),
    ("as many parameters as in a width of 128 under rope", ("rope", 64, 512), ("rope", 64, 0)),
    ("an absolute code beside rope (hybrid)", ("hybrid", 128, 0), ("rope", 128, 0)),
    ("leaving rope out of hybrid", ("onehot", 128, 0), ("hybrid", 128, 0)),
    ("the slip of the released rotary code", ("rope", 64, 0), ("rope_released", 64, 0)),
)
"""What could make one-hot positions better than rotary ones, and the two decoders whose difference is that."""

OPTIMISERS: dict[str, Predicate] = {
    "SGD": lambda cell: cell.optimiser == "sgd",
    "AdamW": lambda cell: cell.optimiser != "sgd",
}
"""Both optimisers of X2."""


def side_by_side(**cells: EvidenceCells) -> EvidenceCells:
    """Cells of the same keys and seeds as one, their quantities named `SIDE QUANTITY`, so that statistics of both are
    paired."""
    first = next(iter(cells.values()))
    values: dict[Any, dict[int, dict[str, NDArray]]] = {}
    for key in first.keys:
        shared = set.intersection(*(set(one.values.get(key, ())) for one in cells.values()))
        values[key] = {
            seed: {f"{side} {name}": v for side, one in cells.items() for name, v in one.values[key][seed].items()}
            for seed in shared
        }
    return replace(first, values=values)


def _decoder(decoder: Decoder) -> str:
    positions, width, hidden = decoder
    return f"{positions} in {width}" + (f" with an MLP of {hidden}" if hidden else "")


@claim(
    "X1",
    "One-hot positions lead over rotary ones (U5) by this one difference of the decoders.",
    paper="none: one-hot decoders are twice as wide in the paper, and its rotary code is not a rotation",
    criterion=(
        "Mean ICL over three data complexities (K, B) = (1024, 4), (4096, 2), (4096, 4) at equal steps, of two "
        "decoders that differ in one thing: above 0.05 with its whole 95 % interval. Six candidates: rotation "
        "(one-hot minus rope at width 128), width (rope 128 minus 64), parameters (rope 64 with an MLP of 512 "
        "minus rope 64), an absolute code beside rope (hybrid minus rope), leaving rope out (one-hot minus "
        "hybrid), the released slip (rope minus rope_released, 64). All codes are reported apart."
    ),
    studies="position_width",
)
def x1(rows: Evidence) -> Iterator[Finding]:
    """Differences of ICL between decoders that differ in one thing."""
    everything = grid(rows, "position_width", "code width hidden K B", "icl")
    for name, plus, minus in EXPLANATIONS:
        cells = everything.where(lambda cell, both=(plus, minus): cell.key[:3] in both)
        one, other = (mean("icl", lambda cell, mine=mine: cell.key[:3] == mine) for mine in (plus, minus))
        yield cells.condition(
            one - other > GAP,
            f"mean ICL, {_decoder(plus)} minus {_decoder(minus)}",
            f"the gap is put down to {name}",
            f"{_decoder(plus)} against {_decoder(minus)}",
        )
    for _, plus, minus in EXPLANATIONS:
        yield everything.where(lambda cell, both=(plus, minus): cell.key[:3] in both).leaves_first(
            lambda cell, mine=plus: cell.key[:3] == mine,
            lambda cell, mine=minus: cell.key[:3] == mine,
            f"share of seeds in which {_decoder(plus)} leaves the plateau before {_decoder(minus)}",
        )
    for decoder, cells in everything.by("code width hidden"):
        yield cells.comparison(accuracy("icl"), f"mean ICL, {_decoder(decoder)}")


def at_matched_loss(rows: Evidence) -> EvidenceCells:
    """SGD's last rows, and of AdamW's run of the same K and seed the row whose loss is nearest."""
    names = ("icl", "iwl", "loss")
    cells = grid(rows, "optimiser", "optimiser K", names)
    frame = rows.rows("optimiser")
    if frame is None:
        return cells
    values = {key: dict(cells.values.get(key, {})) for key in cells.keys}
    nearest: dict[tuple[Any, int], float] = {}
    for row in frame.filter(pl.col("loss").is_not_null()).iter_rows(named=True):
        config = rows.config(row["config"])
        key, seed = (field_of(config, "optimiser"), field_of(config, "K")), row["seed"]
        slow = values.get(("sgd", key[1]), {}).get(seed)
        if key[0] == "sgd" or slow is None or key not in values:
            continue
        far = abs(row["loss"] - float(slow["loss"].mean()))
        if far < nearest.get((key, seed), np.inf):
            nearest[key, seed] = far
            values[key][seed] = {name: np.atleast_1d(np.asarray(column_values(row, name), float)) for name in names}
    # The rows of AdamW are not those whose plateau was looked at.
    return replace(cells, values=values, leaving={})


@claim(
    "X2",
    "The paper's SGD and AdamW agree on whether in-context or in-weight learning wins.",
    paper="none: it uses SGD alone",
    criterion=(
        "(ICL - IWL) of SGD (learning rate 1e-3, after 200,000 steps) times (ICL - IWL) of AdamW, of its rows "
        "(every 250 steps up to 3,000) that with the nearest loss, above 0 with its whole 95 % interval, at each K "
        "(B = 4). The losses at which the two stand are reported apart."
    ),
    studies="optimiser",
    figure=curves_of(at_matched_loss, OPTIMISERS, x="K", scores="icl iwl"),
)
def x2(rows: Evidence) -> Iterator[Finding]:
    """ICL minus IWL of SGD and of AdamW at the same loss, by K."""
    sgd, others = OPTIMISERS.values()
    lead = column("icl") - column("iwl")
    for classes, cells in at_matched_loss(rows).by("K"):
        yield cells.condition(
            mean(lead, sgd) * mean(lead, others) > 0,
            "(ICL - IWL) under SGD times (ICL - IWL) under AdamW",
            f"K is {classes}",
        )
        for name, mine in OPTIMISERS.items():
            for score in ("icl", "iwl", "loss"):
                shown = mean(score, mine) if score == "loss" else accuracy(score, mine)
                yield cells.comparison(shown, f"{score} of {name} at K = {classes}")


@claim(
    "X4",
    "In-context learning stays when training goes on ten times longer than it took to arise.",
    paper="none: it trains to convergence",
    criterion=(
        "ICL after 30,000 steps (K = 2048) or 15,000 (4096, 8192) over ICL at step 3,000 above 0.9 with its whole "
        "95 % interval, at each K (B = 4, rope)."
    ),
    studies="transience",
)
def x4(rows: Evidence) -> Iterator[Finding]:
    """ICL at the end of the long training over ICL at `EARLY_STEPS`, by K."""
    early_steps = EARLY_STEPS if rows.profile == "quick" else 100 * EARLY_STEPS
    late = grid(rows, "transience", "K", "icl iwl")
    early = grid(rows, "transience", "K", "icl iwl", at=early_steps)
    for classes, cells in side_by_side(early=early, late=late).by("K"):
        yield cells.condition(
            mean("late icl") / mean("early icl") > 0.9,
            f"ICL at the end over ICL at step {early_steps}",
            f"K is {classes}",
        )
        for name in ("early icl", "late icl", "early iwl", "late iwl"):
            yield cells.comparison(accuracy(name), f"{name} at K = {classes}")


@claim(
    "X9",
    "At K = 4096, B = 4 one-hot positions end above rotary ones, whichever rotary code is meant.",
    paper="RoPE 10 to 20 points lower, after 300,000 steps of SGD",
    criterion=(
        "ICL(APE) - ICL(rope), and ICL(APE) - ICL(rope_released), at the end of the profile's training, above 0.05 "
        "with its whole 95 % interval."
    ),
    studies="anchors",
)
def x9(rows: Evidence) -> Iterator[Finding]:
    """ICL of one-hot positions minus that of each rotary code, at the end of the training."""
    everything = grid(rows, "anchors", "code", "icl")
    for code in ("rope", "rope_released"):
        yield everything.where(lambda cell, code=code: cell.code in ("onehot", code)).condition(
            mean("icl", code="onehot") - mean("icl", code=code) > GAP,
            f"ICL(APE) - ICL({code})",
            f"the rotary code is {code}",
        )
        yield everything.where(lambda cell, code=code: cell.code in ("onehot", code)).leaves_first(
            lambda cell: cell.code == "onehot",
            lambda cell: cell.code != "onehot",
            f"share of seeds in which APE leaves the plateau before {code}",
        )
    for code, cells in everything.by("code"):
        yield cells.comparison(accuracy("icl"), f"ICL, {code}")
