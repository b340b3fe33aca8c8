"""The plain numbers of a run's report. Data that cannot be read or computed are named there, and the rest is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from miclab.circuits.diagnose import Diagnosis, diagnose
from miclab.circuits.existence import why_no_circuit
from miclab.circuits.find import CircuitHeads, circuit_heads
from miclab.circuits.head_names import true_words
from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import MiclabError, RunError
from miclab.measures.baselines import baselines
from miclab.measures.evaluate import evaluate, head_intervals, score_split
from miclab.measures.evaluations import heads_table
from miclab.model.decoder import Decoder
from miclab.report.run.explorer import MOST_BYTES, Explorer, explorer_of
from miclab.report.run.trials import Tests, causal_tests, intervention_sizes
from miclab.runs.run import Run
from miclab.statistics.intervals import Interval, clustered_interval
from miclab.tables import Table
from miclab.worlds.oracles import oracle_scores
from miclab.worlds.sequences import config_roles
from miclab.worlds.splits import split_batches
from miclab.worlds.world import World, world_from_tensors

CURVE_ROWS = 400
"""Most metric rows in a curve; rows in between are left out evenly."""
MEASURE_NUMBERS = 60_000
"""Most numbers of all measures of a run; rows in between are left out evenly."""
ATTENTION_NUMBERS = 160_000
"""Most numbers of a run's attention maps; checkpoints in between are left out evenly."""
EXAMPLES = 4
"""Single sequences whose attention is shown; large decoders show fewer, down to one."""
FEWEST_CHECKPOINTS = 12
"""Checkpoints that a large decoder keeps by showing fewer sequences."""
MAP_SIZES = SplitSizes(sequences=32, novel_sets=8)
"""Sequences whose attention is averaged."""
T = TypeVar("T")


@dataclass(frozen=True)
class Formed:
    """Whether there is an induction circuit at a checkpoint.

    Arguments:
        heads: the strongest heads of its two kinds; None for a decoder with a single head.
        no_circuit: why they are none; empty where they are one.
        true_words: what they may be called by their patterns (see `miclab.circuits.head_names.true_words`).
    """

    heads: CircuitHeads | None
    no_circuit: str
    true_words: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Attention:
    """Attention on the `icl` split at several checkpoints.

    Arguments:
        steps: the checkpoints.
        names: name of every position by its role.
        mean: mean over `sequences` sequences [checkpoint, layer, head, query position, key position].
        examples: the same of single sequences, one of each set of novel classes [sequence, checkpoint, layer, head,
            query position, key position].
        labels: labels of the context of each single sequence.
        targets: label of the query of each.
        sequences: how many the mean is over.
        formed: the circuit at each checkpoint, judged on these sequences.
    """

    steps: list[int]
    names: list[str]
    mean: NDArray[np.floating]
    examples: NDArray[np.floating]
    labels: list[list[int]]
    targets: list[int]
    sequences: int
    formed: list[Formed]


@dataclass(frozen=True)
class Collected:
    """Everything in the report about a run.

    Arguments:
        rows: metric rows, of which at most `CURVE_ROWS` are kept.
        rows_in_all: how many the run has.
        icl_intervals: interval of `icl` in each row, clustered by set of novel classes.
        attention: maps, or None if no checkpoint can be read.
        tests: interventions, or None if they are impossible.
        oracles: baselines on `icl` without a network, on the sequences of the interventions, or None if those are
            impossible.
        signs: signs of failure, or None if they cannot be sought.
        parameters: number of weights.
        explorer: what the page needs to run the decoder itself.
        requested: requested measures, on the sequences of the interventions; None: none was requested.
        problems: messages on data that could not be read or computed, each once.
    """

    run: Run
    rows: list[dict[str, Any]]
    rows_in_all: int
    icl_intervals: list[Interval | None]
    attention: Attention | None
    tests: Tests | None
    oracles: dict[str, float] | None
    signs: Diagnosis | None
    parameters: int
    explorer: Explorer
    requested: Table | None = None
    problems: list[str] = field(default_factory=list)


