"""The words and tables of the report on runs, as `runs.html` needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from miclab.circuits.find import head_name
from miclab.circuits.head_names import looking, places_of
from miclab.config import schema
from miclab.config.request import SPLITS
from miclab.measures.baselines import uniform_by_head
from miclab.measures.registry import FIRST, describe
from miclab.report.html import shown_mark
from miclab.report.run.collect import Collected, alignment_values, rows_for_measures
from miclab.report.run.data import colour_top, formed
from miclab.report.run.explorer import words_of
from miclab.report.run.figures import ATTENTION_TOPS, attention_groups
from miclab.report.run.interventions import interventions_view
from miclab.runs.status import status_mark
from miclab.tables import Code, Number, Table, estimate, table, titled

PARTS = {
    "curves": "Accuracy and loss",
    "measures": "Strength of heads",
    "attention": "Attention",
    "explorer": "Explorer",
    "interventions": "Interventions",
    "signs": "Signs of failure",
    "settings": "Configuration",
}
"""Parts of a run's section, as named in the list of contents."""


def overview_table(collected: Sequence[Collected], names: Sequence[str]) -> Table:
    """One line for each run."""
    rows = []
    others = [split for split in SPLITS if split != "icl"]
    for name, one in zip(names, collected, strict=True):
        config, last = one.run.config, one.rows[-1] if one.rows else None
        accuracy = last["accuracy"] if last else {}
        interval = one.icl_intervals[-1] if last else None
        rows.append(
            [
                ", ".join([name, *one.run.label.tags]),
                ", ".join(f"{m} K={part.classes}" for m, part in config.modalities.items()),
                f"{config.sequence.context}, {config.sequence.burstiness}",
                config.decoder.positions,
                f"{config.decoder.layers} × {config.decoder.heads}",
                one.parameters,
                config.optimiser.name,
                last["step"] if last else None,
                estimate(accuracy.get("icl"), interval),
                *(Number(accuracy.get(split)) for split in others),
                status_mark(one.run.status),
            ]
        )
    columns = ["run", "classes", "N, B", "positions", "layers × heads", "weights", "optimiser", "step", "icl"]
    return table("", [*columns, *others, "status"], rows)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _facts(collected: Collected) -> dict[str, object]:
    run, config = collected.run, collected.run.config
    modalities = "; ".join(
        f"{name} {part.classes:,} classes in {part.dimension} dimensions" for name, part in config.modalities.items()
    )
    labelled: dict[str, object] = {"directory": run.path.name} if run.label.name else {}
    if run.label.tags:
        labelled["tags"] = ", ".join(run.label.tags)
    return labelled | {
        "modalities": modalities,
        "labels": config.active_labels,
        "context": f"{config.sequence.context} examples, {config.sequence.burstiness} copies of each class",
        "decoder": f"{_count(config.decoder.layers, 'layer')} × {_count(config.decoder.heads, 'head')},"
        f" {config.decoder.positions}",
        "weights": f"{collected.parameters:,}",
        "training": f"{config.optimiser.name}, learning rate {config.optimiser.learning_rate:g}",
        "seed": config.seed,
    }


def _any_label(collected: Collected) -> str:
    """The measured score of copying. B/N neglects that two classes of a context may have the same label."""
    if collected.oracles is None:
        return ""
    found = collected.oracles["random_context_label"]
    return f" An answer that copies any label of the context scores {found:.3f} on icl (measured)."


def _pairs(collected: Collected) -> str | None:
    """Number of pairs for alignment; None if it is not measured."""
    found = alignment_values(collected.rows)
    if not found:
        return None
    return f"{max((e['rows'] for entries in found.values() for e in entries if e), default=0):,}"


def _curves(collected: Collected) -> dict[str, Any] | None:
    if not collected.rows:
        return None
    kept, request = len(collected.rows), collected.run.request
    rows = rows_for_measures(collected.rows)
    fewer = f" {len(rows)} of {collected.rows_in_all} rows are shown." if len(rows) < collected.rows_in_all else ""
    names = sorted({name for row in rows for name in row["measures"]}, key=lambda n: (n != FIRST, describe(n)[0]))
    last = collected.run.config.decoder.layers - 1
    return {
        "sizes": f"{request.get('sequences', '?')} sequences a split; icl: for each of"
        f" {request.get('novel_sets', '?')} sets",
        "any_label": _any_label(collected),
        "thinned": f" {kept} of {collected.rows_in_all} rows are shown." if kept < collected.rows_in_all else "",
        "pairs": _pairs(collected),
        "measured": f"Measured on the icl split; head {head_name((last, 0))} is the first head of the last layer."
        f"{fewer}",
        "measures": [(name, describe(name)[0]) for name in names],
    }


