"""The claims on two modalities: M1 to M8 and J1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from miclab.claims.evidence import Evidence, grid
from miclab.claims.paper import figure as paper
from miclab.claims.paper import figures as paper_figures
from miclab.claims.plots import panels
from miclab.claims.plots.figures import accuracy_axis, bars, curves, heatmaps, need, new_figure
from miclab.claims.plots.panels import Point, points
from miclab.claims.registry import claim
from miclab.claims.verdict import Finding
from miclab.statistics.grid import Expression, accuracy, column, highest, mean, slope, smaller

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW_CLASSES = 128
KEPT_SHARE = 0.6
UNTOUCHED = "probe.knockout.untouched"
WITHOUT = {name: f"probe.knockout.{name}" for name in ("previous-token head", "induction head")}
INTACT = "probe.ablation.untouched"
ZEROED = {
    name: f"probe.ablation.{name}"
    for name in ("items of m2 zeroed", "items of m1 zeroed", "items of m1 and labels zeroed")
}


def lead_of_k1() -> Expression:
    """Slope of ICL on log2 K1 minus that on log2 K2, fitted together."""
    return slope("icl", "log2 K1", beside="log2 K2") - slope("icl", "log2 K2", beside="log2 K1")


@claim(
    "M1",
    "After stage 1 with K1 = 8192 classes of M1, K2 = 256 classes of M2, 32 times fewer, suffice for strong "
    "multimodal in-context learning.",
    paper="ICL about 0.95 and more",
    criterion="ICL at K2 = 256, B = 4 above 0.90 with its whole 95 % interval.",
    studies="multimodal",
    figure=curves("multimodal secondary_complexity", x="K2", by="B"),
    meaning={
        "holds": "A reader can rely on the paper's asymmetry: few classes of M2 do after a stage 1 with many of M1."
    },
)
def m1(rows: Evidence) -> Iterator[Finding]:
    """ICL at K1 = 8192, K2 = 256."""
    cells = grid(rows, "multimodal", "K2", "icl")
    yield cells.condition(accuracy("icl") > 0.9, "multimodal ICL", "K2 is 256")
    yield cells.comparison(accuracy("icl"), "multimodal ICL", paper("M1", "multimodal ICL"))


@claim(
    "M2",
    "Burstiness B raises multimodal in-context learning and lowers in-weight learning.",
    paper="a heatmap",
    criterion=(
        "Least-squares slopes on log2 B (with log2 K2 beside it, over all cells; stage 1 at B = 4 throughout): ICL's "
        "above 0 and IWL's below 0, each with its whole 95 % interval."
    ),
    studies="secondary_complexity",
    figure=heatmaps((("secondary_complexity", "icl", "ICL"), ("secondary_complexity", "iwl", "IWL")), x="K2", y="B"),
)
def m2(rows: Evidence) -> Iterator[Finding]:
    """ICL and IWL against log2 B, K2 held."""
    cells = grid(rows, "secondary_complexity", "K2 B", "icl iwl")
    icl, iwl = (slope(score, "log2 B", beside="log2 K2") for score in ("icl", "iwl"))
    yield cells.condition(icl > 0, "slope of ICL per doubling of B", "the score is ICL")
    yield cells.condition(iwl < 0, "slope of IWL per doubling of B", "the score is IWL")


def _noises(rows: Evidence) -> Figure:
    figure, (place,) = new_figure(1, 4.2)
    cells = grid(rows, "secondary_noise", "eps1 eps2", "icl")
    found = points(cells, "icl")
    need(found)
    for index, (axis, name) in enumerate(((1, "eps2 raised, eps1 = 0.1"), (0, "eps1 raised, eps2 = 0.1"))):
        held = min(key[1 - axis] for key in cells.keys)
        mine = [p for p in found if p.key[1 - axis] == held]
        if mine:
            panels.curve(place, [p.key[axis] for p in mine], mine, name, index)
    panels.scale(place, "eps1", [value for key in cells.keys for value in key])
    accuracy_axis(place, xlabel="noise within classes", ylabel="multimodal ICL")
    place.legend(frameon=False, fontsize=7)
    return figure


@claim(
    "M3",
    "More noise in M2 helps multimodal in-context learning, and much more than noise in M1.",
    paper="curves",
    criterion=(
        "At K2 = 64, one noise raised and the other held at 0.1: slope of ICL on eps2 above 0, and minus the slope on "
        "eps1 (paired by seed) above 0, each with its whole 95 % interval."
    ),
    studies="secondary_noise",
    figure=_noises,
)
def m3(rows: Evidence) -> Iterator[Finding]:
    """ICL against eps2 and against eps1, the other at its lowest value."""
    cells = grid(rows, "secondary_noise", "eps1 eps2", "icl")
    by_second = slope("icl", "eps2", eps1=min(cells.axis("eps1")))
    by_first = slope("icl", "eps1", eps2=min(cells.axis("eps2")))
    yield cells.condition(by_second > 0, "slope of ICL on eps2", "eps2 is raised")
    yield cells.condition(
        by_second - by_first > 0, "slope of ICL on eps2 minus slope on eps1", "eps2 is compared with eps1"
    )
    yield cells.comparison(by_first, "slope of ICL on eps1")


@claim(
    "M4",
    "Where alpha1 is near 1, alpha2 near 1 is best.",
    paper="a heatmap",
    criterion=(
        "At the alpha1 nearest to 1: the score at the alpha2 nearest to 1 minus its highest mean at any other alpha2, "
        "above 0 with its whole 95 % interval; judged for ICL, and for the smaller of ICL and IWL."
    ),
    studies="secondary_zipf",
    figure=curves("secondary_zipf", x="alpha2", by="alpha1", scores="icl iwl"),
)
def m4(rows: Evidence) -> Iterator[Finding]:
    """At alpha1 nearest 1: the alpha2 nearest 1 against the best of the others."""
    everything = grid(rows, "secondary_zipf", "alpha1 alpha2", "icl iwl")
    cells = everything.where(alpha1=min(everything.axis("alpha1"), key=lambda alpha: abs(alpha - 1)))
    near = min(cells.axis("alpha2"), key=lambda alpha: abs(alpha - 1))
    scores = {"ICL": column("icl"), "the smaller of ICL and IWL": smaller("icl", "iwl")}
    for name, score in scores.items():
        yield cells.condition(
            mean(score, alpha2=near) - highest(score, lambda cell: cell.alpha2 != near) > 0,
            f"{name} at alpha2 nearest 1 minus its highest at any other alpha2",
            f"the score is {name}",
        )
    for name, score in scores.items():
        yield from cells.peak(score, "alpha2", name)


@claim(
    "M5",
    "A larger decoder reaches the same multimodal in-context learning with less M2 data: the reverse of U4.",
    paper="a sweep",
    criterion=(
        "ICL of the deepest decoder studied minus ICL of the shallowest above 0 with its whole 95 % interval; judged "
        "at each K2 up to 128. Larger K2 are reported apart."
    ),
    studies="secondary_size",
    figure=curves("secondary_size", x="K2", by="layers"),
)
def m5(rows: Evidence) -> Iterator[Finding]:
    """ICL of the deepest decoder minus that of the shallowest, at each small K2."""
    everything = grid(rows, "secondary_size", "layers K2", "icl")
    small, large = min(everything.axis("layers")), max(everything.axis("layers"))
    gain = mean("icl", layers=large) - mean("icl", layers=small)
    quantity = f"ICL of {large} layers minus ICL of {small}"
    for classes, cells in everything.by("K2"):
        if classes <= FEW_CLASSES:
            yield cells.condition(gain > 0, quantity, f"K2 is {classes}")
        else:
            yield cells.comparison(gain, f"{quantity} at K2 = {classes}")


@claim(
    "M6",
    "Early fusion from scratch reverses the asymmetry: not M1 but the modality next to the label leads.",
    paper="a heatmap",
    criterion=(
        "Over K1 x K2, least-squares slopes of ICL on log2 K1 and log2 K2 together. From scratch: K2's slope minus "
        "K1's above 0. After stage 1 on M1: K1's minus K2's above 0. Each with its whole 95 % interval."
    ),
    studies=("early_fusion", "diversity"),
    figure=heatmaps(
        (("early_fusion", "icl", "ICL, early fusion"), ("diversity", "icl", "ICL, after stage 1")), x="K1", y="K2"
    ),
    meaning={"holds in part": "A reader should not expect the paper's reversal: M1 leads from scratch too."},
)
def m6(rows: Evidence) -> Iterator[Finding]:
    """Slope of ICL on log2 K2 against that on log2 K1: from scratch, and after stage 1."""
    for study, lead, names, when, text in (
        ("early_fusion", -lead_of_k1(), ("K2", "K1"), "from scratch",
         "both modalities are trained from scratch (M2, next to the label, leads)"),
        ("diversity", lead_of_k1(), ("K1", "K2"), "after stage 1", "M1 is trained first (M1 leads)"),
    ):  # fmt: skip
        cells = grid(rows, study, "K1 K2", "icl")
        larger, smaller_one = names
        quantity = f"slope of ICL on log2 {larger} minus slope on log2 {smaller_one}, {when}"
        yield cells.condition(lead > 0, quantity, text)
        for name, other in (("K1", "K2"), ("K2", "K1")):
            alone = slope("icl", f"log2 {name}", beside=f"log2 {other}")
            yield cells.comparison(alone, f"{study}: slope of ICL on log2 {name}")


SHARE = "share left of the untouched decoder's accuracy"


@claim(
    "M7",
    "Multimodal in-context learning needs the previous-token head and the induction head.",
    paper=(
        "0.970 (std 0.025) falls to 0.199 (0.005) without the previous-token head, to 0.062 (0.003) without the "
        "induction head"
    ),
    criterion=(
        "ICL with the head's output zeroed over ICL untouched below 0.6 (a fall of 40 %) with its whole 95 % "
        "interval, for each of the two heads. The accuracies are reported apart, beside the paper's."
    ),
    studies="multimodal",
    figure=bars(
        "multimodal", "K2", {"untouched": UNTOUCHED, **{f"no {name}": column for name, column in WITHOUT.items()}},
        {"untouched": paper("M7", "untouched"), **{f"no {name}": paper("M7", name) for name in WITHOUT}},
    ),
)  # fmt: skip
def m7(rows: Evidence) -> Iterator[Finding]:
    """Accuracy without a head as a share of the untouched decoder's."""
    cells = grid(rows, "multimodal", "K2", [UNTOUCHED, *WITHOUT.values()])
    for name, without in WITHOUT.items():
        yield cells.condition(mean(without) / mean(UNTOUCHED) < KEPT_SHARE, SHARE, f"the {name} is cut")
    yield cells.comparison(accuracy(UNTOUCHED), "untouched", paper("M7", "untouched"))
    for name, without in WITHOUT.items():
        yield cells.comparison(accuracy(without), f"without the {name}", paper("M7", name))


