"""The claims on measures that go with in-context learning over runs: C1 to C3."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miclab.claims.evidence import Evidence, field_of, identity_of
from miclab.claims.statistics import MEASURE
from miclab.claims.verdict import Apart, Condition, Entry, Findings
from miclab.statistics.correlation import pearson
from miclab.statistics.intervals import RESAMPLES, Interval

UNIMODAL = {"PH(1) layer 1": 0.72, "CLA": 0.65, "Ind layer 2": 0.61, "TLA layer 1": 0.59}
MULTIMODAL = {"Ind layer 2": 0.70, "PH(1) layer 1": 0.58, "TLA layer 2": 0.56}
CLA_MULTIMODAL = 0.02
COLUMNS = {
    "PH(1) layer 1": ("previous_token_1", 1),
    "Ind layer 2": ("induction", 2),
    "TLA layer 1": ("total_label_attention", 1),
    "TLA layer 2": ("total_label_attention", 2),
}
PREDICTORS = {
    "unimodal": ("PH(1) layer 1", "CLA", "Ind layer 2"),
    "multimodal": ("Ind layer 2", "PH(1) layer 1", "TLA layer 2"),
}
STUDIES = {
    "unimodal": ("complexity", "complexity_onehot", "noise", "zipf", "decoder_size", "context", "longer_context"),
    "multimodal": (
        "multimodal",
        "secondary_complexity",
        "secondary_noise",
        "secondary_zipf",
        "secondary_size",
        "diversity",
        "joint_label",
    ),
}
FOLDS, TREES = 5, 100
LEAST_CONFIGURATIONS = 2 * FOLDS


@dataclass(frozen=True)
class Table:
    """Measures and final ICL of runs.

    Arguments:
        measures: by name [run].
        icl: final ICL [run].
        groups: index of each run's configuration, seeds aside [run].
        used: names of the planned runs that went in.
        absent: names of those without a finished row.
    """

    measures: Mapping[str, NDArray[np.floating]]
    icl: NDArray[np.floating]
    groups: NDArray[np.integer]
    used: frozenset[str]
    absent: frozenset[str]
    short: int
    """Planned configurations with fewer than two seeds."""
    labels: tuple[str, ...]
    """Study of each run."""

    @property
    def runs(self) -> int:
        """Runs that went in."""
        return len(self.icl)

    @property
    def configurations(self) -> int:
        """Different configurations, seeds aside."""
        return len(np.unique(self.groups))

    @property
    def decidable(self) -> bool:
        """Whether every planned configuration has two seeds at least, and there are enough of them."""
        return not self.short and self.configurations >= LEAST_CONFIGURATIONS

    @cached_property
    def _resamples(self) -> list[NDArray[np.integer]]:
        """Runs of resampled configurations, by index."""
        generator = np.random.default_rng(0)
        members = [np.flatnonzero(self.groups == group) for group in np.unique(self.groups)]
        count = len(members)
        return [np.concatenate([members[i] for i in generator.integers(count, size=count)]) for _ in range(RESAMPLES)]

    def interval(self, statistic: Callable[[NDArray[np.integer]], float], level: float = 0.95) -> Interval | None:
        """A statistic of runs (given by index) with its percentile bootstrap over configurations; None where the rows
        do not suffice."""
        if not self.decidable:
            return None
        draws = [statistic(chosen) for chosen in self._resamples]
        low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
        estimate = statistic(np.arange(self.runs))
        return Interval(float(estimate), float(low), float(high), "configuration", self.configurations, level)


def _strongest(row: Mapping[str, Any], name: str, layer: int) -> float | None:
    """A measure's highest value over the heads of a layer."""
    found = [
        value for column, value in row.items()
        if value is not None and (m := MEASURE.fullmatch(column)) and m["name"] == name and int(m["layer"]) == layer
    ]  # fmt: skip
    return max(found) if found else None


def _seedless(config: Mapping[str, Any]) -> str:
    """A configuration's identity, whatever its seed."""
    return identity_of({name: part for name, part in config.items() if name != "seed"})