def _circuit_words(collected: Collected) -> str:
    tests = collected.tests
    if tests is None:
        return ""
    if tests.heads is None:
        return f"There is no circuit of two heads: {tests.no_circuit}."
    levels = uniform_by_head(collected.run.config)
    looks = {
        place: f"{looking(tests.strengths, place)[head]:.2f}, uniform attention {looking(levels, place)[head]:.2f}"
        for place, head in places_of(tests.heads).items()
    }
    called = f" By pattern and need: {', '.join(one.line for one in tests.named)}." if tests.named else ""
    reason = f" They are no induction circuit: {tests.no_circuit}." if tests.no_circuit else ""
    steps, found = (collected.attention.steps if collected.attention else []), formed(collected)
    first = next((step for step, one in zip(steps, found, strict=True) if not one.no_circuit), None)
    since = (
        f" The first checkpoint shown that has an induction circuit is that of step {first:,}."
        if first is not None
        else ""
    )
    return (
        f"At step {tests.step:,} labels look most at the items of their own example in head"
        f" {head_name(tests.heads.previous_token)} (attention {looks['previous token']}). The query looks most at the"
        f" right labels in head {head_name(tests.heads.induction)} (right minus wrong labels {looks['induction']}; at"
        f" most 1).{called}{reason}{since}"
    )


def _attention(collected: Collected) -> dict[str, Any] | None:
    attention = collected.attention
    if attention is None:
        return None
    config = collected.run.config
    groups = attention_groups(config.decoder.layers, config.decoder.heads)
    layers = [(str(i), head_name(group[0]).partition(".")[0]) for i, group in enumerate(groups)]
    kept, there = len(attention.steps), len(collected.run.checkpoints)
    thinned = f" {kept} of {there} checkpoints are shown." if kept < there else ""
    marks = "".join(f"x{chr(39) * i} is an item of {m}, " for i, m in enumerate(config.order))
    shown = [(str(i), f"sequence {i + 1} (answer {target})") for i, target in enumerate(attention.targets)]
    return {
        "words": f"{_circuit_words(collected)} Each row is a position and what it looks at; {marks}l is a label, q the"
        " query. Sequences of novel classes; grey is the future, which a causal decoder cannot see. In a single"
        " sequence the labels to answer with are bold; a mean hides induction, since the right labels stand elsewhere"
        f" in each sequence.{thinned}",
        "last": kept - 1,
        "layers": layers if len(groups) > 1 else [],
        "layer": str(len(groups) - 1),
        "sequences": [*shown, ("mean", f"the mean of {attention.sequences} sequences")],
        "tops": [(str(top), f"{top:g}") for top in ATTENTION_TOPS],
        "top": str(colour_top(attention)),
    }


def _explorer(collected: Collected) -> dict[str, Any]:
    """The explorer's words and choices. It is drawn in the frame of the attention maps."""
    frame = _attention(collected) or {}
    chosen = {key: frame[key] for key in ("layers", "layer", "tops") if key in frame}
    return {**chosen, "top": "1.0", "modalities": collected.run.config.order, **words_of(collected.explorer)}


def _timing(collected: Collected) -> str:
    timing = collected.run.timing
    if not timing:
        return ""
    seconds = sum(entry.get("seconds", 0.0) for entry in timing)
    steps = timing[-1]["step"]
    speed = f", {steps / seconds:.0f} steps/s with evaluations" if seconds > 0 and steps else ""
    return f"{steps:,} steps in {seconds:,.0f} s{speed}; last checkpoint {timing[-1].get('time', '')}"


def _environment(collected: Collected) -> Table:
    run = collected.run
    rows: list[list[Any]] = [[key, str(value)] for key, value in run.environment.items()]
    return table("", ["", ""], [*rows, ["training", _timing(collected)], ["hash", Code(run.hash)]])


def run_view(number: int, name: str, own: str, collected: Collected) -> dict[str, Any]:
    """The report on one run, in the form for its template.

    Arguments:
        number: place of the run in the report.
        name: of the run in the report.
        own: its id, with which the ids of its parts begin.
    """
    run = collected.run
    ids = {part: f"{own}-{part}" for part in PARTS}
    return {
        "number": number,
        "name": name,
        "id": own,
        "ids": ids,
        "entries": [(ids[part], title) for part, title in PARTS.items()],
        "figure": f"run{number}-",
        "status": shown_mark(status_mark(run.status)),
        "step": f"{max(run.step, 0):,}",
        "reason": run.reason,
        "facts": _facts(collected),
        "problems": collected.problems,
        "curves": _curves(collected),
        "requested": collected.requested,
        "attention": _attention(collected),
        "explorer": _explorer(collected),
        "interventions": interventions_view(collected),
        "signs": titled(collected.signs.tables()[0], "") if collected.signs else None,
        "environment": _environment(collected),
        "config": yaml.safe_dump(schema.to_mapping(run.config), sort_keys=False, width=100),
        "request": yaml.safe_dump(dict(run.request), sort_keys=False) if run.request else "",
    }
