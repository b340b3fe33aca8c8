"""The paper's figure of each claim, drawn from our rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from miclab.claims import ledger
from miclab.claims.entries import mixtures, prediction, real_data
from miclab.claims.entries.multimodal import INTACT, UNTOUCHED, WITHOUT, ZEROED
from miclab.claims.entries.positions import complexity, gap_of, sharpness_cells, two_codes
from miclab.claims.evidence import Evidence
from miclab.claims.plots import panels
from miclab.claims.plots.forest import forest, known
from miclab.claims.plots.panels import Point, axis_name, points, scale
from miclab.claims.verdict import Entry
from miclab.errors import MiclabError

K1, K2, B = "modalities.m1.classes", "modalities.m2.classes", "sequence.burstiness"
EPS1, EPS2 = "modalities.m1.noise", "modalities.m2.noise"
ALPHA1, ALPHA2 = "modalities.m1.zipf_exponent", "modalities.m2.zipf_exponent"
CODE, CONTEXT, LAYERS, HEADS = "decoder.positions", "sequence.context", "decoder.layers", "decoder.heads"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "miclab",
    "pdf.fonttype": 42,
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
Drawing = Callable[[Evidence], Figure]


class NoRowsError(MiclabError):
    """A figure of a claim whose studies have no rows yet."""


def _figure(columns: int, width: float = 3.4, height: float = 2.9):
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns))


def _need(found: object) -> None:
    if not found:
        raise NoRowsError("none of its studies has rows in this profile. `miclab reproduce` makes them.")


def _heatmaps(
    places: tuple[tuple[str, str, str], ...], x: str, y: str, alone: bool = False, common: bool = False
) -> Drawing:
    """A heatmap for each (study, score, title)."""

    def draw(evidence: Evidence) -> Figure:
        at = "common" if common else "last"
        found = [points(evidence.cells((study,), (x, y), (score,), at=at), score) for study, score, _ in places]
        _need(any(found))
        figure, axes = _figure(len(places), 1.4 + 0.62 * max(len({p.key[0] for p in cells}) for cells in found))
        for place, cells, (_, _, title) in zip(axes, found, places, strict=True):
            if cells:
                image = panels.heatmap(place, cells, title, axis_name(x, alone=alone), axis_name(y, alone=alone))
                figure.colorbar(image, ax=place, label="accuracy", shrink=0.8)
        return figure

    return draw


def _curves(
    study: str | tuple[str, ...], x: str, by: str, scores: tuple[str, ...], alone: bool = False, common: bool = False
) -> Drawing:
    """A panel for each score: curves over `x`, one for each value of `by`."""

    def draw(evidence: Evidence) -> Figure:
        figure, axes = _figure(len(scores))
        studies = (study,) if isinstance(study, str) else study
        keys = (by, x) if by else (x,)
        planned = evidence.cells(studies, keys, ()).keys
        name = axis_name(by, alone=alone).split(",")[0]
        drawn = 0
        for place, score in zip(axes, scores, strict=True):
            for index, series in enumerate(dict.fromkeys(key[:-1] for key in planned)):
                cells = evidence.cells(
                    studies, keys, (score,), at="common" if common else "last", where=lambda k, s=series: k[:-1] == s
                )
                found = points(cells, score)
                if found:
                    label = ", ".join(value if by == CODE else f"{name} = {value:g}" for value in series)
                    panels.curve(place, [p.key[-1] for p in found], found, label, index)
                    drawn += 1
            scale(place, x, [key[-1] for key in planned])
            place.set(ylim=(-0.02, 1.02), xlabel=axis_name(x, alone=alone), ylabel=score.upper())
            if by and place.lines:
                place.legend(frameon=False, fontsize=7)
        _need(drawn)
        return figure

    return draw


def _size(evidence: Evidence) -> Figure:
    figure, axes = _figure(2)
    cells = evidence.cells(("decoder_size",), (LAYERS, HEADS), ("icl", "iwl"))
    _need(cells.values)
    for place, axis, held, title in ((axes[0], 0, 1, "one head"), (axes[1], 1, 2, "two layers")):
        mine = cells.where(lambda key, a=axis, h=held: key[1 - a] == h)
        for index, score in enumerate(("icl", "iwl")):
            found = points(mine, score)
            if found:
                panels.curve(place, [p.key[axis] for p in found], found, score.upper(), index)
        scale(place, (LAYERS, HEADS)[axis], [key[axis] for key in mine.keys])
        place.set(ylim=(-0.02, 1.02), xlabel=("layers", "heads")[axis], ylabel="accuracy")
        place.set_title(title, fontsize=8, loc="left")
        place.legend(frameon=False, fontsize=7)
    return figure


def _complexity(evidence: Evidence) -> Figure:
    figure, axes = _figure(2)
    cells = two_codes(evidence, ("icl",))
    found = points(cells, "icl")
    _need(found)
    for index, code in enumerate(("onehot", "rope")):
        mine = [p for p in found if p.key[0] == code]
        if mine:
            panels.curve(
                axes[0],
                [complexity(*p.key[1:]) for p in mine],
                mine,
                {"onehot": "APE (one-hot)"}.get(code, code),
                index,
                line=False,
            )
    levels = sorted({round(complexity(*key[1:]), 6) for key in cells.keys})
    gaps = []
    for level in levels:
        mine = cells.where(lambda key, at=level: round(complexity(*key[1:]), 6) == at)
        interval = mine.over_seeds(gap_of(mine, {level}))
        if interval:
            gaps.append(Point((level,), interval.mean, interval.low, interval.high))
    if gaps:
        panels.curve(axes[1], [p.key[0] for p in gaps], gaps, "APE minus rope", 2)
    axes[1].axhline(0.05, color="0.5", lw=0.8, ls=":")
    axes[0].set(ylim=(-0.02, 1.02), ylabel=f"ICL at step {cells.step}")
    axes[1].set(ylabel="ICL(APE) - ICL(rope)")
    for place in axes:
        place.set_xscale("log", base=2)
        place.set_xticks(levels, [f"{level:.0f}" for level in levels], rotation=45, fontsize=6)
        place.set_xlabel("K sqrt(B)")
    if axes[0].lines:
        axes[0].legend(frameon=False, fontsize=7)
    return figure


def _sharpness(evidence: Evidence) -> Figure:
    figure, axes = _figure(2, 3.8)
    cells = sharpness_cells(evidence)
    _need(cells.values)
    titles = {"query": "entropy, induction head's last row", "labels": "entropy, previous-token head's label rows"}
    for place, (name, title) in zip(axes, titles.items(), strict=True):
        found = {f"{'APE' if p.key[0] == 'onehot' else p.key[0]}, K = {p.key[1]}": p for p in points(cells, name)}
        panels.bars(place, found, {}, title)
        place.set_xlim(0, 1.02)
    return figure


def _lengths(evidence: Evidence) -> Figure:
    figure, axes = _figure(1, 4.6)
    lengths = (8, 16, 32)
    cells = evidence.cells(("longer_context",), (CODE,), [f"probe.context.{n}" for n in lengths])
    _need(cells.values)
    for index, key in enumerate(k for k in cells.keys if k in cells.values):
        mine = cells.where(lambda k, key=key: k == key)
        found = [points(mine, f"probe.context.{n}")[0] for n in lengths]
        panels.curve(axes[0], lengths, found, str(key[0]), index)
    scale(axes[0], CONTEXT, lengths)
    axes[0].set(ylim=(-0.02, 1.02), xlabel="N, examples in the context (trained at 8)", ylabel="ICL")
    axes[0].legend(frameon=False, fontsize=7)
    return figure


def _noises(evidence: Evidence) -> Figure:
    figure, axes = _figure(1, 4.2)
    cells = evidence.cells(("secondary_noise",), (EPS1, EPS2), ("icl",))
    found = points(cells, "icl")
    _need(found)
    for index, (axis, name) in enumerate(((1, "eps2 raised, eps1 = 0.1"), (0, "eps1 raised, eps2 = 0.1"))):
        held = min(key[1 - axis] for key in cells.keys)
        mine = [p for p in found if p.key[1 - axis] == held]
        if mine:
            panels.curve(axes[0], [p.key[axis] for p in mine], mine, name, index)
    scale(axes[0], EPS1, [value for key in cells.keys for value in key])
    axes[0].set(ylim=(-0.02, 1.02), xlabel="noise within classes", ylabel="multimodal ICL")
    axes[0].legend(frameon=False, fontsize=7)
    return figure


def _bars(columns: dict[str, str], paper: dict[str, float]) -> Drawing:
    def draw(evidence: Evidence) -> Figure:
        figure, axes = _figure(1, 5.2, 2.4)
        cells = evidence.cells(("multimodal",), (K2,), list(columns.values()))
        _need(cells.values)
        panels.bars(
            axes[0], {name: points(cells, c)[0] for name, c in columns.items()}, paper, "accuracy on novel classes"
        )
        axes[0].set_xlim(0, 1.02)
        return figure

    return draw


def _training(evidence: Evidence) -> Figure:
    figure, axes = _figure(2)
    frame = evidence.rows("joint_label")
    _need(frame is not None)
    assert frame is not None
    steps = sorted(step for step in frame["step"].unique() if step > 0)
    for place, score in zip(axes, ("icl", "iwl"), strict=True):
        series: dict[object, list[tuple[int, Point]]] = {}
        for step in steps:
            for point in points(evidence.cells(("joint_label",), (K2,), (score,), at=step), score):
                series.setdefault(point.key[0], []).append((step, point))
        for index, (classes, found) in enumerate(series.items()):
            panels.band(place, [s for s, _ in found], [p for _, p in found], f"K2 = {classes}", index)
        place.axhline(1 / 32, color="0.5", lw=0.8, ls=":")
        place.set(ylim=(-0.02, 1.02), xlabel="training step", ylabel=score.upper())
        place.legend(frameon=False, fontsize=7)
    return figure


def _correlations(stage: str, measures: tuple[str, ...]) -> Drawing:
    def draw(evidence: Evidence) -> Figure:
        figure, axes = _figure(len(measures), 2.6)
        data = prediction.table(evidence, stage)
        _need(data.runs)
        for place, name in zip(axes, measures, strict=True):
            interval = data.interval(prediction.correlation(data, name))
            panels.scatter(place, data.measures[name], data.icl, data.labels, name, interval)
            place.set(ylim=(-0.02, 1.02), ylabel="final ICL")
        axes[0].legend(frameon=False, fontsize=6)
        return figure

    return draw


def _predictions(evidence: Evidence) -> Figure:
    figure, axes = _figure(2)
    drawn = 0
    for place, (stage, names) in zip(axes, prediction.PREDICTORS.items(), strict=True):
        data = prediction.table(evidence, stage)
        place.set(
            xlabel="ICL predicted on held-out configurations",
            ylabel="final ICL",
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
        )
        place.set_title(stage, fontsize=8, loc="left")
        if not data.decidable:
            continue
        guess = prediction.held_out(np.column_stack([data.measures[n] for n in names]), data.icl, data.groups)
        panels.scatter(place, guess, data.icl, data.labels, "ICL predicted on held-out configurations", None)
        interval = data.interval(lambda runs, d=data, g=guess: prediction.r_squared(d.icl[runs], g[runs]))
        place.set_title(f"{stage}: R2 = {interval}", fontsize=8, loc="left")
        place.plot([0, 1], [0, 1], color="0.5", lw=0.8, ls=":")
        place.legend(frameon=False, fontsize=6)
        drawn += 1
    _need(drawn)
    return figure


def _alignment(evidence: Evidence) -> Figure:
    figure, axes = _figure(2)
    drawn = 0
    for place, (name, studies) in zip(axes, real_data.GROUPS.items(), strict=True):
        cells = {study: evidence.cells((study,), real_data.CELLS, (real_data.CKA, "icl")) for study in studies}
        x, y = ([p.mean for c in cells.values() for p in points(c, what)] for what in (real_data.CKA, "icl"))
        groups = [study for study, c in cells.items() for _ in points(c, "icl")]
        interval = real_data.aligned_correlation(evidence.cells(studies, real_data.CELLS, (real_data.CKA, "icl")))
        panels.scatter(place, x, y, groups, "debiased CKA of M2 with M1", interval)
        place.set_title(f"{name}: {place.get_title(loc='left') or 'r: rows are missing'}", fontsize=8, loc="left")
        place.set(ylim=(-0.02, 1.02), ylabel="multimodal ICL")
        place.locator_params(axis="x", nbins=4)
        if groups:
            place.legend(frameon=False, fontsize=6)
        drawn += len(groups)
    _need(drawn)
    return figure


def _conditions(entry: Entry) -> Drawing:
    def draw(evidence: Evidence) -> Figure:
        findings = entry.judge(evidence)
        _need(any(known(item.measured) for item in (*findings.conditions, *findings.apart)))
        return forest(findings)

    return draw


FIGURES: dict[str, Drawing] = {
    "U1": _heatmaps((("complexity", "icl", "ICL"), ("complexity", "iwl", "IWL")), K1, B, alone=True, common=True),
    "U2": _curves("noise", EPS1, K1, ("icl", "iwl"), alone=True),
    "U3": _curves("zipf", ALPHA1, "", ("icl", "iwl"), alone=True),
    "U4": _size,
    "U5": _complexity,
    "U6": _sharpness,
    "U7": _curves("context", CONTEXT, CODE, ("icl",), common=True),
    "L1": _lengths,
    "M1": _curves(("multimodal", "secondary_complexity"), K2, B, ("icl",)),
    "M2": _heatmaps((("secondary_complexity", "icl", "ICL"), ("secondary_complexity", "iwl", "IWL")), K2, B),
    "M3": _noises,
    "M4": _curves("secondary_zipf", ALPHA2, ALPHA1, ("icl", "iwl")),
    "M5": _curves("secondary_size", K2, LAYERS, ("icl",)),
    "M6": _heatmaps((("early_fusion", "icl", "ICL, early fusion"), ("diversity", "icl", "ICL, after stage 1")), K1, K2),
    "M7": _bars({"untouched": UNTOUCHED, **{f"no {n}": c for n, c in WITHOUT.items()}},
                {"untouched": 0.970, "no previous-token head": 0.199, "no induction head": 0.062}),
    "M8": _bars({"untouched": INTACT, **ZEROED},
                {"untouched": 0.970, "items of m2 zeroed": 0.336, "items of m1 zeroed": 0.063}),
    "J1": _training,
    "C1": _correlations("unimodal", tuple(prediction.UNIMODAL)),
    "C2": _correlations("multimodal", (*prediction.MULTIMODAL, "CLA")),
    "C3": _predictions,
    **{entry.id: _conditions(entry) for entry in (*real_data.ENTRIES, *mixtures.ENTRIES, *ledger.CONTROLS)},
    "D5": _alignment,
}  # fmt: skip


def draw(evidence: Evidence, entry: Entry, folder: Path) -> list[Path]:
    """Writes a claim's figure as PDF and SVG, the same bytes from the same rows.

    Raises:
        NoRowsError: the studies of the claim have no rows.
    """
    # Axes take some of their style when they are made, some when the file is written.
    with mpl.rc_context(STYLE):
        figure = FIGURES[entry.id](evidence)
        over = "configurations" if entry.id.startswith("C") else "seeds"
        told = f"{entry.id}, profile {evidence.profile}; 95 % intervals over {over}"
        figure.suptitle(told, fontsize=8, x=0.01, ha="left")
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for kind, metadata in (("pdf", {"CreationDate": None}), ("svg", {"Date": None})):
            path = folder / f"{entry.id}-{evidence.profile}.{kind}"
            figure.savefig(path, metadata=metadata)
            written.append(path)
    return written
