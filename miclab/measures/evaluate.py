"""Accuracies and measures on splits, for parameters of any step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from miclab.config.parts import ParentConfig
from miclab.config.request import SPLITS, SplitSizes
from miclab.config.run import RunConfig, with_context
from miclab.config.schema import trajectory_hash
from miclab.config.seeds import SeedsConfig
from miclab.errors import MiclabError, RunError
from miclab.measures.alignment import alignment_row
from miclab.measures.attention import context_label_predictions
from miclab.measures.layer import Layer, take
from miclab.measures.novel_alignment import novel_cka
from miclab.measures.registry import Measure, chosen
from miclab.model.decoder import Decoder, Edits, Parameters
from miclab.runs.find import find
from miclab.runs.run import Run
from miclab.statistics.intervals import Interval, accuracy_interval, clustered_interval
from miclab.worlds.oracles import oracle_scores
from miclab.worlds.sequences import Batch
from miclab.worlds.splits import split_batches
from miclab.worlds.world import World, world_from_tensors

CHUNK = 512
"""Sequences in one forward pass, so that they fit the cache."""


@dataclass(frozen=True)
class SplitScores:
    """Scores of one split by set of classes and sequence.

    Arguments:
        correct: 1 where the answer is the target.
        in_context: 1 where the answer is a label of the context (CLA).
        oracles: scores of the oracles.
        strengths: mean of each measure, by name [set, layer, head]; NaN in a layer where it is undefined.
        left_out: why a measure is not among them, by its name.
    """

    correct: NDArray[np.floating]
    in_context: NDArray[np.floating]
    oracles: dict[str, NDArray[np.floating]] = field(default_factory=dict)
    strengths: dict[str, NDArray[np.floating]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Mean of `correct`."""
        return float(self.correct.mean())

    def interval(self) -> Interval:
        """Accuracy with its interval: over sets, or over the sequences of its only set."""
        return accuracy_interval([self.correct])


def head_intervals(scores: Sequence[SplitScores]) -> dict[str, dict[tuple[int, int], Interval]]:
    """Interval of each measure by name, layer and head (from 0): over runs, or over the sets of one."""
    return {
        name: {
            (i, j): clustered_interval([s.strengths[name][:, i, j] for s in scores])
            for i in range(values.shape[1])
            for j in range(values.shape[2])
        }
        for name, values in scores[0].strengths.items()
    }


def oracle_means(scores: Sequence[SplitScores]) -> dict[str, float]:
    """Mean score of each oracle over several runs, with equal weights."""
    return {name: float(np.mean([s.oracles[name].mean() for s in scores])) for name in scores[0].oracles}


def _within(tensors: Mapping[str, Tensor], block: str) -> dict[str, Tensor]:
    """Those whose name begins with `block.`, by the rest of their name."""
    return {name.removeprefix(f"{block}."): value for name, value in tensors.items() if name.startswith(f"{block}.")}


