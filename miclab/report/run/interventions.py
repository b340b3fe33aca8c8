"""The words and tables of the interventions on a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from miclab.circuits.effects import Effect, effects_table
from miclab.circuits.head_names import names_table, shown_name
from miclab.report.run.circuit import circuit_view
from miclab.report.run.collect import Collected
from miclab.report.run.trials import Tests
from miclab.tables import Table, table, titled

NAMES = "What the circuit's heads are called, by pattern and need"
TITLES = {
    "zero": "Knockout, output set to zero",
    "mean": "Knockout, output set to its mean",
    "uniform": "Attention pattern set to uniform",
}
"""Tables of cut heads, by what takes the place of a head's output or pattern."""


def _oracle_table(oracles: Mapping[str, float]) -> Table:
    rows = [[name.replace("_", " "), value] for name, value in oracles.items()]
    return table("", ["without a network, inputs untouched", "accuracy"], rows)


def _effect_table(title: str, effects: Sequence[Effect], true: Collection[str]) -> Table:
    return effects_table(title, [replace(effect, name=shown_name(effect.name, true)) for effect in effects])


def _control_words(tests: Tests) -> str:
    """A description of the controls, or why there is none."""
    if tests.heads is None:
        return ""
    made = any(effect.draws for effects in tests.knockouts.values() for effect in effects)
    text = " A control is the mean over several draws of other heads of the same layers." if made else ""
    for note in dict.fromkeys(tests.notes.values()):
        names = ", ".join(shown_name(name, tests.true_words) for name, found in tests.notes.items() if found == note)
        text += f" {names.capitalize()}: {note}."
    return text


def interventions_view(collected: Collected) -> dict[str, Any] | None:
    """The page's part on knockouts and zeroed inputs; None if none was possible."""
    tests = collected.tests
    if tests is None:
        return None
    sizes = tests.sizes
    unit = f"{sizes.sequences} sequences of each of {sizes.novel_sets} sets of novel classes"
    tables = [_effect_table(TITLES[name], effects, tests.true_words) for name, effects in tests.knockouts.items()]
    if tests.named:
        tables.insert(0, titled(names_table((collected.run.path.name,), (tests.named,)), NAMES))
    if tests.replaced:
        tables.append(effects_table("Attention patterns of the strongest heads replaced", tests.replaced))
    tables.append(_effect_table("Inputs zeroed", tests.ablations, ()))
    return {
        "words": f"Accuracy on novel classes (icl) at step {tests.step:,} while something is taken out; {unit}, with"
        " 95 % intervals resampled by set. The line is the untouched decoder, the dotted one answering with any label"
        " of the context. Zeroing the items of a modality leaves the labels in place."
        f"{_control_words(tests)}",
        "heads": tests.heads is not None,
        "no_circuit": tests.no_circuit,
        "tables": [*tables, _oracle_table(collected.oracles or {})],
        "found": circuit_view(tests.found),
    }
