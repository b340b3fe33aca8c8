"""The claims on measures that go with in-context learning over runs: C1 to C3."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from miclab.claims.circuit import strongest
from miclab.claims.evidence import Evidence, identity_of
from miclab.claims.paper import figure as paper
from miclab.claims.paper import figures
from miclab.claims.plots import panels
from miclab.claims.plots.figures import Drawing, accuracy_axis, need, new_figure
from miclab.claims.registry import claim
from miclab.claims.verdict import Comparison, Condition, Finding
from miclab.config.axes import field_of
from miclab.statistics.correlation import pearson
from miclab.statistics.intervals import RESAMPLES, Interval, Resampled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIM_OF = {"unimodal": "C1", "multimodal": "C2"}

COLUMNS = {
    "PH(1) layer 1": ("previous_token_1", 0),
    "Ind layer 2": ("induction", 1),
    "TLA layer 1": ("total_label_attention", 0),
    "TLA layer 2": ("total_label_attention", 1),
}
"""Measure and layer, from 0, by the paper's name, which counts layers from 1."""
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
    def _members(self) -> list[NDArray[np.integer]]:
        """Runs of each configuration, by index."""
        return [np.flatnonzero(self.groups == group) for group in np.unique(self.groups)]

    @cached_property
    def _resamples(self) -> list[NDArray[np.integer]]:
        """Runs of resampled configurations, by index."""
        generator, members = np.random.default_rng(0), self._members
        count = len(members)
        return [np.concatenate([members[i] for i in generator.integers(count, size=count)]) for _ in range(RESAMPLES)]

    def resampled(self, statistic: Callable[[NDArray[np.integer]], float]) -> Resampled | None:
        """A statistic of runs (given by index) over resampled configurations; None where the rows do not suffice."""
        if not self.decidable:
            return None
        draws = np.array([statistic(chosen) for chosen in self._resamples])
        every = range(len(self._members))
        without = [np.concatenate([self._members[i] for i in every if i != left]) for left in every]
        return Resampled(statistic(np.arange(self.runs)), draws, np.array([statistic(runs) for runs in without]))

    def interval(self, statistic: Callable[[NDArray[np.integer]], float]) -> Interval | None:
        """A statistic of runs (given by index) with its BCa bootstrap over configurations; None where the rows do not
        suffice."""
        found = self.resampled(statistic)
        return found.interval("configuration", self.configurations) if found else None

    def condition(
        self, statistic: Callable[[NDArray[np.integer]], float], low: float, quantity: str, text: str
    ) -> Condition:
        """A condition on a statistic of runs (given by index): its interval above `low`."""
        found = self.resampled(statistic)
        measured = found.interval("configuration", self.configurations) if found else None
        return Condition(
            text=text, quantity=quantity, measured=measured, low=low, used=self.used, absent=self.absent,
            p=found.p(low, np.inf) if found else None,
        )  # fmt: skip

    def features(self, names: Sequence[str]) -> NDArray[np.floating]:
        """Some measures side by side [run, measure]."""
        return np.column_stack([self.measures[name] for name in names])


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
            if field_of(config, "layers") == 2
        }
        frame = evidence.rows(study)
        if frame is None:
            continue
        for row in frame.filter(frame["last"]).iter_rows(named=True):
            config = evidence.config(row["config"])
            if field_of(config, "layers") != 2:
                continue
            values = {name: strongest(row, *column) for name, column in COLUMNS.items()}
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


def _correlations(data: Table, stage: str) -> Iterator[Finding]:
    """A condition for each measure, and below them the paper's figures."""
    names = tuple(figures("C1")) if stage == "unimodal" else PREDICTORS["multimodal"]
    found = [
        data.condition(correlation(data, name), 0.0, f"correlation of {name} with final ICL over runs",
                       f"the measure is {name}")
        for name in names
    ]  # fmt: skip
    yield from found
    for name, one in zip(names, found, strict=True):
        yield Comparison(quantity=one.quantity, measured=one.measured, paper=paper(CLAIM_OF[stage], name))


def _size(data: Table) -> str:
    return f"{data.runs} runs of {data.configurations} configurations, two-layer decoders"


def _scatters(stage: str, measures: Sequence[str]) -> Drawing:
    def draw(rows: Evidence) -> Figure:
        figure, axes = new_figure(len(measures), 2.6)
        data = table(rows, stage)
        need(data.runs)
        for place, name in zip(axes, measures, strict=True):
            interval = data.interval(correlation(data, name))
            panels.scatter(place, data.measures[name], data.icl, data.labels, name, interval)
            accuracy_axis(place, ylabel="final ICL")
        axes[0].legend(frameon=False, fontsize=6)
        return figure

    return draw


