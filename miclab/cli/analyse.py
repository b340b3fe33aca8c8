"""`miclab evaluate`, `circuits`, `knockout`, `ablate`, `align`, `diagnose` and `report`."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from miclab.cli.terminal import bar, parse, print_json, print_table, warn
from miclab.errors import RunError
from miclab.request import SplitSizes
from miclab.runs import find
from miclab.schema import trajectory_hash
from miclab.settings import ParentConfig

if TYPE_CHECKING:
    from miclab.evaluate import Evaluation


@dataclass(frozen=True, kw_only=True)
class _Common:
    runs: str = "runs"
    """Directory of runs."""
    step: int = -1
    """Checkpoint; -1: the last good one."""
    sequences: int = 1000
    """Sequences of each split; of `icl`: for each set of novel classes."""
    novel_sets: int = 8
    """Independent sets of novel classes."""
    json: bool = False
    """Print as JSON."""

    @property
    def checkpoint(self) -> int | None:
        return None if self.step < 0 else self.step

    @property
    def sizes(self) -> SplitSizes:
        return SplitSizes(sequences=self.sequences, novel_sets=self.novel_sets)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(_Common):
    """Accuracy on every split, with intervals (bootstrap, clustered by set of novel classes) and oracles."""

    run: tyro.conf.Positional[tuple[str, ...]]
    """RUN...: paths, names or starts of hashes. Several are taken as seeds of one experiment."""
    context: int = 0
    """Context examples; 0: as many as in training. One-hot and learned positions cannot go beyond their slots."""


@dataclass(frozen=True, kw_only=True)
class CircuitsOptions(_Common):
    """Strength of every head on novel classes, with intervals."""

    run: tyro.conf.Positional[tuple[str, ...]]
    """RUN...: paths, names or starts of hashes. Several are taken as seeds of one experiment."""
    split: Literal["train", "icl", "swapped", "iwl"] = "icl"
    """Split whose sequences are looked at."""


@dataclass(frozen=True, kw_only=True)
class KnockoutOptions(_Common):
    """Accuracy with heads knocked out: each, the circuit's, both, and random others as control."""

    run: tyro.conf.Positional[str]
    """RUN: path, name or start of a hash."""
    baseline: Literal["zero", "mean"] = "zero"
    """What takes the place of a head's output."""
    split: Literal["train", "icl", "swapped", "iwl"] = "icl"
    """Split whose accuracy is asked for."""


@dataclass(frozen=True, kw_only=True)
class AblateOptions(_Common):
    """Accuracy with the items of a modality, the labels, or both zeroed."""

    run: tyro.conf.Positional[str]
    """RUN: path, name or start of a hash."""
    split: Literal["train", "icl", "swapped", "iwl"] = "icl"
    """Split whose accuracy is asked for."""


@dataclass(frozen=True, kw_only=True)
class AlignOptions(_Common):
    """Alignment of projected items with the host's prototypes of the same label, beside shuffled pairs."""

    run: tyro.conf.Positional[str]
    """RUN: path, name or start of a hash."""
    rows: int = 1024
    """Sampled pairs of classes."""