@claim(
    "M8",
    "Both modalities are needed at inference, and M1 more than M2.",
    paper="0.336 with M2's items zeroed, 0.063 with M1's",
    criterion=(
        "ICL with a modality's items zeroed over ICL untouched below 0.6 (a fall of 40 %), for each modality; and "
        "accuracy without M1 minus accuracy without M2 below 0. Each with its whole 95 % interval. The accuracies, "
        "and that with M1's items and the labels zeroed, are reported apart, beside the paper's."
    ),
    studies="multimodal",
    figure=bars(
        "multimodal", "K2", {"untouched": INTACT, **ZEROED},
        {name: figure for name, figure in paper_figures("M8").items() if "labels" not in name},
    ),
    meaning={
        "holds in part": "A reader should take the paper's 0.063 for zeroed labels, not for zeroed items of M1: the "
        "modality next to the label alone is read."
    },
)  # fmt: skip
def m8(rows: Evidence) -> Iterator[Finding]:
    """Accuracy with a modality's items zeroed."""
    cells = grid(rows, "multimodal", "K2", [INTACT, *ZEROED.values()])
    second, primary, _ = ZEROED.values()
    yield cells.condition(mean(second) / mean(INTACT) < KEPT_SHARE, SHARE, "M2's items are zeroed")
    yield cells.condition(mean(primary) / mean(INTACT) < KEPT_SHARE, SHARE, "M1's items are zeroed")
    yield cells.condition(
        mean(primary) - mean(second) < 0, "accuracy without M1's items minus without M2's", "M1 is compared with M2"
    )
    for name, zeroed in ZEROED.items():
        yield cells.comparison(accuracy(zeroed), name, paper("M8", name))