@claim(
    "C1",
    "Over unimodal runs, measures of the circuit go with in-context learning.",
    paper="PH(1) layer 1: .72, CLA .65, Ind layer 2: .61, TLA layer 1: .59",
    criterion=(
        "Pearson correlation with final ICL over the last rows of all unimodal studies (two-layer decoders; of "
        "several heads the strongest), above 0 with its whole 95 % interval (bootstrap over configurations); "
        "judged for each of the four measures. The distance to the paper's figures is reported apart."
    ),
    studies=STUDIES["unimodal"],
    figure=_scatters("unimodal", tuple(figures("C1"))),
)
def c1(rows: Evidence) -> Iterator[Finding]:
    """Correlations over unimodal runs."""
    data = table(rows, "unimodal")
    yield from _correlations(data, "unimodal")
    yield _size(data)


@claim(
    "C2",
    "Over multimodal runs too, but CLA no longer: the circuit is refined, not rebuilt.",
    paper="Ind layer 2: .70, PH(1) layer 1: .58, TLA layer 2: .56, CLA .02",
    criterion=(
        "As C1, over all multimodal studies: the correlations of Ind layer 2, PH(1) layer 1 and TLA layer 2 "
        "above 0, and that of Ind layer 2 minus that of CLA above 0. Correlations alone cannot tell refined "
        "from rebuilt."
    ),
    studies=STUDIES["multimodal"],
    figure=_scatters("multimodal", tuple(figures("C2"))),
)
def c2(rows: Evidence) -> Iterator[Finding]:
    """Correlations over multimodal runs, and induction strength against CLA."""
    data = table(rows, "multimodal")
    yield from _correlations(data, "multimodal")
    induction, cla = correlation(data, "Ind layer 2"), correlation(data, "CLA")
    yield data.condition(
        lambda runs: induction(runs) - cla(runs), 0.0, "correlation of Ind layer 2 minus that of CLA",
        "induction strength is compared with CLA",
    )  # fmt: skip
    yield Comparison(
        quantity="correlation of CLA with final ICL over runs", measured=data.interval(cla), paper=paper("C2", "CLA")
    )
    yield _size(data)


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


def _predictions(rows: Evidence) -> Figure:
    figure, axes = new_figure(2)
    drawn = 0
    for place, (stage, names) in zip(axes, PREDICTORS.items(), strict=True):
        data = table(rows, stage)
        accuracy_axis(place, xlabel="ICL predicted on held-out configurations", ylabel="final ICL")
        place.set(xlim=(-0.02, 1.02))
        place.set_title(stage, fontsize=8, loc="left")
        if not data.decidable:
            continue
        guess = held_out(data.features(names), data.icl, data.groups)
        panels.scatter(place, guess, data.icl, data.labels, "ICL predicted on held-out configurations", None)
        interval = data.interval(lambda runs, d=data, g=guess: r_squared(d.icl[runs], g[runs]))
        place.set_title(f"{stage}: R2 = {interval}", fontsize=8, loc="left")
        place.plot([0, 1], [0, 1], color="0.5", lw=0.8, ls=":")
        place.legend(frameon=False, fontsize=6)
        drawn += 1
    need(drawn)
    return figure


@claim(
    "C3",
    "A random forest on three measures predicts final in-context learning.",
    paper="R2 0.91 or more",
    criterion=(
        "R2 on configurations that the forest has not seen (five folds, all seeds of a configuration in one; "
        "100 trees) above 0.90 with its whole 95 % interval (bootstrap over configurations); judged for "
        "unimodal runs (PH(1) layer 1, CLA, Ind layer 2) and for multimodal ones (Ind layer 2, PH(1) layer 1, "
        "TLA layer 2). R2 on the runs that it was fitted to is reported apart."
    ),
    studies=STUDIES["unimodal"] + STUDIES["multimodal"],
    figure=_predictions,
)
def c3(rows: Evidence) -> Iterator[Finding]:
    """R2 of a forest on three measures."""
    for stage, names in PREDICTORS.items():
        data = table(rows, stage)
        quantity = f"R2 of a forest on {', '.join(names)}"
        guess = np.full_like(data.icl, np.nan)
        if data.decidable:
            features = data.features(names)
            guess = held_out(features, data.icl, data.groups)
            inside = _forest(TREES).fit(features, data.icl).predict(features)
            fitted = data.interval(lambda runs, d=data, g=inside: r_squared(d.icl[runs], g[runs]))
            name = f"{stage}, on the runs it was fitted to: {quantity}"
            yield Comparison(quantity=name, measured=fitted, paper=paper("C3", "R2"))
        condition = data.condition(
            lambda runs, d=data, g=guess: r_squared(d.icl[runs], g[runs]), 0.9,
            f"{quantity}, on held-out configurations", f"the runs are {stage}",
        )  # fmt: skip
        yield condition
        yield Comparison(quantity=f"{stage}: {quantity}", measured=condition.measured, paper=paper("C3", "R2"))
