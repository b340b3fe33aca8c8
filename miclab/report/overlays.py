"""The page of the ten strongest heads of a production model: their attention laid over the pictures of an episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from miclab.circuits.find import Head, head_name
from miclab.measures.registry import describe
from miclab.mllm.head_names import PLACES
from miclab.mllm.heads import HeadTable
from miclab.mllm.options import INDUCTION, PREVIOUS_TOKEN
from miclab.mllm.overlays import Overlay
from miclab.report.html import render
from miclab.report.models import picture
from miclab.worlds.roles import LABEL

PARTS = 1000
"""Attention is in thousandths, so that a page stays small."""


def _sources(one: Overlay) -> list[tuple[str, int]]:
    """Positions from which heads look, in words: the last, which predicts the answer, and the last of each label."""
    reading = one.reading
    found = [("the last position, before the answer", reading.last)]
    for number, example in enumerate(reading.episode.support):
        found.append((f"name {number + 1}, {example.answer}", reading.label_positions(number)[-1]))
    return found


def _episode(one: Overlay) -> dict[str, Any]:
    """An episode as plain data for the page's script."""
    reading, sources = one.reading, _sources(one)
    kind, exemplar = reading.roles.kind.tolist(), reading.roles.exemplar.tolist()
    episode = reading.episode
    items = []
    for number, (item, answer) in enumerate([*((e.item, e.answer) for e in episode.support), (episode.query, "?")]):
        own = [place for place in range(reading.length) if exemplar[place] == number]
        patches = one.patches[number] if one.patches else ()
        items.append({
            "answer": answer, "wanted": answer == episode.answer, "text": "" if patches else item.text,
            "item": [place for place in own if kind[place] >= 0],
            "label": [place for place in own if kind[place] == LABEL],
            "pictures": [
                {"source": picture(path), "rows": grid.rows, "columns": grid.columns, "positions": grid.positions}
                for path, grid in zip(item.images, patches, strict=False)
            ],
        })  # fmt: skip
    rows = {
        head_name(head): [[round(float(value) * PARTS) for value in attention[place]] for _, place in sources]
        for head, attention in one.maps.items()
    }
    return {"name": episode.name, "answer": episode.answer, "items": items, "sources": [words for words, _ in sources],
            "tokens": [name.strip() or "a space" for name in one.names], "attention": rows}  # fmt: skip


def _words(table: HeadTable, heads: Sequence[Head]) -> list[dict[str, Any]]:
    """What each head does, in words."""
    called = {(one.head, one.place): one for one in table.called(PLACES, len(table.heads))}
    total = {head: number for number, head in enumerate(table.heads)}
    found = []
    for head in heads:
        ranks = {measure: table.ranked(measure).index(head) + 1 for measure in (PREVIOUS_TOKEN, INDUCTION)}
        measure = min(ranks, key=lambda name: ranks[name])
        one = called.get((head, PLACES[measure]))
        strength = table.intervals[measure][total[head]]
        found.append({
            "head": head_name(head), "called": one.pattern if one else "",
            "words": f"number {ranks[measure]} of {len(total)} by {describe(measure)[0].lower()}: {strength}",
        })  # fmt: skip
    return found


def overlays_page(title: str, command: str, table: HeadTable, heads: Sequence[Head], shown: Sequence[Overlay]) -> bytes:
    """One self-contained page.

    Arguments:
        title: of the page.
        command: the command that made it.
        table: strengths of all heads.
        heads: those that are shown, the first first.
        shown: their attention on some episodes.
    """
    episodes, words = [_episode(one) for one in shown], _words(table, heads)
    known = any(patches.rows * patches.columns > 1 for one in shown for of in one.patches for patches in of)
    data = {"heads": words, "episodes": episodes, "parts": PARTS}
    return render("overlays.html", title, data, ["overlays.js"], command=command, heads=words, episodes=episodes,
                  patched=known, measured=table.episodes, task=table.task)  # fmt: skip