@lru_cache(maxsize=4)
def table(evidence: Evidence, stage: str) -> Table:
    """Last rows of all runs of the studies of a stage, of decoders with two layers."""
    wanted: dict[tuple[str, int], str] = {}
    found: dict[tuple[str, int], dict[str, float]] = {}
    steps: dict[tuple[str, int], int] = {}
    studies: dict[tuple[str, int], str] = {}
    for study in STUDIES[stage]:
        wanted |= {
            (_seedless(config), seed): name
            for config, seed, name in evidence.plan(study)
            if field_of(config, "decoder.layers") == 2
        }
        frame = evidence.rows(study)
        if frame is None:
            continue
        for row in frame.filter(frame["last"]).iter_rows(named=True):
            config = evidence.config(row["config"])
            if field_of(config, "decoder.layers") != 2:
                continue
            values = {name: _strongest(row, *column) for name, column in COLUMNS.items()}
            values |= {"CLA": row["cla.icl"], "icl": row["icl"]}
            if all(value is not None for value in values.values()):
                identity = _seedless(config), row["seed"]
                # A run of several studies counts once, with the row that was trained longest.
                if row["step"] >= steps.get(identity, 0):
                    found[identity], steps[identity] = values, row["step"]  # type: ignore[assignment]
                    studies[identity] = study
    order = {text: i for i, text in enumerate(dict.fromkeys(text for text, _ in found))}
    columns = {name: np.array([v[name] for v in found.values()], dtype=float) for name in (*COLUMNS, "CLA", "icl")}
    icl = columns.pop("icl")
    groups = np.array([order[text] for text, _ in found], dtype=int)
    used = frozenset(name for identity, name in wanted.items() if identity in found)
    seeds = Counter(text for text, _ in found)
    short = sum(seeds[text] < 2 for text in {text for text, _ in wanted})
    return Table(columns, icl, groups, used, frozenset(wanted.values()) - used, short, tuple(studies[i] for i in found))


def correlation(data: Table, name: str) -> Callable[[NDArray[np.integer]], float]:
    """Correlation of a measure with final ICL, over runs given by index."""
    return lambda runs: pearson(data.measures[name][runs], data.icl[runs])


def _correlated(data: Table, names: Sequence[str]) -> tuple[Condition, ...]:
    return tuple(
        Condition(
            clause=f"the measure is {name}",
            quantity=f"correlation of {name} with final ICL over runs",
            measured=data.interval(correlation(data, name)),
            low=0.0,
            used=data.used,
            absent=data.absent,
        )
        for name in names
    )


def _beside(conditions: Sequence[Condition], figures: Mapping[str, float]) -> tuple[Apart, ...]:
    return tuple(
        Apart(quantity=condition.quantity, measured=condition.measured, paper=figure)
        for condition, figure in zip(conditions, figures.values(), strict=True)
    )


def judge_c1(evidence: Evidence) -> Findings:
    """Correlations over unimodal runs."""
    data = table(evidence, "unimodal")
    conditions = _correlated(data, tuple(UNIMODAL))
    return Findings(conditions=conditions, apart=_beside(conditions, UNIMODAL), notes=_size(data))


def judge_c2(evidence: Evidence) -> Findings:
    """Correlations over multimodal runs, and induction strength against CLA."""
    data = table(evidence, "multimodal")
    conditions = _correlated(data, tuple(MULTIMODAL))
    against = correlation(data, "Ind layer 2"), correlation(data, "CLA")
    more = Condition(
        clause="induction strength is compared with CLA",
        quantity="correlation of Ind layer 2 minus that of CLA",
        measured=data.interval(lambda runs: against[0](runs) - against[1](runs)),
        low=0.0,
        used=data.used,
        absent=data.absent,
    )
    cla = Apart(
        quantity="correlation of CLA with final ICL over runs",
        measured=data.interval(against[1]),
        paper=CLA_MULTIMODAL,
    )
    return Findings(conditions=(*conditions, more), apart=(*_beside(conditions, MULTIMODAL), cla), notes=_size(data))


def _size(data: Table) -> tuple[str, ...]:
    return (f"{data.runs} runs of {data.configurations} configurations, two-layer decoders",)


