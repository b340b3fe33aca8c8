"""The claims on two modalities: M1 to M8 and J1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from miclab.claims.evidence import Cells, Evidence, Means
from miclab.claims.statistics import best, contrast, fit, slope, weighted
from miclab.claims.verdict import Apart, Entry, Findings

PRIMARY, SECONDARY = "modalities.m1.classes", "modalities.m2.classes"
BURSTS, LAYERS = "sequence.burstiness", "decoder.layers"
NOISE1, NOISE2 = "modalities.m1.noise", "modalities.m2.noise"
ZIPF1, ZIPF2 = "modalities.m1.zipf_exponent", "modalities.m2.zipf_exponent"
FEW_CLASSES = 128
KEPT_SHARE = 0.6
UNTOUCHED = "probe.knockout.untouched"
WITHOUT = {name: f"probe.knockout.{name}" for name in ("previous-token head", "induction head")}
INTACT = "probe.ablation.untouched"
ZEROED = {
    name: f"probe.ablation.{name}"
    for name in ("items of m2 zeroed", "items of m1 zeroed", "items of m1 and labels zeroed")
}


def first(name: str) -> Callable[[Means], np.ndarray]:
    """A quantity of the only cell."""
    return lambda means: means[name][..., 0]


def share(name: str, whole: str) -> Callable[[Means], np.ndarray]:
    """A quantity of the only cell as a share of another one."""
    return lambda means: means[name][..., 0] / means[whole][..., 0]


def judge_m1(evidence: Evidence) -> Findings:
    """ICL at K1 = 8192, K2 = 256."""
    cells = evidence.cells(("multimodal",), (SECONDARY,), ("icl",))
    condition = contrast(cells, first("icl"), "multimodal ICL", clause="K2 is 256", low=0.9)
    return Findings(
        conditions=(condition,),
        apart=(Apart(quantity="multimodal ICL", measured=condition.measured, paper=(0.95, 1.0)),),
    )


def judge_m2(evidence: Evidence) -> Findings:
    """ICL and IWL against log2 B, K2 held."""
    cells = evidence.cells(("secondary_complexity",), (SECONDARY, BURSTS), ("icl", "iwl"))
    axes = {"log2 B": np.log2(cells.column(1)), "log2 K2": np.log2(cells.column(0))}
    return Findings(
        conditions=(
            slope(cells, "icl", "log2 B", axes, rises=True, clause="the score is ICL"),
            slope(cells, "iwl", "log2 B", axes, rises=False, clause="the score is IWL"),
        )
    )


def _along(cells: Cells, axis: int, fixed: int) -> np.ndarray:
    """Weights of the cells for the slope of a quantity along one axis, the other at its lowest value."""
    others = cells.column(fixed)
    keep = others == others.min()
    weights = np.zeros(len(cells.keys))
    weights[keep] = fit({"x": cells.column(axis)[keep]}, "x")
    return weights


def judge_m3(evidence: Evidence) -> Findings:
    """ICL against eps2 and against eps1."""
    cells = evidence.cells(("secondary_noise",), (NOISE1, NOISE2), ("icl",))
    by_second, by_first = _along(cells, 1, 0), _along(cells, 0, 1)
    return Findings(
        conditions=(
            contrast(cells, lambda m: weighted(m["icl"], by_second), "slope of ICL on eps2", clause="eps2 is raised",
                     low=0.0),
            contrast(cells, lambda m: weighted(m["icl"], by_second - by_first),
                     "slope of ICL on eps2 minus slope on eps1", clause="eps2 is compared with eps1", low=0.0),
        ),
        apart=(
            Apart(quantity="slope of ICL on eps1", measured=cells.interval(lambda m: weighted(m["icl"], by_first))),
        ),
    )  # fmt: skip


def judge_m4(evidence: Evidence) -> Findings:
    """At alpha1 nearest 1: the alpha2 nearest 1 against the best of the others."""
    everything = evidence.cells(("secondary_zipf",), (ZIPF1, ZIPF2), ("icl", "iwl"))
    near = min({key[0] for key in everything.keys}, key=lambda alpha: abs(alpha - 1))
    cells = everything.where(lambda key: key[0] == near)
    alpha = cells.column(1)
    chosen = np.arange(len(alpha)) == np.abs(alpha - 1).argmin()
    scores: dict[str, Callable[[Means], np.ndarray]] = {
        "ICL": lambda m: m["icl"],
        "the smaller of ICL and IWL": lambda m: np.minimum(m["icl"], m["iwl"]),
    }
    conditions = tuple(
        contrast(cells, lambda m, s=score: s(m)[..., chosen].max(-1) - s(m)[..., ~chosen].max(-1),
                 f"{name} at alpha2 nearest 1 minus its highest at any other alpha2",
                 clause=f"the score is {name}", low=0.0)
        for name, score in scores.items()
    )  # fmt: skip
    notes = tuple(note for name, score in scores.items() for note in best(cells, score, alpha, name, "alpha2"))
    return Findings(conditions=conditions, notes=notes)


def judge_m5(evidence: Evidence) -> Findings:
    """ICL of the deepest decoder minus that of the shallowest, at each small K2."""
    everything = evidence.cells(("secondary_size",), (LAYERS, SECONDARY), ("icl",))
    depths = {key[0] for key in everything.keys}
    small, large = min(depths), max(depths)
    conditions, apart = [], []
    for classes in sorted({key[1] for key in everything.keys}):
        cells = everything.where(lambda key, k=classes: key[1] == k)
        deep = cells.column(0) == large
        shallow = cells.column(0) == small

        def gain(means: Means, deep: np.ndarray = deep, shallow: np.ndarray = shallow) -> np.ndarray:
            return means["icl"][..., deep].mean(-1) - means["icl"][..., shallow].mean(-1)

        quantity = f"ICL of {large} layers minus ICL of {small}"
        if classes <= FEW_CLASSES:
            conditions.append(contrast(cells, gain, quantity, clause=f"K2 is {classes}", low=0.0))
        else:
            apart.append(Apart(quantity=f"{quantity} at K2 = {classes}", measured=cells.interval(gain)))
    return Findings(conditions=tuple(conditions), apart=tuple(apart))


def judge_m6(evidence: Evidence) -> Findings:
    """Slope of ICL on log2 K2 against that on log2 K1: from scratch, and after stage 1."""
    conditions, apart = [], []
    for study, sign, clause in (
        ("early_fusion", 1.0, "both modalities are trained from scratch (M2, next to the label, leads)"),
        ("diversity", -1.0, "M1 is trained first (M1 leads)"),
    ):
        cells = evidence.cells((study,), (PRIMARY, SECONDARY), ("icl",))
        axes = {"log2 K1": np.log2(cells.column(0)), "log2 K2": np.log2(cells.column(1))}
        one, two = fit(axes, "log2 K1"), fit(axes, "log2 K2")
        larger, smaller = ("K2", "K1") if sign > 0 else ("K1", "K2")
        told = "from scratch" if sign > 0 else "after stage 1"
        quantity = f"slope of ICL on log2 {larger} minus slope on log2 {smaller}, {told}"
        conditions.append(
            contrast(cells, lambda m, w=sign * (two - one): weighted(m["icl"], w), quantity, clause=clause, low=0.0)
        )
        for name, weights in (("K1", one), ("K2", two)):
            apart.append(
                Apart(
                    quantity=f"{study}: slope of ICL on log2 {name}",
                    measured=cells.interval(lambda m, w=weights: weighted(m["icl"], w)),
                )
            )
    return Findings(conditions=tuple(conditions), apart=tuple(apart))


def judge_m7(evidence: Evidence) -> Findings:
    """Accuracy without a head as a share of the untouched decoder's."""
    cells = evidence.cells(("multimodal",), (SECONDARY,), [UNTOUCHED, *WITHOUT.values()])
    figures = {"previous-token head": 0.199, "induction head": 0.062}
    conditions = tuple(
        contrast(cells, share(column, UNTOUCHED), "share left of the untouched decoder's accuracy",
                 clause=f"the {name} is cut", high=KEPT_SHARE)
        for name, column in WITHOUT.items()
    )  # fmt: skip
    apart = [Apart(quantity="untouched", measured=cells.interval(first(UNTOUCHED)), paper=0.97)]
    for name, column in WITHOUT.items():
        apart.append(Apart(quantity=f"without the {name}", measured=cells.interval(first(column)), paper=figures[name]))
    return Findings(conditions=conditions, apart=tuple(apart))


