"""`miclab knockout` and `ablate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from miclab.cli.options import Seeds, at_steps, find_runs
from miclab.cli.terminal import bar, parse, print_json, print_table, warn

if TYPE_CHECKING:
    from miclab.circuits.find import CircuitHeads
    from miclab.circuits.knockout import Effects, PooledEffect


@dataclass(frozen=True, kw_only=True)
class KnockoutOptions(Seeds):
    """Accuracy with heads knocked out: each, the circuit's, both, and the mean of several draws of random others as
    control, each from the layers of what it is a control for. Where a run does not answer from its context better than
    with any label of it, there is no circuit, and only single heads are cut. Several RUNs are clustered by seed; the
    circuit's heads are found in each for itself."""

    baseline: Literal["zero", "mean"] = "zero"
    """What takes the place of a head's output."""
    split: Literal["train", "icl", "swapped", "iwl"] = "icl"
    """Split whose accuracy is asked for."""


@dataclass(frozen=True, kw_only=True)
class AblateOptions(Seeds):
    """Accuracy with the items of a modality, the labels, or both zeroed. Several RUNs are clustered by seed."""

    split: Literal["train", "icl", "swapped", "iwl"] = "icl"
    """Split whose accuracy is asked for."""


def named_heads(circuit: CircuitHeads | None) -> dict[str, str] | None:
    """The circuit's heads as `layer.head`; None where there is no circuit."""
    from miclab.circuits.find import head_name

    if circuit is None:
        return None
    return {"previous_token": head_name(circuit.previous_token), "induction": head_name(circuit.induction)}


def print_circuits(
    runs: tuple[str, ...], circuits: tuple[CircuitHeads | None, ...], no_circuit: tuple[str, ...]
) -> None:
    """A line for each run: the heads of its circuit, or why it has none."""
    for run, circuit, reason in zip(runs, circuits, no_circuit, strict=True):
        named = named_heads(circuit)
        if named is None:
            print(f"{run}: no circuit: {reason}")
        else:
            print(f"{run}: previous-token head {named['previous_token']}, induction head {named['induction']}")


def circuits_json(
    runs: tuple[str, ...], circuits: tuple[CircuitHeads | None, ...], no_circuit: tuple[str, ...]
) -> dict[str, Any]:
    """By run the heads of its circuit, null where it has none, and why it has none."""
    return {
        "circuits": {run: named_heads(circuit) for run, circuit in zip(runs, circuits, strict=True)},
        "no_circuit": {run: reason for run, reason in zip(runs, no_circuit, strict=True) if reason},
    }


def _effect_json(effect: PooledEffect, runs: tuple[str, ...], note: str) -> dict[str, Any]:
    from miclab.circuits.find import head_name

    by_run = dict(zip(runs, effect.by_run, strict=True))
    found: dict[str, Any] = {
        "name": effect.name,
        "heads": {run: [head_name(head) for head in e.heads] for run, e in by_run.items()},
        "accuracy": effect.accuracy.as_json(),
        "change": effect.change.as_json(),
        "share_of_untouched": effect.share.as_json() if effect.share else None,
        "context_label_accuracy": effect.in_context.as_json(),
    }
    if any(e.draws for e in effect.by_run):
        found["draws"] = {run: [[head_name(h) for h in heads] for heads in e.draws] for run, e in by_run.items()}
    return found | ({"reason": note} if note else {})


def _print(options: Seeds, found: Effects) -> int:
    """Prints effects; heads and circuit are told where heads were cut."""
    cut = bool(found.circuits)
    circuits = (found.runs, found.circuits, found.no_circuit)
    if options.json:
        rows = [_effect_json(e, found.runs, found.notes.get(e.name, "")) for e in found.effects]
        made = {e.name for e in found.effects}
        # What could not be made is told as well: a control that is missing is not a control that did nothing.
        rows += [
            {"name": name, "heads": None, "accuracy": None, "change": None, "share_of_untouched": None,
             "context_label_accuracy": None, "reason": note}
            for name, note in found.notes.items() if name not in made
        ]  # fmt: skip
        if not cut:
            rows = [{key: value for key, value in row.items() if key != "heads"} for row in rows]
        oracles = {name: round(value, 6) for name, value in found.oracles.items()}
        print_json({"runs": found.runs, "steps": found.steps, "split": found.split,
                    **(circuits_json(*circuits) if cut else {}), "oracles": oracles, "effects": rows})  # fmt: skip
        return 0
    cells = [
        [e.name, *([e.knocked_out] if cut else []), e.accuracy,
         *(("", "") if e.name == "untouched" else (e.change, e.share or "")), e.in_context]
        for e in found.effects
    ]  # fmt: skip
    cells += [
        [f"oracle: {name.replace('_', ' ')}", *([""] if cut else []), f"{value:.3f}", "", "", ""]
        for name, value in found.oracles.items()
    ]
    columns = ["intervention", *(["heads"] if cut else []), "accuracy", "change of accuracy",
               "accuracy / untouched (share)", "answers in context"]  # fmt: skip
    print_table(f"{at_steps(found.runs, found.steps)}, split {found.split} [95 % interval]", columns, cells)
    if cut:
        print_circuits(*circuits)
    for note in dict.fromkeys(found.notes.values()):
        print(f"{', '.join(name for name, text in found.notes.items() if text == note)}: {note}")
    return 0


def run_knockout(arguments: list[str]) -> int:
    """`miclab knockout RUN...`."""
    options = parse(KnockoutOptions, "knockout", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.circuits.knockout import knock_out

    with bar("knockout", len(runs)) as tell:
        found = knock_out(runs, baseline=options.baseline, step=options.checkpoint, sizes=options.sizes,
                          split=options.split, tell=tell)  # fmt: skip
    for run in runs:
        warn(run)
    return _print(options, found)


def run_ablate(arguments: list[str]) -> int:
    """`miclab ablate RUN...`."""
    options = parse(AblateOptions, "ablate", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.circuits.knockout import ablate

    with bar("ablate", len(runs)) as tell:
        found = ablate(runs, step=options.checkpoint, sizes=options.sizes, split=options.split, tell=tell)
    for run in runs:
        warn(run)
    return _print(options, found)
