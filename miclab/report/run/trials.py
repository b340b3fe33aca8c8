"""The interventions that a run's report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.effects import Effect
from miclab.circuits.find import CircuitHeads
from miclab.circuits.found_circuit import FoundCircuit
from miclab.circuits.head_names import PLACES, Named
from miclab.circuits.knockout import Interventions
from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.report.run.circuit import report_circuit
from miclab.runs.run import Run
from miclab.statistics.intervals import Interval

MOST_SEQUENCES, FEWEST_SEQUENCES = 200, 25
"""Sequences of each set of novel classes under an intervention: the most, and the fewest for large decoders."""
NOVEL_SETS = 8
"""Sets of novel classes under an intervention."""
WORK = 800
"""Work of the interventions (see `intervention_sizes`) that still allows `MOST_SEQUENCES`; with more the sequences
become fewer, so that the time stays bounded."""


@dataclass(frozen=True)
class Tests:
    """The causal tests of one checkpoint.

    Arguments:
        step: the checkpoint.
        sizes: sequences looked at.
        untouched: accuracy of the decoder as it is.
        knockouts: by baseline, `zero`, `mean` and `uniform`; empty for a decoder with a single head.
        ablations: of modalities and labels.
        heads: the strongest heads of the induction circuit's kinds, or None where there are not two heads.
        no_circuit: why they are no circuit; empty where they are one.
        strengths: of every head, by name [layer, head].
        notes: remarks on controls, such as why there is none.
        named: what the circuit's heads are called by pattern and need; empty where there is no circuit.
        replaced: the patterns of the two strongest heads replaced in every way.
        found: the circuit of edges, or None if there is none or it was not sought.
    """

    step: int
    sizes: SplitSizes
    untouched: Interval
    knockouts: dict[str, list[Effect]]
    ablations: list[Effect]
    heads: CircuitHeads | None
    no_circuit: str
    strengths: Mapping[str, NDArray[np.floating]]
    notes: dict[str, str]
    named: tuple[Named, ...] = ()
    replaced: tuple[Effect, ...] = ()
    found: FoundCircuit | None = None

    @property
    def true_words(self) -> frozenset[str]:
        """What the strongest heads may be called by their patterns; nothing where they are no circuit."""
        return frozenset(one.pattern for one in self.named) & frozenset(PLACES)


def intervention_sizes(config: RunConfig) -> SplitSizes:
    """How many sequences are looked at under each intervention: fewer for a large decoder or a long sequence."""
    layers, length = config.decoder.layers, config.sequence_length
    # Attention grows with the square of the length; 26 is that of the study's multimodal sequences.
    work = (layers * config.decoder.heads + 4) * layers * length**2 / 26
    sequences = min(MOST_SEQUENCES, max(FEWEST_SEQUENCES, int(MOST_SEQUENCES * WORK / work)))
    return SplitSizes(sequences=sequences, novel_sets=NOVEL_SETS)


def causal_tests(run: Run) -> Tests:
    """Interventions on the last good checkpoint.

    Raises:
        DamagedError: the world is damaged.
        RunError: no checkpoint can be read.
    """
    sizes = intervention_sizes(run.config)
    made = Interventions(run, sizes=sizes)
    baselines = ("zero", "mean", "uniform") if made.strongest else ()
    knockouts = {baseline: made.knockouts(baseline) for baseline in baselines}
    replaced = made.replaced_patterns() if made.strongest else []
    untouched = made.untouched.interval()
    notes = {name: chosen.note for name, chosen in made.controls.items() if chosen.note}
    return Tests(
        made.step, sizes, untouched, knockouts, made.ablations(), made.strongest, made.no_circuit, made.measures, notes,
        made.named, tuple(replaced), report_circuit(run, made.step) if made.circuit else None,
    )  # fmt: skip
