"""`miclab evaluate`, `circuits`, `align` and `diagnose`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from miclab.cli.intervene import circuits_json, print_circuits
from miclab.cli.options import CheckpointOptions, RunName, Seeds, SizedOptions, at_steps, find_runs
from miclab.cli.terminal import bar, parse, print_json, print_table, warn
from miclab.runs.find import find


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Seeds):
    """Accuracy on every split, with intervals (bootstrap, clustered by set of novel classes, then by seed) and
    oracles."""

    context: int = 0
    """Context examples; 0: as many as in training. One-hot and learned positions cannot go beyond their slots."""


@dataclass(frozen=True, kw_only=True)
class CircuitsOptions(Seeds):
    """Strength of every head on novel classes, with intervals, and the heads of the induction circuit where there is
    one."""

    split: Literal["train", "icl", "swapped", "iwl"] = "icl"
    """Split whose sequences are looked at."""


@dataclass(frozen=True, kw_only=True)
class AlignOptions(CheckpointOptions):
    """Alignment of projected items with the host's prototypes of the same label: debiased CKA, the mean over
    independent draws of pairs with its interval, beside what labels (or concepts) that trade partners give."""

    run: RunName
    """Path, name, or start of a name or hash, of a run with two modalities or more."""
    rows: int = 1024
    """Sampled pairs of classes in a draw, which has no sequences."""
    over_training: bool = False
    """At every kept checkpoint instead of one."""


@dataclass(frozen=True, kw_only=True)
class DiagnoseOptions(SizedOptions):
    """Which of the known signs of failure a run shows, the numbers behind it, and what to change."""

    run: RunName
    """Path, name, or start of a name or hash."""


def run_evaluate(arguments: list[str]) -> int:
    """`miclab evaluate RUN...`."""
    options = parse(EvaluateOptions, "evaluate", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.measures.evaluate import check_seeds, evaluate, oracle_means
    from miclab.statistics.intervals import clustered_interval

    check_seeds(runs)
    found = []
    with bar("evaluate", len(runs)) as tell:
        for done, run in enumerate(runs, 1):
            context = options.context or None
            found.append(evaluate(run, step=options.checkpoint, context=context, sizes=options.sizes, measures=False))
            tell(done, run.path.name)
            warn(run)
    content: dict[str, Any] = {
        "runs": [f.run for f in found],
        "steps": [f.step for f in found],
        "context": found[0].context,
        "splits": {},
    }
    cells = []
    for split in found[0].scores:
        scores = [f.scores[split] for f in found]
        accuracy = clustered_interval([s.correct for s in scores])
        copied = clustered_interval([s.in_context for s in scores])
        oracles = oracle_means(scores)
        content["splits"][split] = {
            "accuracy": accuracy.as_json(),
            "context_label_accuracy": copied.as_json(),
            "oracles": {k: round(v, 6) for k, v in oracles.items()},
        }
        cells.append([split, accuracy, copied, *[f"{v:.3f}" for v in oracles.values()]])
    if options.json:
        print_json(content)
        return 0
    title = f"{at_steps(content['runs'], content['steps'])}, {found[0].context} context examples [95 % interval]"
    oracles = next(iter(found[0].scores.values())).oracles
    columns = ["split", "accuracy", "answers in context", *(name.replace("_", " ") for name in oracles)]
    print_table(title, columns, cells)
    return 0


def run_circuits(arguments: list[str]) -> int:
    """`miclab circuits RUN...`."""
    options = parse(CircuitsOptions, "circuits", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.circuits.existence import circuits
    from miclab.circuits.find import head_name

    with bar("circuits", len(runs)) as tell:
        found = circuits(runs, step=options.checkpoint, sizes=options.sizes, split=options.split, tell=tell)
    for run in runs:
        warn(run)
    if options.json:
        measures = {n: {head_name(h): v.as_json() for h, v in row.items()} for n, row in found.measures.items()}
        told = circuits_json(found.runs, found.heads, found.no_circuit)
        print_json({"steps": found.steps, "split": found.split, **told, "measures": measures})
        return 0
    if not found.measures:
        print_circuits(found.runs, found.heads, found.no_circuit)
        return 0
    columns = ["measure", *[f"head {head_name(head)}" for head in next(iter(found.measures.values()))]]
    cells = [[name, *row.values()] for name, row in found.measures.items()]
    title = f"{at_steps(found.runs, found.steps)}, split {found.split}; heads are layer.head [95 % interval]"
    print_table(title, columns, cells)
    print_circuits(found.runs, found.heads, found.no_circuit)
    return 0


def run_align(arguments: list[str]) -> int:
    """`miclab align RUN`."""
    options = parse(AlignOptions, "align", arguments)
    run = find(options.run, options.runs)
    from miclab.measures.alignment import align_over_training

    steps = run.checkpoints if options.over_training else [options.checkpoint]
    found = []
    with bar("align", len(steps)) as tell:
        for done, step in enumerate(steps, 1):
            found += align_over_training(run, steps=(step,), rows=options.rows)
            tell(done, "")
    warn(run)
    if options.json:
        intervals = [{"cka": a.cka.as_json(), "retrieval": a.retrieval.as_json()} for a in found]
        print_json([asdict(a) | told | {"above_null": a.above_null} for a, told in zip(found, intervals, strict=True)])
        return 0
    cells = [
        [a.modality, f"{a.step:,}", f"{a.cka.mean:.4f} [{a.cka.low:.4f}, {a.cka.high:.4f}]",
         f"{a.traded_high:.4f} ({a.null_high:.4f})", f"{a.p_value:.3f}", f"{a.plain_cka:.3f} ({a.null_plain:.3f})",
         f"{a.distance:.3f} ({a.null_distance:.3f})",
         f"{a.retrieval} ({a.retrieval_chance:.3f})"]
        for a in found
    ]  # fmt: skip
    columns = ["modality", "step", "CKA (debiased)", "95 % of traded", "p", "CKA (plain)", "L2", "retrieval"]
    drawn = f"{found[0].cka.count} draws of {options.rows:,} pairs [95 % interval over draws]"
    what = "concepts" if run.config.sequence.pairing == "concept" else "labels"
    title = f"{run.path.name}, {drawn}; traded: {what} trade partners as wholes (shuffled: pairs one by one, or chance)"
    print_table(title, columns, cells)
    return 0


def run_diagnose(arguments: list[str]) -> int:
    """`miclab diagnose RUN`."""
    from miclab.circuits.diagnose import diagnose

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
