"""The words and tables of the interventions on a run, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from miclab.circuits.knockout import Effect
from miclab.report.html import escape, table
from miclab.report.run.collect import Collected, Tests


def _oracle_table(oracles: Mapping[str, float]) -> str:
    rows = [[escape(name.replace("_", " ")), f"{value:.3f}"] for name, value in oracles.items()]
    return table(["without a network, inputs untouched", "accuracy"], rows, numbers=(1,))


def _effect_table(effects: Sequence[Effect]) -> str:
    rows = [
        [
            escape(e.name),
            escape(e.knocked_out),
            escape(e.accuracy),
            "" if e.name == "untouched" else escape(e.change),
            "" if e.name == "untouched" else escape(e.share or ""),
            escape(e.in_context),
        ]
        for e in effects
    ]
    head = ["intervention", "heads", "accuracy", "change", "share of untouched", "answers from the context"]
    return table(head, rows, numbers=(2, 3, 4, 5))


def _control_words(tests: Tests) -> str:
    """What the controls are, or why there is none."""
    if tests.heads is None:
        return ""
    made = any(effect.draws for effects in tests.knockouts.values() for effect in effects)
    told = " A control is the mean over several draws of other heads of the same layers." if made else ""
    for note in dict.fromkeys(tests.notes.values()):
        names = ", ".join(name for name, text in tests.notes.items() if text == note)
        told += f" {names.capitalize()}: {note}."
    return told


def interventions_section(number: int, collected: Collected) -> str:
    """What knockouts and zeroed inputs do: figures, words and all numbers."""
    tests = collected.tests
    if tests is None:
        return "<section><h3>Interventions</h3><p>No intervention could be made.</p></section>"
    sizes = tests.sizes
    unit = f"{sizes.sequences} sequences of each of {sizes.novel_sets} sets of novel classes"
    tables = "".join(
        f"<p><b>Knockout, {'output set to zero' if baseline == 'zero' else 'output set to its mean'}</b></p>"
        f"{_effect_table(effects)}"
        for baseline, effects in tests.knockouts.items()
    )
    knockouts = (
        f'<div><h4>Heads knocked out</h4><div data-figure="run{number}-knockouts"></div></div>'
        if tests.heads is not None
        else "<p>A single head: there is no circuit of two heads to knock out.</p>"
    )
    return (
        '<section class="interventions"><h3>Interventions</h3>'
        f'<p class="note">Accuracy on novel classes (icl) at step {tests.step:,} while something is taken out; {unit},'
        " with 95 % intervals resampled by set. The line is the untouched decoder, the dotted one answering with any"
        " label of the context. Zeroing the items of a modality leaves the labels in place."
        f"{escape(_control_words(tests))}</p>"
        f'<div class="pair even">{knockouts}<div><h4>Inputs zeroed</h4>'
        f'<div data-figure="run{number}-ablations"></div></div></div>'
        f"<details><summary>All numbers</summary>{tables}<p><b>Inputs zeroed</b></p>{_effect_table(tests.ablations)}"
        f"{_oracle_table(collected.oracles or {})}</details></section>"
    )