def chunk_strengths(
    decoder: Decoder,
    parameters: Parameters,
    activations: Mapping[str, Tensor],
    chunk: Batch,
    measures: Sequence[Measure],
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Sum over the chunk's sequences of each measure [layer, head], and why measures are left out. A layer that cannot
    give a measure has NaN. Measures that need the pattern are of every layer or of none: they are compared across
    layers, to find the heads of a circuit."""
    layers, missing, device = [], [], chunk.target.device
    for i in range(decoder.options.layers):
        own = _within(activations, f"blocks.{i}") | decoder.weight(parameters, i)
        layer = Layer(
            chunk.roles, chunk.labels, chunk.target, decoder.options.heads, own,
            _within(parameters, f"decoder.blocks.{i}"), decoder.visible(i).to(device), decoder.facts(i),
        )  # fmt: skip
        found, lacking = take(measures, layer)
        layers.append({name: value.sum(0) for name, value in found.items()})
        missing.append(lacking)
    by_name = {one.name: one for one in measures}
    left_out = {
        name: reason
        for lacking in missing
        for name, reason in lacking.items()
        if ("pattern" in by_name[name].needs and not decoder.gives_patterns) or all(name in each for each in missing)
    }
    names = dict.fromkeys(name for found in layers for name in found if name.partition(".")[0] not in left_out)
    nothing = torch.full((decoder.options.heads,), torch.nan, device=device)
    return {name: torch.stack([found.get(name, nothing) for found in layers]) for name in names}, left_out


def measures_of(decoder: Decoder, parameters: Parameters) -> tuple[Measure, ...]:
    """The measures of every evaluation that may have a value in a decoder."""
    if any(decoder.weight(parameters, i) for i in range(decoder.options.layers)):
        return chosen(True)
    # Plain attention has no such weight, so a missing value is not reported.
    return tuple(one for one in chosen(True) if "weight" not in one.needs)


@torch.no_grad()
def score_split(
    config: RunConfig,
    world: World,
    parameters: Parameters,
    split: str,
    sizes: SplitSizes,
    *,
    measures: bool | Iterable[str] = False,
    oracles: bool = False,
    edits: Edits | None = None,
) -> SplitScores:
    """Scores of a decoder on a split.

    Arguments:
        measures: measures of every head to take as well, by name; True: those of every evaluation. One that the
            decoder's attention cannot give is left out (see `SplitScores.left_out`).
        oracles: also the oracles' scores.
        edits: interventions on activations (see `miclab.circuits.interventions`). An edit sees the first axis of a
            chunk of sequences, so it must not depend on which sequence it is given.

    Raises:
        ConfigError: there is no such measure.
        RunError: an edit is of an activation that the decoder does not have.
    """
    decoder = Decoder(config)
    requested = measures_of(decoder, parameters) if measures is True else chosen(measures)
    left_out: dict[str, str] = {}
    correct, in_context = [], []
    oracle_rows: dict[str, list] = {}
    strength_rows: dict[str, list] = {}
    for _, batch in split_batches(config, world, split, sizes):
        logits, sums = [], {}
        for chunk in batch.chunks(CHUNK):
            if not requested and not edits:
                logits.append(decoder.logits(parameters, chunk))
                continue
            wanted = ("blocks.*",) if requested else ()
            trace = decoder.trace(parameters, chunk, capture=wanted, edits=edits)
            logits.append(trace.logits)
            if requested:
                found, left_out = chunk_strengths(decoder, parameters, trace.activations, chunk, requested)
                for name, value in found.items():
                    sums[name] = sums.get(name, 0) + value
        answers = torch.cat(logits)
        correct.append((answers.argmax(-1) == batch.target).numpy())
        in_context.append(context_label_predictions(answers, batch.labels).numpy())
        for name, value in sums.items():
            strength_rows.setdefault(name, []).append((value / len(batch)).numpy())
        if oracles:
            for name, value in oracle_scores(config, world, batch).items():
                oracle_rows.setdefault(name, []).append(value.numpy())
    return SplitScores(
        np.stack(correct).astype(float),
        np.stack(in_context).astype(float),
        {name: np.stack(value).astype(float) for name, value in oracle_rows.items()},
        {name: np.stack(value).astype(float) for name, value in strength_rows.items()},
        left_out,
    )


def metric_row(config: RunConfig, world: World, parameters: Parameters, sizes: SplitSizes) -> dict[str, Any]:
    """Metric row of a training: accuracies of the splits, `icl` of each set of novel classes, and the measures on `icl`
    by layer and head. With several modalities, the alignment of each secondary one; where classes are paired, also that
    of novel classes."""
    scores = {split: score_split(config, world, parameters, split, sizes, measures=split == "icl") for split in SPLITS}
    aligned = alignment_row(config, world, parameters)
    if config.sequence.pairing == "class":
        for name, part in aligned.items():
            part["novel_cka"] = round(novel_cka(config, world, parameters, name), 6)
    return row_of(scores, aligned)


def row_of(scores: Mapping[str, SplitScores], aligned: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A metric row from the scores of all splits, and the alignment of each secondary modality."""
    icl = scores["icl"]
    row: dict[str, Any] = {
        "accuracy": {split: round(s.accuracy, 6) for split, s in scores.items()},
        "icl_sets": [round(float(v), 6) for v in icl.correct.mean(1)],
        "context_label_accuracy": {split: round(float(s.in_context.mean()), 6) for split, s in scores.items()},
        "measures": {name: _by_head(value.mean(0)) for name, value in icl.strengths.items()},
    }
    return row | {"alignment": dict(aligned)} if aligned else row


def _by_head(values: NDArray[np.floating]) -> list[list[float | None]]:
    """Numbers [layer, head] as plain data; None in a layer that has none."""
    return [[None if np.isnan(one) else one for one in layer] for layer in np.round(values, 6).tolist()]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one checkpoint.

    Arguments:
        run: name of the run.
        step: the checkpoint's step.
        context: the requested number of context examples.
        scores: by split.
    """

    run: str
    step: int
    context: int
    scores: dict[str, SplitScores]


def evaluate(
    run: Run,
    *,
    step: int | None = None,
    context: int | None = None,
    splits: tuple[str, ...] = SPLITS,
    sizes: SplitSizes | None = None,
    measures: bool | Iterable[str] = True,
) -> Evaluation:
    """Evaluates a checkpoint of a run on the splits, with oracles and measures.

    Arguments:
        step: the checkpoint; by default the last good one.
        context: another number of context examples than in training.
        measures: measures of every head, by name; True: those of every evaluation of training; False: none.

    Raises:
        ConfigError: the position code cannot place so long a context, or there is no such checkpoint, split or measure.
    """
    config = run.config if context is None else with_context(run.config, context)
    world = world_from_tensors(run.config, run.world_tensors())
    found, parameters = run.parameters(step)
    scores = {
        split: score_split(config, world, parameters, split, sizes or SplitSizes(), measures=measures, oracles=True)
        for split in splits
    }
    return Evaluation(run.path.name, found, config.sequence.context, scores)


def _experiment(run: Run) -> tuple[str, ...]:
    """The part of a configuration that is equal in seeds of one experiment, without seeds, and that of its parent. The
    parent's name would always differ. A parent that no longer exists is not compared."""
    parent = run.config.parent
    own = trajectory_hash(replace(run.config, seed=0, seeds=SeedsConfig(), parent=ParentConfig()))
    if not parent.run:
        return (own,)
    try:
        before = _experiment(find(parent.run, run.path.parent))
    except MiclabError:
        before = ()
    return (own, str(parent.step), *before)


def check_seeds(runs: Sequence[Run]) -> None:
    """Checks that runs are seeds of one experiment, so that intervals are clustered by seed.

    Raises:
        RunError: there is no run, one is given twice, or their configurations differ in more than the seed.
    """
    if not runs:
        raise RunError("Name at least one RUN. `miclab runs` lists them.")
    names = [run.hash for run in runs]
    twice = next((run for run in runs if names.count(run.hash) > 1), None)
    if twice is not None:
        raise RunError(f"{twice.path} is given twice: it would count as two seeds. Name each RUN once.")
    found = [_experiment(run) for run in runs]
    # If one run's parent is gone, only fields known of both are compared.
    known = min(map(len, found))
    if len({one[:known] for one in found}) > 1:
        raise RunError(
            "The RUNs are not seeds of one experiment: their configurations, or those of their stage-1 runs, differ in"
            " more than the seed. Name runs that differ in `seed` alone."
        )