def evenly(values: Sequence[T], count: int) -> list[T]:
    """At most `count` of `values`, evenly spaced, with the first and the last."""
    if len(values) <= count:
        return list(values)
    places = np.unique(np.linspace(0, len(values) - 1, max(count, 1)).round().astype(int))
    # A single place is the last, since the state at the end of training matters most.
    return [values[int(i)] for i in places] if count > 1 else [values[-1]]


def rows_for_measures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows whose measures fit into `MEASURE_NUMBERS`."""
    numbers = max((sum(np.size(v) for v in row["measures"].values()) for row in rows), default=0)
    return evenly(rows, max(2, MEASURE_NUMBERS // max(numbers, 1)))


def _icl_interval(row: Mapping[str, Any]) -> Interval | None:
    values = [v for v in row.get("icl_sets", []) if v is not None]
    return clustered_interval([np.array(values)[:, None]]) if len(values) > 1 else None


def readable_checkpoints(run: Run) -> list[int]:
    """Steps of the checkpoints whose bytes are good; the others are named in `run.warnings`."""
    good = []
    for step in run.checkpoints:
        try:
            run.parameters(step)
        except MiclabError as error:
            run.warnings.append(str(error))
        else:
            good.append(step)
    return good


@torch.no_grad()
def attention_maps(run: Run, sizes: SplitSizes = MAP_SIZES) -> Attention:
    """Attention of every layer and head at the run's good checkpoints, on sequences of novel classes.

    Raises:
        DamagedError: the world is damaged.
        RunError: no checkpoint can be read, or the decoder has no attention patterns.
    """
    config, length = run.config, run.config.sequence_length
    world = world_from_tensors(config, run.world_tensors())
    decoder, layers = Decoder(config), config.decoder.layers
    if not decoder.gives_patterns:
        raise RunError(f"The attention {config.decoder.attention.name} has no pattern.")
    batches = [batch for _, batch in split_batches(config, world, "icl", sizes)]
    sequences = sum(len(batch) for batch in batches)
    patterns = tuple(f"blocks.{i}.attention.pattern" for i in range(layers))
    # The lower triangle, for the mean and for each example.
    numbers = layers * config.decoder.heads * length * (length + 1) // 2
    count = min(EXAMPLES, len(batches), max(1, ATTENTION_NUMBERS // (numbers * FEWEST_CHECKPOINTS) - 1))
    steps = evenly(readable_checkpoints(run), max(1, ATTENTION_NUMBERS // (numbers * (1 + count))))
    if not steps:
        raise RunError("No checkpoint of the run can be read.")
    shape = (len(steps), layers, config.decoder.heads, length, length)
    mean, examples, formed = torch.zeros(shape), torch.zeros(count, *shape), []
    for place, step in enumerate(steps):
        _, parameters = run.parameters(step)
        for index, batch in enumerate(batches):
            found = decoder.trace(parameters, batch, capture=patterns).activations
            for layer, name in enumerate(patterns):
                mean[place, layer] += found[name].sum(0) / sequences
                if index < count:
                    examples[index, place, layer] = found[name][0]
        formed.append(_formed(config, world, parameters, sizes))
    names = config_roles(config).axis_names()
    labels = [batch.labels[0].tolist() for batch in batches[:count]]
    targets = [int(batch.target[0]) for batch in batches[:count]]
    return Attention(steps, names, mean.numpy(), examples.numpy(), labels, targets, sequences, formed)


def _formed(config: RunConfig, world: World, parameters: dict[str, torch.Tensor], sizes: SplitSizes) -> Formed:
    # These alone name the circuit. All measures, at each checkpoint, would take twice as long.
    named = ("induction_total", "label_to_item", "entropy", "label_row_entropy")
    scores = score_split(config, world, parameters, "icl", sizes, measures=named, oracles=True)
    many = config.decoder.layers * config.decoder.heads > 1
    heads = circuit_heads({name: value.mean(0) for name, value in scores.strengths.items()}) if many else None
    reason = why_no_circuit(heads, scores)
    words = frozenset() if reason or heads is None else true_words(config, scores.strengths, heads)
    return Formed(heads, reason, words)


def measured_oracles(run: Run) -> dict[str, float]:
    """Baselines on `icl` without a network; no checkpoint is needed.

    Raises:
        DamagedError: the world is damaged.
    """
    world = world_from_tensors(run.config, run.world_tensors())
    found: dict[str, list[float]] = {}
    for _, batch in split_batches(run.config, world, "icl", intervention_sizes(run.config)):
        for name, scores in oracle_scores(run.config, world, batch).items():
            found.setdefault(name, []).append(float(scores.mean()))
    return {name: float(np.mean(values)) for name, values in found.items()}


def requested_measures(run: Run, names: Sequence[str], sizes: SplitSizes) -> Table:
    """Measures of every head at the last good checkpoint, on novel classes.

    Raises:
        ConfigError: there is no such measure.
        RunError: no checkpoint can be read.
    """
    scores = evaluate(run, splits=("icl",), sizes=sizes, measures=names).scores["icl"]
    left_out = [f"The measure {name} is left out, since {reason}." for name, reason in scores.left_out.items()]
    return heads_table("", head_intervals([scores]), left_out, baselines(run.config, scores.strengths))


def collect(run: Run, measures: Sequence[str] = (), room: int = MOST_BYTES) -> Collected:
    """Reads and computes a run's section of the report. Damage to rows, checkpoints or a parent run raises nothing and
    is named in `problems`.

    Arguments:
        measures: measures of every head to take of the last good checkpoint as well, by name.
        room: most bytes of the explorer's numbers.
    """
    problems: list[str] = []

    def attempt(what: str, make: Callable[[Run], T]) -> T | None:
        try:
            return make(run)
        except MiclabError as error:
            problems.append(f"{what}: {error}")
            return None

    rows = run.rows()
    kept = evenly(rows, CURVE_ROWS)
    attention = attempt("Attention maps could not be made", attention_maps)
    tests = attempt("Interventions could not be made", causal_tests)
    oracles = attempt("Oracles could not be measured", measured_oracles)
    sizes = intervention_sizes(run.config)
    signs = attempt("Signs of failure were not looked for", lambda r: diagnose(r, sizes=sizes))
    explorer = (
        Explorer("No attention map could be made, and its frame holds the explorer's.")
        if attention is None
        else explorer_of(run, room)
    )
    requested = None
    if measures:
        requested = attempt("Measures could not be taken", lambda r: requested_measures(r, measures, sizes))
    # A file is read several times, and each reading warns: the first warning of each file is kept.
    once = list({warning.split(" is damaged")[0]: warning.strip() for warning in reversed(run.warnings)}.values())
    run.warnings[:] = once[::-1]
    return Collected(
        run,
        kept,
        len(rows),
        [_icl_interval(row) for row in kept],
        attention,
        tests,
        oracles,
        signs,
        Decoder(run.config).parameter_count(),
        explorer,
        requested,
        [*run.warnings, *problems],
    )


def alignment_values(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any] | None]]:
    """The alignment of each secondary modality in the rows; None where a row lacks it."""
    names = dict.fromkeys(name for row in rows for name in row.get("alignment", {}))
    return {name: [row.get("alignment", {}).get(name) for row in rows] for name in names}


def split_values(rows: list[dict[str, Any]], split: str) -> list[float | None]:
    """Accuracy on a split at every row; None where a row lacks it."""
    return [row.get("accuracy", {}).get(split) for row in rows]


def losses_of(rows: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """The loss and each of its terms (`loss.NAME`) in the rows; None where a row lacks it."""
    terms = dict.fromkeys(name for row in rows for name in row if name.startswith("loss."))
    return {name: [row.get(name) for row in rows] for name in ("loss", *terms)}