def judge_m8(evidence: Evidence) -> Findings:
    """Accuracy with a modality's items zeroed."""
    cells = evidence.cells(("multimodal",), (SECONDARY,), [INTACT, *ZEROED.values()])
    second, primary, _ = ZEROED.values()
    told = "share left of the untouched decoder's accuracy"
    figures = dict(zip(ZEROED, (0.336, 0.063, 0.063), strict=True))
    return Findings(
        conditions=(
            contrast(cells, share(second, INTACT), told, clause="M2's items are zeroed", high=KEPT_SHARE),
            contrast(cells, share(primary, INTACT), told, clause="M1's items are zeroed", high=KEPT_SHARE),
            contrast(
                cells, lambda m: first(primary)(m) - first(second)(m), "accuracy without M1's items minus without M2's",
                clause="M1 is compared with M2", high=0.0,
            ),
        ),
        apart=tuple(
            Apart(quantity=name, measured=cells.interval(first(column)), paper=figures[name])
            for name, column in ZEROED.items()
        ),
    )  # fmt: skip


def judge_j1(evidence: Evidence) -> Findings:
    """ICL in the joint-label task."""
    everything = evidence.cells(("joint_label",), (SECONDARY,), ("icl",))
    return Findings(
        conditions=tuple(
            contrast(
                everything.where(lambda k, key=key: k == key), first("icl"), "ICL", clause=f"K2 is {key[0]}", low=0.9
            )
            for key in everything.keys
        )
    )


