"""Knocking out the top heads of a production model, against random heads of the same layers and whole layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from miclab.circuits.find import Head, head_name
from miclab.circuits.head_names import Place
from miclab.errors import ConfigError
from miclab.mllm.ablation import MeanOutputs, Means, Where, every_position, knocked_out
from miclab.mllm.attention import watchable
from miclab.mllm.batches import batches
from miclab.mllm.edits import patterns_set
from miclab.mllm.effects import Effect, answer_under
from miclab.mllm.head_names import Named, names_table
from miclab.mllm.heads import HeadTable
from miclab.mllm.loading import Production
from miclab.mllm.options import OUTPUTS, Baseline, KnockoutOptions
from miclab.mllm.passes import UNTOUCHED as UNCHANGED
from miclab.mllm.passes import Intervention
from miclab.mllm.scoring import BENCHMARK, Answers, OnProgress
from miclab.mllm.task import Task
from miclab.seeds import stream_seed
from miclab.tables import Table, Tabled, table

SHOWN = {"correct": "accuracy", "choice": "forced choice", "copied": "CLA", "log_probability": "log-probability"}
"""Measures of a table, with their titles."""
UNTOUCHED = "untouched"
REPLACED: Mapping[Baseline, str] = {
    "zero": "outputs zero", "mean": "mean outputs", "uniform": "patterns uniform",
    "previous_token": "patterns ideal previous token", "own_item": "labels on own items",
}  # fmt: skip
"""Each baseline in words."""
MOST_NAMED = 10
"""Most heads that a row of a table names. With more, only their number is shown."""


@dataclass(frozen=True)
class Condition:
    """One set of heads to knock out.

    Arguments:
        name: of the intervention; all draws of a control share it.
        heads: in the set.
        draw: number of the draw of a control; -1: no control.
    """

    name: str
    heads: tuple[Head, ...]
    draw: int = -1


def matched_draws(
    chosen: Sequence[Head], keep: Sequence[Head], heads: Sequence[Head], draws: int, seed: int
) -> tuple[list[tuple[Head, ...]], str]:
    """Random heads, as many of each layer as `chosen` has there, none of them in `keep`.

    Returns:
        The draws, and a remark if a layer has too few other heads, so that some came from other layers. There are no
        draws if there are fewer other heads than `chosen` has.
    """
    generator = np.random.default_rng(stream_seed(seed, "control", *map(head_name, chosen)))
    rest = [head for head in heads if head not in set(keep)]
    if len(rest) < len(chosen):
        return [], "too few other heads for a control"
    by_layer = {layer: [h for h in rest if h[0] == layer] for layer, _ in heads}
    found, short = [], False
    for _ in range(draws):
        drawn: list[Head] = []
        for layer, count in sorted(Counter(layer for layer, _ in chosen).items()):
            candidates = by_layer[layer]
            places = generator.permutation(len(candidates))[:count]
            drawn += [candidates[i] for i in places.tolist()]
        missing = len(chosen) - len(drawn)
        if missing:
            short = True
            candidates = [head for head in rest if head not in drawn]
            drawn += [candidates[i] for i in generator.permutation(len(candidates))[:missing].tolist()]
        found.append(tuple(sorted(drawn)))
    note = "some are of other layers: their own have too few other heads" if short else ""
    different = len(set(found))
    if different < draws:
        note = (note + "; " if note else "") + f"{different} of the {draws} draws are different"
    return found, note


def conditions(table: HeadTable, options: KnockoutOptions) -> tuple[list[Condition], dict[str, str]]:
    """All interventions, the untouched model first, and remarks on controls by name."""
    previous = table.ranked(options.previous_token)[: options.top]
    induction = table.ranked(options.induction)[: options.top]
    both = list(dict.fromkeys([*previous, *induction]))
    sets = {
        f"top {options.top} previous-token": previous,
        f"top {options.top} induction": induction,
        f"both top {options.top}": both,
    }
    found, notes = [Condition(UNTOUCHED, ())], {}
    for name, heads in sets.items():
        found.append(Condition(name, tuple(heads)))
        control = control_of(name)
        draws, note = matched_draws(heads, both, table.heads, options.draws, options.seed)
        found += [Condition(control, drawn, number) for number, drawn in enumerate(draws)]
        if note:
            notes[control] = note
    wanted = {"top": {layer for layer, _ in both}, "all": {layer for layer, _ in table.heads}, "none": set()}
    for layer in sorted(wanted[options.layers]):
        found.append(Condition(f"all heads of layer {layer}", tuple(h for h in table.heads if h[0] == layer)))
    return found, notes


def control_of(name: str) -> str:
    """Name of the control of an intervention."""
    return f"{name}: random heads"


@dataclass(frozen=True)
class Knockouts(Tabled):
    """Interventions on one model and task.

    Arguments:
        effects: the untouched model, then each intervention, each followed by its control.
        notes: remarks on controls.
        rows: one for each condition and episode, for the table on disk.
        episodes: how many were answered.
        problem: why some were not; empty if all were.
        baseline: what replaced outputs or patterns.
        called: what the top heads are called by their patterns; empty if uniform attention is not known.
    """

    effects: tuple[Effect, ...]
    notes: dict[str, str]
    rows: list[dict[str, Any]] = field(repr=False)
    episodes: int
    problem: str = ""
    baseline: Baseline = "zero"
    called: tuple[Named, ...] = ()

    @property
    def of_patterns(self) -> bool:
        """Whether patterns were set to uniform, so that it is known whether they are needed."""
        return self.baseline == "uniform"

    def tables(self) -> tuple[Table, ...]:
        """A row for each intervention, then what the top heads are called."""
        shown = dict(SHOWN)
        if BENCHMARK in self.effects[0].values:
            shown = {BENCHMARK: "benchmark's accuracy", **shown}
        columns = ["intervention", "heads", *shown.values(), "change", "beyond control",
                   *(["patterns"] if self.of_patterns else [])]  # fmt: skip
        rows = []
        for effect in self.effects:
            of = effect.heads[0]
            heads = f"{len(effect.heads)} draws" if len(effect.heads) > 1 else " ".join(map(head_name, of))
            untouched = effect.values is effect.before or not of
            values = [effect.interval(measure) for measure in shown]
            rows.append([
                effect.name, f"{len(of)} heads" if len(of) > MOST_NAMED else heads, *values,
                None if untouched else effect.change("correct"), effect.beyond_control("correct"),
                *([effect.need if effect.control else None] if self.of_patterns else []),
            ])  # fmt: skip
        notes = [f"{name}: {note}" for name, note in self.notes.items()]
        title = f"{self.episodes} episodes, {REPLACED[self.baseline]} [95 % interval]"
        made = table(title, columns, rows, notes)
        return (made, names_table(self.called)) if self.called else (made,)

    def named(self, name: str) -> Effect:
        """The effect of a name."""
        return next(effect for effect in self.effects if effect.name == name)


def _effects(requested: Sequence[Condition], found: Mapping[Condition, Answers]) -> tuple[Effect, ...]:
    before = found[requested[0]].named()
    measures = tuple(before)
    by_name: dict[str, list[Condition]] = {}
    for condition in requested:
        by_name.setdefault(condition.name, []).append(condition)
    means = {
        name: {m: np.mean([found[c].named()[m] for c in of], axis=0) for m in measures} for name, of in by_name.items()
    }
    return tuple(
        Effect(
            name,
            means[name],
            before,
            means.get(control_of(name)),
            tuple(float(found[c].correct.mean()) for c in of) if of[0].draw >= 0 else (),
            tuple(c.heads for c in of),
        )
        for name, of in by_name.items()
    )


def mean_outputs(production: Production, task: Task, batch: int, where: Where = every_position) -> Means:
    """Mean output of every head over some positions of the prompts of a task."""
    found = MeanOutputs(production, where)
    for _, encoded in batches(production.prompter(task), batch, {}, every=False):
        found.add(encoded)
    return found.means()


def knock_out(
    production: Production,
    table: HeadTable,
    task: Task,
    options: KnockoutOptions | None = None,
    *,
    ranked_on: Task | None = None,
    batch: int = 0,
    benchmark: bool = False,
    on_progress: OnProgress | None = None,
) -> Knockouts:
    """Knocks out the top heads of a table and their controls; the model answers every episode under each.

    Arguments:
        production: the model.
        table: strengths that rank its heads.
        task: the episodes to answer. They must differ from those that ranked the heads, else the choice favours itself.
        ranked_on: episodes over whose prompts the mean outputs are taken; None: `task`.
        batch: episodes at a time; 0: as many of similar length as fit (`miclab.mllm.batches`).
        benchmark: also judge answers as VL-ICL Bench does, for which the model writes text.
        on_progress: called with the number of episodes answered under all interventions.

    An episode that cannot be read is left out, and named in `problem`.

    Raises:
        OutOfMemoryError: before the first batch was answered; later the result has its `problem` set.
        TaskError: no episode can be read.
        ConfigError: patterns are to be replaced, and answers judged as the benchmark does.
    """
    options = options or KnockoutOptions()
    places: dict[str, Place] = {options.previous_token: "previous token", options.induction: "induction"}
    requested, notes = conditions(table, options)
    means = mean_outputs(production, ranked_on or task, batch) if options.baseline == "mean" else None

    of_outputs = options.baseline in OUTPUTS
    if benchmark and not of_outputs:
        raise ConfigError("judge", "benchmark", f"exact with --baseline {options.baseline}: patterns are set where an "
                                                "answer is read, not while it is written")  # fmt: skip

    def cutting(heads: tuple[Head, ...]) -> Intervention:
        if not heads:
            return UNCHANGED
        first = min(layer for layer, _ in heads)
        if of_outputs:
            return Intervention(lambda _: knocked_out(production.layers, heads, means), first, True)
        return Intervention(
            lambda encoded: patterns_set(production.model, production.layers, heads, options.baseline, encoded.readings,
                                         encoded.inputs["input_ids"].shape[1]),
            first,
        )  # fmt: skip

    # Draws of the same heads are answered once.
    sets = dict.fromkeys(condition.heads for condition in requested)
    with nullcontext() if of_outputs else watchable(production.model):
        answered = answer_under(
            production, task, {heads: cutting(heads) for heads in sets}, batch=batch, benchmark=benchmark,
            on_progress=on_progress,
        )  # fmt: skip
    found, done = {one: answered.found[one.heads] for one in requested}, len(answered.episodes)
    rows = [
        {
            "intervention": c.name,
            "draw": c.draw,
            "heads": " ".join(map(head_name, c.heads)),
            "episode": answered.episodes[number],
        }
        | {name: float(values[number]) for name, values in found[c].named().items()}
        | ({"written": found[c].written[number]} if benchmark else {})
        for c in requested
        for number in range(done)
    ]
    return Knockouts(_effects(requested, found), notes, rows, done, answered.problem, options.baseline,
                     table.called(places, options.top))  # fmt: skip