def _training(rows: Evidence) -> Figure:
    figure, axes = new_figure(2)
    frame = rows.rows("joint_label")
    need(frame is not None)
    assert frame is not None
    steps = sorted(step for step in frame["step"].unique() if step > 0)
    for place, score in zip(axes, ("icl", "iwl"), strict=True):
        series: dict[object, list[tuple[int, Point]]] = {}
        for step in steps:
            for point in points(grid(rows, "joint_label", "K2", score, at=step), score):
                series.setdefault(point.key[0], []).append((step, point))
        for index, (classes, found) in enumerate(series.items()):
            panels.band(place, [s for s, _ in found], [p for _, p in found], f"K2 = {classes}", index)
        place.axhline(1 / 32, color="0.5", lw=0.8, ls=":")
        accuracy_axis(place, xlabel="training step", ylabel=score.upper())
        place.legend(frameon=False, fontsize=7)
    return figure


@claim(
    "J1",
    "The joint-label task, which needs both modalities, is learnt as well.",
    paper="a curve",
    criterion=(
        "Final ICL above 0.90 with its whole 95 % interval, judged at each K2. Chance is 1/32, and copying any label "
        "of the context about 0.5."
    ),
    studies="joint_label",
    figure=_training,
)
def j1(rows: Evidence) -> Iterator[Finding]:
    """ICL in the joint-label task."""
    for classes, cells in grid(rows, "joint_label", "K2", "icl").by("K2"):
        yield cells.condition(accuracy("icl") > 0.9, "ICL", f"K2 is {classes}")