ENTRIES = (
    Entry(
        id="M1",
        statement=(
            "After stage 1 with K1 = 8192 classes of M1, K2 = 256 classes of M2, 32 times fewer, suffice for strong "
            "multimodal in-context learning."
        ),
        paper="ICL about 0.95 and more",
        criterion="ICL at K2 = 256, B = 4 above 0.90 with its whole 95 % interval.",
        studies=("multimodal",),
        judge=judge_m1,
    ),
    Entry(
        id="M2",
        statement="Burstiness B raises multimodal in-context learning and lowers in-weight learning.",
        paper="a heatmap",
        criterion=(
            "Least-squares slopes on log2 B (with log2 K2 beside it, over all cells; stage 1 at B = 4 throughout): "
            "ICL's above 0 and IWL's below 0, each with its whole 95 % interval."
        ),
        studies=("secondary_complexity",),
        judge=judge_m2,
    ),
    Entry(
        id="M3",
        statement="More noise in M2 helps multimodal in-context learning, and much more than noise in M1.",
        paper="curves",
        criterion=(
            "At K2 = 64, one noise raised and the other held at 0.1: slope of ICL on eps2 above 0, and minus the "
            "slope on eps1 (paired by seed) above 0, each with its whole 95 % interval."
        ),
        studies=("secondary_noise",),
        judge=judge_m3,
    ),
    Entry(
        id="M4",
        statement="Where alpha1 is near 1, alpha2 near 1 is best.",
        paper="a heatmap",
        criterion=(
            "At the alpha1 nearest to 1: the score at the alpha2 nearest to 1 minus its highest mean at any other "
            "alpha2, above 0 with its whole 95 % interval; judged for ICL, and for the smaller of ICL and IWL."
        ),
        studies=("secondary_zipf",),
        judge=judge_m4,
    ),
    Entry(
        id="M5",
        statement=(
            "A larger decoder reaches the same multimodal in-context learning with less M2 data: the reverse of U4."
        ),
        paper="a sweep",
        criterion=(
            "ICL of the deepest decoder studied minus ICL of the shallowest above 0 with its whole 95 % interval; "
            "judged at each K2 up to 128. Larger K2 are reported apart."
        ),
        studies=("secondary_size",),
        judge=judge_m5,
    ),
    Entry(
        id="M6",
        statement=(
            "Early fusion from scratch reverses the asymmetry: not M1 but the modality next to the label leads."
        ),
        paper="a heatmap",
        criterion=(
            "Over K1 x K2, least-squares slopes of ICL on log2 K1 and log2 K2 together. From scratch: K2's slope "
            "minus K1's above 0. After stage 1 on M1: K1's minus K2's above 0. Each with its whole 95 % interval."
        ),
        studies=("early_fusion", "diversity"),
        judge=judge_m6,
    ),
    Entry(
        id="M7",
        statement="Multimodal in-context learning needs the previous-token head and the induction head.",
        paper=(
            "0.970 (std 0.025) falls to 0.199 (0.005) without the previous-token head, to 0.062 (0.003) without the "
            "induction head"
        ),
        criterion=(
            "ICL with the head's output zeroed over ICL untouched below 0.6 (a fall of 40 %) with its whole 95 % "
            "interval, for each of the two heads. The accuracies are reported apart, beside the paper's."
        ),
        studies=("multimodal",),
        judge=judge_m7,
    ),
    Entry(
        id="M8",
        statement="Both modalities are needed at inference, and M1 more than M2.",
        paper="0.336 with M2's items zeroed, 0.063 with M1's",
        criterion=(
            "ICL with a modality's items zeroed over ICL untouched below 0.6 (a fall of 40 %), for each modality; "
            "and accuracy without M1 minus accuracy without M2 below 0. Each with its whole 95 % interval. The "
            "accuracies, and that with M1's items and the labels zeroed, are reported apart, beside the paper's."
        ),
        studies=("multimodal",),
        judge=judge_m8,
    ),
    Entry(
        id="J1",
        statement="The joint-label task, which needs both modalities, is learnt as well.",
        paper="a curve",
        criterion=(
            "Final ICL above 0.90 with its whole 95 % interval, judged at each K2. Chance is 1/32, and copying any "
            "label of the context about 0.5."
        ),
        studies=("joint_label",),
        judge=judge_j1,
    ),
)
