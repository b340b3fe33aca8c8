"""Controls that the paper did not run, on one modality: X1 (position code against width), X2 (optimiser), X4
(transience), X9 (U5 at its own point)."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miclab.claims.evidence import Cells, Evidence, Means, Statistic, column_values, field_of
from miclab.claims.statistics import contrast, weighted
from miclab.claims.verdict import Apart, Entry, Findings

POSITIONS, WIDTH, HIDDEN = "decoder.positions", "decoder.width", "decoder.mlp_hidden"
CLASSES, BURSTS, OPTIMISER = "modalities.m1.classes", "sequence.burstiness", "optimiser.name"
GAP = 0.05
"""Of accuracy: what U5 asks for, too."""
EARLY_STEPS = 3000
"""By then ICL has arisen at every K of the study of transience."""


def side_by_side(**cells: Cells) -> Cells:
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
    return Cells(first.keys, values, first.planned)


def mean_over(cells: Cells, plus: tuple[Any, ...], minus: tuple[Any, ...]) -> Statistic:
    """Mean ICL over the data complexities of one decoder minus that of another.

    Arguments:
        cells: their keys begin with position code, width and hidden width of the MLP.
        plus: the first three parts of the key of the one decoder.
        minus: of the other.
    """
    weights = np.zeros(len(cells.keys))
    for decoder, sign in ((plus, 1.0), (minus, -1.0)):
        mine = [key[:3] == decoder for key in cells.keys]
        weights[mine] += sign / max(sum(mine), 1)
    return lambda means: weighted(means["icl"], weights)


EXPLANATIONS = (
    ("rotation, at equal width and parameters", ("onehot", 128, 0), ("rope", 128, 0)),
    ("the width of 128 instead of 64 under rope", ("rope", 128, 0), ("rope", 64, 0)),
    ("as many parameters as in a width of 128 under rope", ("rope", 64, 512), ("rope", 64, 0)),
    ("an absolute code beside rope (hybrid)", ("hybrid", 128, 0), ("rope", 128, 0)),
    ("leaving rope out of hybrid", ("onehot", 128, 0), ("hybrid", 128, 0)),
    ("the slip of the released rotary code", ("rope", 64, 0), ("rope_released", 64, 0)),
)
"""What could make one-hot positions better than rotary ones, and the two decoders whose difference is that."""


def judge_x1(evidence: Evidence) -> Findings:
    """Differences of ICL between decoders that differ in one thing."""
    everything = evidence.cells(("position_width",), (POSITIONS, WIDTH, HIDDEN, CLASSES, BURSTS), ("icl",))
    conditions = []
    for name, plus, minus in EXPLANATIONS:
        cells = everything.where(lambda key, both=(plus, minus): key[:3] in both)
        conditions.append(
            contrast(cells, mean_over(cells, plus, minus), f"mean ICL, {_decoder(plus)} minus {_decoder(minus)}",
                     clause=f"the gap is put down to {name}", low=GAP)
        )  # fmt: skip
    apart = []
    for decoder in dict.fromkeys(key[:3] for key in everything.keys):
        cells = everything.where(lambda key, mine=decoder: key[:3] == mine)
        apart.append(
            Apart(quantity=f"mean ICL, {_decoder(decoder)}", measured=cells.interval(lambda m: m["icl"].mean(-1)))
        )
    return Findings(conditions=tuple(conditions), apart=tuple(apart))


def _decoder(decoder: tuple[Any, ...]) -> str:
    positions, width, hidden = decoder
    return f"{positions} in {width}" + (f" with an MLP of {hidden}" if hidden else "")


def at_matched_loss(evidence: Evidence) -> Cells:
    """SGD's last rows, and of AdamW's run of the same K and seed the row whose loss is nearest."""
    names = ("icl", "iwl", "loss")
    cells = evidence.cells(("optimiser",), (OPTIMISER, CLASSES), names)
    frame = evidence.rows("optimiser")
    if frame is None:
        return cells
    values = {key: dict(cells.values.get(key, {})) for key in cells.keys}
    nearest: dict[tuple[Any, int], float] = {}
    for row in frame.filter(pl.col("loss").is_not_null()).iter_rows(named=True):
        config = evidence.config(row["config"])
        key, seed = (field_of(config, OPTIMISER), field_of(config, CLASSES)), row["seed"]
        slow = values.get(("sgd", key[1]), {}).get(seed)
        if key[0] == "sgd" or slow is None or key not in values:
            continue
        far = abs(row["loss"] - float(slow["loss"].mean()))
        if far < nearest.get((key, seed), np.inf):
            nearest[key, seed] = far
            values[key][seed] = {name: np.atleast_1d(np.asarray(column_values(row, name), float)) for name in names}
    return Cells(cells.keys, values, cells.planned)


def judge_x2(evidence: Evidence) -> Findings:
    """ICL minus IWL of SGD and of AdamW at the same loss, by K."""
    everything = at_matched_loss(evidence)
    conditions, apart = [], []
    for classes in sorted({key[1] for key in everything.keys}):
        cells = everything.where(lambda key, k=classes: key[1] == k)
        sgd = np.array([key[0] == "sgd" for key in cells.keys])

        def agreement(means: Means, sgd: NDArray = sgd) -> NDArray:
            lead = means["icl"] - means["iwl"]
            return lead[..., sgd].mean(-1) * lead[..., ~sgd].mean(-1)

        conditions.append(
            contrast(cells, agreement, "(ICL - IWL) under SGD times (ICL - IWL) under AdamW",
                     clause=f"K is {classes}", low=0.0)
        )  # fmt: skip
        for name, mine in (("SGD", sgd), ("AdamW", ~sgd)):
            for score in ("icl", "iwl", "loss"):
                apart.append(
                    Apart(quantity=f"{score} of {name} at K = {classes}",
                          measured=cells.interval(lambda m, s=score, mine=mine: m[s][..., mine].mean(-1)))
                )  # fmt: skip
    return Findings(conditions=tuple(conditions), apart=tuple(apart))


def judge_x4(evidence: Evidence) -> Findings:
    """ICL at the end of the long training over ICL at `EARLY_STEPS`, by K."""
    early_steps = EARLY_STEPS if evidence.profile == "quick" else 100 * EARLY_STEPS
    late = evidence.cells(("transience",), (CLASSES,), ("icl", "iwl"))
    early = evidence.cells(("transience",), (CLASSES,), ("icl", "iwl"), at=early_steps)
    everything = side_by_side(early=early, late=late)
    conditions, apart = [], []
    for key in everything.keys:
        cells = everything.where(lambda k, key=key: k == key)
        conditions.append(
            contrast(cells, lambda m: m["late icl"][..., 0] / m["early icl"][..., 0],
                     f"ICL at the end over ICL at step {early_steps}", clause=f"K is {key[0]}", low=0.9)
        )  # fmt: skip
        for name in ("early icl", "late icl", "early iwl", "late iwl"):
            apart.append(
                Apart(quantity=f"{name} at K = {key[0]}", measured=cells.interval(lambda m, n=name: m[n][..., 0]))
            )
    return Findings(conditions=tuple(conditions), apart=tuple(apart))


def judge_x9(evidence: Evidence) -> Findings:
    """ICL of one-hot positions minus that of each rotary code, at the end of the training."""
    everything = evidence.cells(("anchors",), (POSITIONS,), ("icl",))
    conditions, apart = [], []
    for code in ("rope", "rope_released"):
        cells = everything.where(lambda key, code=code: key[0] in ("onehot", code))
        mine = np.array([key[0] == code for key in cells.keys])
        conditions.append(
            contrast(cells, lambda m, mine=mine: m["icl"][..., ~mine].mean(-1) - m["icl"][..., mine].mean(-1),
                     f"ICL(APE) - ICL({code})", clause=f"the rotary code is {code}", low=GAP)
        )  # fmt: skip
    for (code,) in everything.keys:
        cells = everything.where(lambda key, code=code: key[0] == code)
        apart.append(Apart(quantity=f"ICL, {code}", measured=cells.interval(lambda m: m["icl"][..., 0])))
    return Findings(conditions=tuple(conditions), apart=tuple(apart))


ENTRIES = (
    Entry(
        id="X1",
        statement="One-hot positions lead over rotary ones (U5) by this one difference of the decoders.",
        paper="none: one-hot decoders are twice as wide in the paper, and its rotary code is not a rotation",
        criterion=(
            "Mean ICL over three data complexities (K, B) = (1024, 4), (4096, 2), (4096, 4) at equal steps, of two "
            "decoders that differ in one thing: above 0.05 with its whole 95 % interval. Six candidates: rotation "
            "(one-hot minus rope at width 128), width (rope 128 minus 64), parameters (rope 64 with an MLP of 512 "
            "minus rope 64), an absolute code beside rope (hybrid minus rope), leaving rope out (one-hot minus "
            "hybrid), the released slip (rope minus rope_released, 64). All codes are reported apart."
        ),
        studies=("position_width",),
        judge=judge_x1,
    ),
    Entry(
        id="X2",
        statement="The paper's SGD and AdamW agree on whether in-context or in-weight learning wins.",
        paper="none: it uses SGD alone",
        criterion=(
            "(ICL - IWL) of SGD (learning rate 1e-3, after 200,000 steps) times (ICL - IWL) of AdamW, of its rows "
            "(every 250 steps up to 3,000) that with the nearest loss, above 0 with its whole 95 % interval, at each K "
            "(B = 4). The losses at which the two stand are reported apart."
        ),
        studies=("optimiser",),
        judge=judge_x2,
    ),
    Entry(
        id="X4",
        statement="In-context learning stays when training goes on ten times longer than it took to arise.",
        paper="none: it trains to convergence",
        criterion=(
            "ICL after 30,000 steps (K = 2048) or 15,000 (4096, 8192) over ICL at step 3,000 above 0.9 with its whole "
            "95 % interval, at each K (B = 4, rope)."
        ),
        studies=("transience",),
        judge=judge_x4,
    ),
    Entry(
        id="X9",
        statement="At K = 4096, B = 4 one-hot positions end above rotary ones, whichever rotary code is meant.",
        paper="RoPE 10 to 20 points lower, after 300,000 steps of SGD",
        criterion=(
            "ICL(APE) - ICL(rope), and ICL(APE) - ICL(rope_released), at the end of the profile's training, above 0.05 "
            "with its whole 95 % interval."
        ),
        studies=("anchors",),
        judge=judge_x9,
    ),
)
