"""Strengths of every head, beside what they are without a circuit, and the circuit of each run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from miclab.circuits.existence import OnProgress, circuit_lines, circuits_json
from miclab.circuits.find import CircuitHeads, Head
from miclab.circuits.head_names import Named, names_table
from miclab.circuits.knockout import Interventions
from miclab.config.request import SplitSizes
from miclab.measures.baselines import Baseline, baselines
from miclab.measures.evaluate import check_seeds, head_intervals, score_split
from miclab.measures.evaluations import at_steps, baselines_json, heads_json, heads_table
from miclab.model.decoder import Decoder
from miclab.runs.run import Run
from miclab.statistics.intervals import Interval
from miclab.tables import Table, Tabled


@dataclass(frozen=True)
class Circuits(Tabled):
    """Strengths of every head over one or several runs, seeds of one experiment, and the circuit of each.

    Arguments:
        runs: names of the runs.
        steps: the checkpoint of each.
        split: whose sequences were looked at.
        measures: each strength by name, layer and head; clustered by set of novel classes, then by seed.
        heads: the circuit's heads in each run; None where it has no circuit.
        no_circuit: why each run has none; empty where it has one.
        named: what the circuit's heads of each run are called, by pattern and need.
        baselines: each strength without a circuit, by name.
    """

    runs: tuple[str, ...]
    steps: tuple[int, ...]
    split: str
    measures: dict[str, dict[Head, Interval]]
    heads: tuple[CircuitHeads | None, ...]
    no_circuit: tuple[str, ...]
    named: tuple[tuple[Named, ...], ...]
    baselines: dict[str, Baseline]

    def tables(self) -> tuple[Table, ...]:
        """A row for each measure beside its baselines, with a line for each run's circuit; then what the circuit's
        heads are called."""
        title = f"{at_steps(self.runs, self.steps)}, split {self.split}; heads are LAYER.HEAD [95 % interval]"
        lines = circuit_lines(self.runs, self.named, self.no_circuit)
        shown = heads_table(title, self.measures, lines, self.baselines)
        return (shown, names_table(self.runs, self.named)) if any(self.named) else (shown,)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        circuits = circuits_json(self.runs, self.heads, self.no_circuit, self.named)
        measures = {"measures": heads_json(self.measures), "baselines": baselines_json(self.baselines)}
        return {"steps": self.steps, "split": self.split, **circuits, **measures}


RANDOM_SEQUENCES = 100
"""Sequences of each set on which the decoder with random weights is measured, at most."""


def random_weights(work: Interventions) -> dict[str, float]:
    """Highest head of each measure in the decoder with fresh random weights, on a few of the same sequences."""
    sizes = replace(work.sizes, sequences=min(work.sizes.sequences, RANDOM_SEQUENCES))
    fresh = Decoder(work.config).initial_parameters(work.config.seed)
    found = score_split(work.config, work.world, fresh, work.split, sizes, measures=True)
    return {name: float(np.nanmax(values.mean(0))) for name, values in found.strengths.items()}


def circuits(
    runs: Sequence[Run],
    *,
    step: int | None = None,
    sizes: SplitSizes | None = None,
    split: str = "icl",
    on_progress: OnProgress | None = None,
) -> Circuits:
    """Strengths of every head beside their baselines, and the heads of the induction circuit where there is one, with
    what they are called.

    Arguments:
        runs: seeds of one experiment.
        step: the checkpoint of each; None: its last good one.
        sizes: sequences looked at.

    Raises:
        RunError: the runs differ in more than the seed, or there is none.
        ConfigError: there is no such checkpoint or split.
    """
    check_seeds(runs)
    works = []
    for done, run in enumerate(runs, 1):
        works.append(Interventions(run, step, sizes, split))
        _ = works[-1].named
        if on_progress:
            on_progress(done, run.path.name)
    measured = head_intervals([work.untouched for work in works])
    fresh = [random_weights(work) for work in works]
    means = {name: float(np.mean([one[name] for one in fresh])) for name in measured}
    return Circuits(
        tuple(run.path.name for run in runs), tuple(work.step for work in works), split, measured,
        tuple(work.circuit for work in works), tuple(work.no_circuit for work in works),
        tuple(work.named for work in works), baselines(runs[0].config, measured, means),
    )  # fmt: skip