def r_squared(truth: NDArray[np.floating], guess: NDArray[np.floating]) -> float:
    """Share of the variance of `truth` that `guess` explains; NaN where there is none."""
    spread = ((truth - truth.mean()) ** 2).sum()
    return float(1 - ((truth - guess) ** 2).sum() / spread) if spread > 0 else float("nan")


@cache
def _forest(trees: int):
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(n_estimators=trees, random_state=0, n_jobs=1)


def held_out(features: NDArray[np.floating], icl: NDArray[np.floating], groups: NDArray[np.integer]) -> NDArray:
    """Predictions of a random forest for runs of configurations that it has not seen [run]: five folds, all seeds of a
    configuration in one."""
    from sklearn.model_selection import GroupKFold

    guess = np.empty_like(icl)
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=0).split(features, icl, groups):
        guess[test] = _forest(TREES).fit(features[train], icl[train]).predict(features[test])
    return guess


def judge_c3(evidence: Evidence) -> Findings:
    """R2 of a forest on three measures."""
    conditions, apart = [], []
    for stage, names in PREDICTORS.items():
        data = table(evidence, stage)
        measured = None
        quantity = f"R2 of a forest on {', '.join(names)}"
        if data.decidable:
            features = np.column_stack([data.measures[name] for name in names])
            guess = held_out(features, data.icl, data.groups)
            measured = data.interval(lambda runs, d=data, g=guess: r_squared(d.icl[runs], g[runs]))
            inside = _forest(TREES).fit(features, data.icl).predict(features)
            fitted = data.interval(lambda runs, d=data, g=inside: r_squared(d.icl[runs], g[runs]))
            apart.append(
                Apart(quantity=f"{stage}, on the runs it was fitted to: {quantity}", measured=fitted, paper=(0.91, 1.0))
            )
        conditions.append(
            Condition(clause=f"the runs are {stage}", quantity=f"{quantity}, on held-out configurations",
                      measured=measured, low=0.9, used=data.used, absent=data.absent)
        )  # fmt: skip
        apart.append(Apart(quantity=f"{stage}: {quantity}", measured=measured, paper=(0.91, 1.0)))
    return Findings(conditions=tuple(conditions), apart=tuple(apart))


ENTRIES = (
    Entry(
        id="C1",
        statement="Over unimodal runs, measures of the circuit go with in-context learning.",
        paper="PH(1) layer 1: .72, CLA .65, Ind layer 2: .61, TLA layer 1: .59",
        criterion=(
            "Pearson correlation with final ICL over the last rows of all unimodal studies (two-layer decoders; of "
            "several heads the strongest), above 0 with its whole 95 % interval (bootstrap over configurations); "
            "judged for each of the four measures. The distance to the paper's figures is reported apart."
        ),
        studies=STUDIES["unimodal"],
        judge=judge_c1,
    ),
    Entry(
        id="C2",
        statement="Over multimodal runs too, but CLA no longer: the circuit is refined, not rebuilt.",
        paper="Ind layer 2: .70, PH(1) layer 1: .58, TLA layer 2: .56, CLA .02",
        criterion=(
            "As C1, over all multimodal studies: the correlations of Ind layer 2, PH(1) layer 1 and TLA layer 2 "
            "above 0, and that of Ind layer 2 minus that of CLA above 0. Correlations alone cannot tell refined "
            "from rebuilt."
        ),
        studies=STUDIES["multimodal"],
        judge=judge_c2,
    ),
    Entry(
        id="C3",
        statement="A random forest on three measures predicts final in-context learning.",
        paper="R2 0.91 or more",
        criterion=(
            "R2 on configurations that the forest has not seen (five folds, all seeds of a configuration in one; "
            "100 trees) above 0.90 with its whole 95 % interval (bootstrap over configurations); judged for "
            "unimodal runs (PH(1) layer 1, CLA, Ind layer 2) and for multimodal ones (Ind layer 2, PH(1) layer 1, "
            "TLA layer 2). R2 on the runs that it was fitted to is reported apart."
        ),
        studies=STUDIES["unimodal"] + STUDIES["multimodal"],
        judge=judge_c3,
    ),
)