@dataclass(frozen=True, kw_only=True)
class DiagnoseOptions(_Common):
    """Which of the known signs of failure a run shows, the numbers behind it, and what to change."""

    run: tyro.conf.Positional[str]
    """RUN: path, name or start of a hash."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """One HTML file on one or several runs; it opens from disk without a network."""

    run: tyro.conf.Positional[tuple[str, ...]]
    """RUN...: paths, names or starts of hashes."""
    runs: str = "runs"
    """Directory of runs."""
    output: str = "report.html"
    """File to write."""


def _interval(value: Any) -> dict[str, Any]:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(value).items()}


def _evaluated(options: EvaluateOptions | CircuitsOptions, **asked: Any) -> list[Evaluation]:
    """The evaluation of each RUN; several are clustered by seed, so they have to differ in nothing else."""
    from miclab.evaluate import evaluate

    if not options.run:
        raise RunError("Name at least one RUN. `miclab runs` lists them.")
    runs = [find(reference, options.runs) for reference in options.run]
    kinds = {trajectory_hash(replace(run.config, seed=0, parent=ParentConfig())) for run in runs}
    if len(kinds) > 1:
        raise RunError("The RUNs are not seeds of one experiment: their configurations differ in more than the seed.")
    with bar("evaluate", len(runs)) as tell:
        found = []
        for done, run in enumerate(runs, 1):
            found.append(evaluate(run, step=options.checkpoint, sizes=options.sizes, **asked))
            tell(done, run.path.name)
            warn(run)
    return found


def run_evaluate(arguments: list[str]) -> int:
    """`miclab evaluate RUN...`."""
    from miclab.intervals import clustered_interval

    options = parse(EvaluateOptions, "evaluate", arguments)
    found = _evaluated(options, context=options.context or None, measures=False)
    content: dict[str, Any] = {
        "runs": [f.run for f in found],
        "steps": [f.step for f in found],
        "context": found[0].context,
        "splits": {},
    }
    cells = []
    for split in found[0].scores:
        scores = [f.scores[split] for f in found]
        interval = clustered_interval([s.correct for s in scores])
        oracles = {k: float(np.mean([s.oracles[k].mean() for s in scores])) for k in scores[0].oracles}
        copied = float(np.mean([s.in_context.mean() for s in scores]))
        content["splits"][split] = {
            "accuracy": _interval(interval),
            "context_label_accuracy": round(copied, 6),
            "oracles": {k: round(v, 6) for k, v in oracles.items()},
        }
        cells.append([split, interval, f"{copied:.3f}", *[f"{v:.3f}" for v in oracles.values()]])
    if options.json:
        print_json(content)
        return 0
    title = f"{_title(found)}, {found[0].context} context examples; accuracy [95 % interval]"
    columns = ["split", "accuracy", "answers in context", "nearest exemplar", "nearest prototype",
               "random context label", "chance"]  # fmt: skip
    print_table(title, columns, cells)
    return 0


def _title(found: list[Evaluation]) -> str:
    return ", ".join(f"{f.run} at step {f.step}" for f in found)


def run_circuits(arguments: list[str]) -> int:
    """`miclab circuits RUN...`."""
    from miclab.circuits.knockout import circuit_heads
    from miclab.intervals import clustered_interval

    options = parse(CircuitsOptions, "circuits", arguments)
    found = _evaluated(options, splits=(options.split,))
    measured = [f.scores[options.split].strengths for f in found]
    layers, heads = next(iter(measured[0].values())).shape[1:]
    places = [(i, j) for i in range(layers) for j in range(heads)]
    table = {
        name: {f"{i + 1}.{j + 1}": clustered_interval([m[name][:, i, j] for m in measured]) for i, j in places}
        for name in measured[0]
    }
    circuits = [circuit_heads({name: values.mean(0) for name, values in m.items()}) for m in measured]
    named = [
        {n: ".".join(str(p + 1) for p in getattr(circuit, n)) for n in ("previous_token", "induction")}
        for circuit in circuits
    ]
    if options.json:
        content = {n: {h: _interval(v) for h, v in row.items()} for n, row in table.items()}
        runs = {f.run: circuit for f, circuit in zip(found, named, strict=True)}
        print_json({"steps": [f.step for f in found], "split": options.split, "circuits": runs, "measures": content})
        return 0
    columns = ["measure", *[f"head {i + 1}.{j + 1}" for i, j in places]]
    cells = [[name, *row.values()] for name, row in table.items()]
    print_table(f"{_title(found)}, split {options.split}; heads are layer.head [95 % interval]", columns, cells)
    for f, circuit in zip(found, named, strict=True):
        print(f"{f.run}: previous-token head {circuit['previous_token']}, induction head {circuit['induction']}")
    return 0


def _print_effects(options: Any, run: Any, step: int, effects: list[Any]) -> int:
    warn(run)
    if options.json:
        rows = [
            {"name": e.name, "heads": [[i + 1, j + 1] for i, j in e.heads], "accuracy": _interval(e.accuracy),
             "change": _interval(e.change), "context_label_accuracy": round(e.in_context, 6)}
            for e in effects
        ]  # fmt: skip
        print_json({"run": run.path.name, "step": step, "split": options.split, "effects": rows})
        return 0
    cells = [
        [
            e.name,
            ", ".join(f"{i + 1}.{j + 1}" for i, j in e.heads),
            e.accuracy,
            e.change,
            f"{e.in_context:.3f}",
        ]
        for e in effects
    ]
    title = f"{run.path.name} at step {step}, split {options.split} [95 % interval]"
    print_table(title, ["intervention", "heads", "accuracy", "change", "answers in context"], cells)
    return 0


def run_knockout(arguments: list[str]) -> int:
    """`miclab knockout RUN`."""
    from miclab.circuits.knockout import Interventions

    options = parse(KnockoutOptions, "knockout", arguments)
    run = find(options.run, options.runs)
    work = Interventions(run, options.checkpoint, options.sizes, options.split)
    return _print_effects(options, run, work.step, work.knockouts(options.baseline))


def run_ablate(arguments: list[str]) -> int:
    """`miclab ablate RUN`."""
    from miclab.circuits.knockout import Interventions

    options = parse(AblateOptions, "ablate", arguments)
    run = find(options.run, options.runs)
    work = Interventions(run, options.checkpoint, options.sizes, options.split)
    return _print_effects(options, run, work.step, work.ablations())


def run_align(arguments: list[str]) -> int:
    """`miclab align RUN`."""
    from miclab.circuits.alignment import align

    options = parse(AlignOptions, "align", arguments)
    run = find(options.run, options.runs)
    if len(run.config.modalities) < 2:
        raise RunError(f"{run.path} has one modality: there is nothing to align. Give a multimodal run.")
    found = align(run, step=options.checkpoint, rows=options.rows)
    warn(run)
    if options.json:
        print_json([asdict(a) | {"above_null": a.above_null} for a in found])
        return 0
    cells = [
        [a.modality, a.rows, f"{a.cka:.3f}", f"{a.null_high:.3f}", f"{a.p_value:.3f}", f"{a.plain_cka:.3f}",
         f"{a.distance:.3f}", f"{a.null_distance:.3f}"]
        for a in found
    ]  # fmt: skip
    columns = [
        "modality",
        "rows",
        "CKA (debiased)",
        "95 % of shuffled",
        "p",
        "CKA (plain)",
        "L2",
        "L2 shuffled",
    ]
    print_table(run.path.name, columns, cells)
    return 0


def run_diagnose(arguments: list[str]) -> int:
    """`miclab diagnose RUN`."""
    from miclab.diagnose import diagnose

    options = parse(DiagnoseOptions, "diagnose", arguments)
    run = find(options.run, options.runs)
    signs = diagnose(run, step=options.checkpoint, sizes=options.sizes)
    warn(run)
    if options.json:
        print_json([asdict(sign) for sign in signs])
        return 0
    for sign in signs:
        mark = {True: "SHOWN", False: "not shown", None: "not judged"}[sign.shown]
        print(f"{sign.name}: {mark}\n    {sign.evidence}")
        if sign.shown:
            print(f"    What to change: {sign.advice}")
    return 0


def run_report(arguments: list[str]) -> int:
    """`miclab report RUN...`."""
    from miclab.report import write_report

    options = parse(ReportOptions, "report", arguments)
    runs = [find(reference, options.runs) for reference in options.run]
    command = "miclab report " + " ".join(shlex.quote(a) for a in arguments)
    path = write_report(runs, Path(options.output), command=command)
    for run in runs:
        warn(run)
    print(path)
    return 0
