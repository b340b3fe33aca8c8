"""The parts of a collected run that are embedded in the page: its rounded numbers, and its figures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from miclab.config.request import SPLITS
from miclab.measures import registry as measures
from miclab.measures.baselines import levels
from miclab.report.plots import Figure, rounded
from miclab.report.run.bars import ablation_figure, knockout_figure
from miclab.report.run.collect import (
    Attention,
    Collected,
    Formed,
    alignment_values,
    losses_of,
    rows_for_measures,
    split_values,
)
from miclab.report.run.figures import (
    ATTENTION_TOPS,
    accuracy_figure,
    alignment_figure,
    attention_figure,
    attention_groups,
    distance_figure,
    guide,
    loss_figure,
    measure_figure,
    narrow_attention_figure,
)
from miclab.report.run.names import formed_names


def _triangles(maps: np.ndarray) -> list:
    """Lower triangles, row by row, in thousandths [..., place], since a causal decoder sees nothing else."""
    rows, columns = np.tril_indices(maps.shape[-1])
    return (maps[..., rows, columns] * 1000).round().astype(int).tolist()


def example_names(attention: Attention, example: int) -> list[str]:
    """Names of the positions of a single sequence, with the label at each label position; the right answer is bold."""
    labels = iter(attention.labels[example])
    names = []
    for name in attention.names:
        if name.startswith("l"):
            label = next(labels)
            text = f"{name}={label}"
            names.append(f"<b>{text}</b>" if label == attention.targets[example] else text)
        else:
            names.append(name)
    return names


def colour_top(attention: Attention) -> float:
    """End of the colour scale for the last maps of the first sequence: the first of `ATTENTION_TOPS` above nearly all
    cells. The first rows are left out, since they see few positions and so are always strong."""
    maps = attention.examples[0, -1]
    length = maps.shape[-1]
    rows, columns = np.tril_indices(length)
    kept = rows >= min(length - 1, 4)
    strong = float(np.quantile(maps[..., rows[kept], columns[kept]], 0.99))
    return next((top for top in ATTENTION_TOPS if strong <= top), 1.0)


def formed(collected: Collected) -> list[Formed]:
    """The circuit at each checkpoint of the maps. That of the causal tests is judged on their larger number of
    sequences."""
    attention, tests = collected.attention, collected.tests
    if attention is None:
        return []
    found = list(attention.formed)
    if tests is not None and tests.step in attention.steps:
        found[attention.steps.index(tests.step)] = Formed(tests.heads, tests.no_circuit, tests.true_words)
    return found


def _measures(collected: Collected, rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for row in rows for name in row["measures"]))
    # The measure that a report shows first comes first.
    names.sort(key=lambda name: name != measures.FIRST)
    found = {}
    for name in names:
        title, text = measures.describe(name)
        values = [row["measures"].get(name) for row in rows]
        found[name] = {
            "title": title,
            "text": text,
            "guides": [
                dict(zip(("shape", "note"), guide(level, words), strict=True))
                for level, words in levels(name, collected.run.config)
            ],
            "values": [None if v is None else np.round(np.array(v, dtype=float), 4).tolist() for v in values],
        }
    return found


def _circuit(collected: Collected) -> dict[str, Any]:
    """Names of the circuit's heads at each checkpoint, and the measures under each map's title."""
    subtitles = [("induction_total", "induction"), ("previous_token_1", "previous token")]
    subtitles += [(f"label_to_item.{m}", f"label→{m}") for m in collected.run.config.order]
    return {"heads": formed_names(formed(collected)), "subtitles": subtitles}


def numbers_of(name: str, collected: Collected) -> dict[str, Any]:
    """A run's numbers for the page: curves, measures and attention maps."""
    rows, few = collected.rows, rows_for_measures(collected.rows)
    attention = collected.attention
    numbers: dict[str, Any] = {
        "name": name,
        "hash": collected.run.hash,
        "status": collected.run.status,
        "step": collected.run.step,
        "steps": [row["step"] for row in rows],
        "losses": {name: [rounded(v) for v in values] for name, values in losses_of(rows).items()},
        "accuracy": {split: [rounded(v) for v in split_values(rows, split)] for split in SPLITS},
        "icl_sets": [[rounded(v) for v in row.get("icl_sets", [])] for row in rows],
        "icl_at": {str(row["step"]): rounded(row["accuracy"].get("icl")) for row in rows},
        "alignment": alignment_values(rows),
        "measure_steps": [row["step"] for row in few],
        "measures": _measures(collected, few),
        "circuit": _circuit(collected),
        "attention": None,
        "explorer": dict(collected.explorer.data) or None,
    }
    if attention is not None:
        numbers["attention"] = {
            "steps": attention.steps,
            "names": attention.names,
            "example_names": [example_names(attention, i) for i in range(len(attention.examples))],
            "mean": _triangles(attention.mean),
            "examples": _triangles(attention.examples),
        }
    return numbers


def figures_of(collected: Collected) -> dict[str, Figure]:
    """A run's figures by their part of the page. Measures and attention are frames that the page fills in."""
    config, rows = collected.run.config, collected.rows
    layers, heads = config.decoder.layers, config.decoder.heads
    figures: dict[str, Figure] = {}
    random_label = None if collected.oracles is None else collected.oracles["random_context_label"]
    if rows:
        steps = [row["step"] for row in rows]
        splits = {split: split_values(rows, split) for split in SPLITS}
        figures["accuracy"] = accuracy_figure(
            steps, splits, collected.icl_intervals, 1 / config.active_labels, random_label
        )
        aligned = alignment_values(rows)
        if aligned:
            figures["alignment"] = alignment_figure(steps, aligned)
            figures["distance"] = distance_figure(steps, aligned)
        figures["loss"] = loss_figure(steps, losses_of(rows), math.log(config.label_count))
        few = [row["step"] for row in rows_for_measures(rows)]
        figures["measures"] = measure_figure(few, layers, heads)
    if collected.attention is not None:
        for index, group in enumerate(attention_groups(layers, heads)):
            names = collected.attention.names
            figures[f"attention-{index}"] = attention_figure(names, group)
            figures[f"attention-narrow-{index}"] = narrow_attention_figure(names, group)
    tests = collected.tests
    if tests is not None:
        figures["ablations"] = ablation_figure(tests.ablations, tests.untouched, random_label)
        if tests.heads is not None:
            figures["knockouts"] = knockout_figure(
                tests.knockouts, tests.heads, tests.true_words, tests.untouched, random_label
            )
    return figures
