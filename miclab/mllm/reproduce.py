"""The paper's three claims on production models, each as one protocol.

P1  heads on 16 episodes, 2-shot; their rankings beside the paper's; the strongest knocked out on 50 other episodes
P2  LoRA; strengths of the strongest heads, accuracy and CLA at a schedule
P3  accuracy and strength of the strongest heads of several sizes or checkpoints, and their correlation
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr

from miclab.circuits.find import head_name
from miclab.errors import MiclabError
from miclab.mllm.compare import Overlap, Ranking, overlap, published
from miclab.mllm.errors import ModelError, TaskError
from miclab.mllm.heads import HeadTable, measure_heads
from miclab.mllm.loading import Production, load_model
from miclab.mllm.options import INDUCTION, PREVIOUS_TOKEN, LoadOptions
from miclab.mllm.scale import Size, evaluate_model
from miclab.mllm.scoring import BENCHMARK, OnProgress
from miclab.mllm.task import Task, View
from miclab.tables import Number, Table, Tabled, table

RANKING = (PREVIOUS_TOKEN, INDUCTION)
LEAST_MODELS = 3
"""Fewest points for a correlation."""


def divided(task: Task, ranked: int, answered: int) -> tuple[Task, Task]:
    """The first episodes whose answer is in the context, to rank heads, and those behind them, to be answered.

    Arguments:
        answered: how many; 0: all the others.

    Raises:
        TaskError: there are too few.
    """
    if not 1 <= ranked < len(task.episodes):
        raise TaskError(f"{task.name} has {len(task.episodes)} episodes; {ranked} are to rank heads, and others to be "
                        "answered. Lower --examples.")  # fmt: skip
    return task.part(0, ranked), task.part(ranked, ranked + answered if answered else None)


def ranking(heads: HeadTable, measure: str) -> Ranking:
    """The heads of a table by a measure, with their strengths."""
    means = dict(zip(heads.heads, heads.mean(measure).tolist(), strict=True))
    ordered = tuple(heads.ranked(measure))
    return Ranking(heads.model, measure, ordered, len(ordered), tuple(means[head] for head in ordered))


@dataclass(frozen=True)
class Rankings(Tabled):
    """Rankings of a model's heads beside those of others.

    Arguments:
        model: its name.
        mine: its ranking by measure.
        others: rankings of other models by name and measure.
        overlaps: of the model's top heads with those of each other model, by its name.
        notes: why there is no overlap with some.
        top, among: numbers of top heads: of the model, and of the others among which they are sought.
    """

    model: str
    mine: Mapping[str, Ranking]
    others: Mapping[str, Mapping[str, Ranking]]
    overlaps: Mapping[str, tuple[Overlap, ...]]
    notes: tuple[str, ...]
    top: int
    among: int

    def tables(self) -> tuple[Table, ...]:
        """The rankings, and the overlaps."""
        rows = []
        for name, by in {self.model: self.mine, **self.others}.items():
            for measure in RANKING:
                heads = " ".join(head_name(head) for head in by[measure].heads[: self.among])
                rows.append([name, measure.replace("_", " "), heads])
        ranked = table(f"the {self.among} strongest heads, the strongest first", ["model", "measure", "heads"], rows)
        rows = [
            [name, one.measure.replace("_", " "), f"{len(one.shared)} of {one.top}",
             " ".join(map(head_name, one.shared)), Number(one.expected, 2), Number(one.chance, 2, "g")]
            for name, of in self.overlaps.items() for one in of
        ]  # fmt: skip
        columns = ["among those of", "measure", "shared", "heads", "chance shares", "p"]
        title = f"top {self.top} heads of {self.model} among the top {self.among} of others"
        return ranked, table(title, columns, rows, self.notes)


def papers_knockouts(top: int) -> dict[str, float]:
    """Accuracy of Qwen2.5-VL-3B on Open-MI, 2-shot, 50 episodes, with its top 5 heads knocked out. Keys are the names
    of interventions on `top` heads. Chance is 0.50."""
    return {"untouched": 0.74, f"top {top} previous-token": 0.65, f"top {top} induction": 0.58, f"both top {top}": 0.56}


def beside(heads: HeadTable, backbone: HeadTable | None = None, top: int = 5, among: int = 10) -> Rankings:
    """The rankings of a model beside the paper's, and beside those of its text backbone.

    Arguments:
        backbone: of the model's text backbone on the same episodes in words; None: there is none.
        top, among: the number of the model's top heads that are sought, and of the others' among which.
    """
    mine = {measure: ranking(heads, measure) for measure in RANKING}
    total = len(heads.heads)
    top, among = min(top, total), min(among, total)
    others: dict[str, Mapping[str, Ranking]] = {}
    if backbone is not None:
        others[backbone.model] = {measure: ranking(backbone, measure) for measure in RANKING}
    notes = []
    for name, by in published().items():
        if by[INDUCTION].total == total:
            others[name] = by
        else:
            notes.append(f"{name} has {by[INDUCTION].total} heads and {heads.model} {total}: they do not correspond")
    found = {}
    for name, by in others.items():
        try:
            found[name] = tuple(overlap(mine[measure], by[measure], top, among) for measure in RANKING)
        except ModelError as error:
            notes.append(str(error).rstrip("."))
    return Rankings(heads.model, mine, others, found, tuple(notes), top, among)


@dataclass(frozen=True)
class Point:
    """One model of P3.

    Arguments:
        size: its answers.
        strengths: by measure, the mean strength of its `top` strongest heads.
        top: the heads, by measure.
    """

    size: Size
    strengths: Mapping[str, float]
    top: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Points(Tabled):
    """Strength of heads beside in-context learning over models.

    Arguments:
        points: the models in their order.
        problem: why there are fewer than were requested, or which episodes were left out.
    """

    points: tuple[Point, ...]
    problem: str = ""

    def values(self, name: str) -> np.ndarray:
        """A measure of heads or of answers, one a model."""
        return np.array([
            one.strengths[name] if name in one.strengths else float(one.size.values[name].mean()) for one in self.points
        ])  # fmt: skip

    def correlation(self, strength: str, answered: str) -> tuple[float, float, float, float] | None:
        """Pearson's r and Spearman's rho over models, each with its two-sided p. None if there are fewer than three
        models, or one variable is constant."""
        x, y = self.values(strength), self.values(answered)
        if len(x) < LEAST_MODELS or np.ptp(x) == 0 or np.ptp(y) == 0:
            return None
        r, p = tuple(pearsonr(x, y))
        rho, q = tuple(spearmanr(x, y))
        return float(r), float(p), float(rho), float(q)

    @property
    def measures(self) -> dict[str, str]:
        """The measures of answers that are shown, with what to call them."""
        named = {BENCHMARK: "benchmark's accuracy", "correct": "accuracy", "choice": "forced choice", "copied": "CLA"}
        return {name: words for name, words in named.items() if name in self.points[0].size.values}

    def tables(self) -> tuple[Table, ...]:
        """A row for each model, and the correlations."""
        shown = self.measures
        strengths = list(self.points[0].strengths)
        rows = [
            [p.size.model, p.size.parameters, f"{p.size.layers} x {p.size.heads}",
             *(p.size.interval(name) for name in shown),
             *(Number(p.strengths[name], 3) for name in strengths), " ".join(p.top[INDUCTION])]
            for p in self.points
        ]  # fmt: skip
        columns = ["model", "parameters", "layers x heads", *shown.values(),
                   *(f"{name.replace('_', ' ')}, top heads" for name in strengths), "induction heads"]  # fmt: skip
        made = table(f"{len(self.points)} models [95 % interval over episodes]", columns, rows)
        rows, missing = [], []
        for strength in strengths:
            for answered, words in shown.items():
                found = self.correlation(strength, answered)
                if found is None:
                    missing.append(f"{strength.replace('_', ' ')} and {words}")
                    continue
                r, p, rho, q = found
                rows.append([strength.replace("_", " "), words, Number(r, 2), Number(p, 2, "g"), Number(rho, 2),
                             Number(q, 2, "g")])  # fmt: skip
        why = [f"no correlation of {', '.join(missing)}: it takes {LEAST_MODELS} models, and both have to vary"]
        columns = ["strength", "answers", "Pearson's r", "p", "Spearman's rho", "p of rho"]
        over = table(f"correlation over {len(self.points)} models", columns, rows, why if missing else [])
        return made, over


def strength_and_accuracy(
    models: Sequence[str],
    tasks: Mapping[View, Task],
    options: LoadOptions,
    *,
    ranked: int = 16,
    answered: int = 0,
    top: int = 5,
    batch: int = 0,
    on_progress: OnProgress | None = None,
) -> Points:
    """P3: every model's heads on the first episodes and its answers to the others, one model in memory at a time.

    Arguments:
        models: names, each also as NAME@REVISION for a checkpoint of training.
        tasks: the same episodes by view; each model gets those that it can see.
        options: how they are loaded.
        ranked, answered: episodes that rank heads, and others that are answered; 0: all of them.
        top: heads whose mean strength is taken.
        batch: episodes at a time; 0: as many of similar length as fit (`miclab.mllm.batches`).
        on_progress: called with the number of models done.

    Raises:
        MiclabError: the first model cannot be measured; later the result has its `problem` set.
    """
    found: list[Point] = []
    problems: list[str] = []
    for name in models:
        try:
            production = load_model(name, options)
            found.append(_point(production, tasks, ranked, answered, top, batch))
        except MiclabError as error:
            if not found:
                raise
            problems.append(f"{name}: {error}")
            break
        if found[-1].size.problem:
            problems.append(f"{name}: {found[-1].size.problem}")
        if on_progress:
            on_progress(len(found), name)
        del production
    return Points(tuple(found), "; ".join(problems))


def _point(
    production: Production, tasks: Mapping[View, Task], ranked: int, answered: int, top: int, batch: int
) -> Point:
    task = tasks.get(production.view)
    if task is None:
        raise ModelError(f"{production.name} reads {production.view} alone, and the task has none.")
    first, rest = divided(task, ranked, answered)
    heads = measure_heads(production, first, batch).whole()
    size = evaluate_model(production, rest, batch, benchmark=True)
    by: dict[str, Any] = {measure: ranking(heads, measure) for measure in RANKING}
    problem = "; ".join(text for text in (heads.why_partial, size.problem) if text)
    return Point(
        replace(size, problem=problem),
        {measure: float(np.mean(of.strengths[:top])) for measure, of in by.items()},
        {measure: tuple(map(head_name, of.heads[:top])) for measure, of in by.items()},
    )
