"""Pairs of clean and corrupted prompts: what each corruption changes, where, and which episodes have no pair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_mllm import production, task

from miclab.errors import ConfigError
from miclab.mllm.episode_pairs import (
    BEGIN_ALIKE,
    CORRUPTIONS,
    NO_RIVAL,
    UNCHANGED,
    UNEQUAL,
    answer_logits,
    left_out_notes,
    pairs,
    rival_of,
)
from miclab.mllm.errors import TaskError
from miclab.mllm.task import Episode, Example, Item
from miclab.worlds.roles import LABEL


def written(episode: Episode) -> str:
    """Items with their labels, the query and its answer, as one line."""
    shown = [f"{one.item.text}{one.answer}" for one in episode.support]
    return f"{' '.join(shown)} {episode.query.text}->{episode.answer}"


def by_hand() -> Episode:
    items = [Item(text=text) for text in ("a1", "c1", "b1", "a2", "b2", "a3")]
    support = tuple(Example(item, text) for item, text in zip(items[:5], "ACBAB", strict=True))
    return Episode("by hand", support, items[5], "A")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("labels_swapped", "a1C c1A b1B a2C b2B a3->C"),
        # The rival C has one example, so that its item stands in the place of both of A.
        ("items_swapped", "c1A a1C b1B c1A b2B a3->C"),
        ("query_other", "a1A c1C b1B a2A b2B c1->C"),
    ],
)
def test_corruptions_of_an_episode_written_by_hand(name: str, expected: str):
    episode = by_hand()
    assert rival_of(episode) == "C"
    assert written(CORRUPTIONS[name].function(episode, "C")) == expected
    assert written(episode) == "a1A c1C b1B a2A b2B a3->A"


@pytest.mark.parametrize("family", ["qwen2.5-vl", "llama", "gemma3"])
@pytest.mark.parametrize("corruption", list(CORRUPTIONS))
@torch.no_grad()
def test_a_pair_differs_where_its_corruption_says(family: str, corruption: str, tmp_path: Path):
    """Fails if rows of the two prompts do not belong together, or a prompt is not that of its episode."""
    of = production(family)
    chosen = task(tmp_path, of.view, names=("perpo", "blicket"))
    lost: dict[str, str] = {}
    left_out: dict[str, str] = {}
    found = list(pairs(of, chosen, corruption, 2, lost, left_out))
    assert (lost, left_out) == ({}, {})
    assert [one.names for one in found] == [("episode 0", "episode 1"), ("episode 2",)]
    for lot in found:
        ids, other = lot.clean.inputs["input_ids"], lot.corrupted.inputs["input_ids"]
        for row, reading in enumerate(lot.clean.readings):
            differ = (ids[row] != other[row]).nonzero()[:, 0].tolist()
            labels = (reading.roles.kind == LABEL).nonzero()[:, 0].tolist()
            query = (reading.roles.exemplar == reading.roles.context).nonzero()[:, 0].tolist()
            if corruption == "labels_swapped":
                assert set(differ) <= set(labels)
                assert differ == labels
            elif of.view == "image":
                assert differ == []
            else:
                inside = query if corruption == "query_other" else range(min(query))
                assert set(differ) <= set(inside) - set(labels)
                assert differ
            assert int(lot.right[row]) == lot.clean.ids(row, reading.answer_positions)[0]
            # One alone, encoded anew, has the same logits.
            changed = CORRUPTIONS[corruption].function(reading.episode, rival_of(reading.episode) or "")
            prompter = of.prompter(chosen)
            for batch, episode in ((lot.clean, reading.episode), (lot.corrupted, changed)):
                alone = prompter.encode([(episode, reading.episode.answer)])
                logits = of.model(**alone.inputs, use_cache=False).logits[:, alone.readings[0].last]
                torch.testing.assert_close(answer_logits(of, batch)[row : row + 1], logits, atol=1e-4, rtol=1e-4)
                rival = prompter.encode([(episode, changed.answer)])
                assert int(lot.rival[row]) == rival.ids(0, rival.readings[0].answer_positions)[0]
                own = logits[0, lot.right[row]] - logits[0, lot.rival[row]]
                assert float(lot.difference(answer_logits(of, batch))[row]) == pytest.approx(float(own), abs=1e-4)


def test_episodes_without_a_pair_are_counted_by_reason(tmp_path: Path):
    of = production("llama")
    good = task(tmp_path, "text", names=("perpo", "blicket"))
    first = good.episodes[0]
    alike, unequal = (
        task(tmp_path, "text", names=names).episodes[0] for names in (("zib", "zid"), ("perpo", "zibbelwock"))
    )
    single = replace(first, support=tuple(one for one in first.support if one.answer == first.answer))
    absent = replace(first, answer="toma")
    same = replace(first, query=first.support[3].item)
    made = replace(good, episodes=tuple(
        replace(one, name=name) for name, one in
        {"good": first, "alike": alike, "unequal": unequal, "single": single, "absent": absent, "same": same}.items()
    ))  # fmt: skip
    lost: dict[str, str] = {}
    left_out: dict[str, str] = {}
    (lot,) = pairs(of, made, "labels_swapped", 0, lost, left_out)
    assert lot.names == ("good", "same")
    assert left_out == {"alike": BEGIN_ALIKE, "unequal": UNEQUAL, "single": NO_RIVAL, "absent": NO_RIVAL}
    assert f"2 episodes were left out: {NO_RIVAL}." in left_out_notes(left_out)
    left_out = {}
    (lot,) = pairs(of, made, "query_other", 0, lost, left_out)
    assert left_out["same"] == UNCHANGED
    with pytest.raises(TaskError, match=r"no pair of prompts.* 1 episode was left out: clean and corrupted .*Choose"):
        list(pairs(of, replace(made, episodes=(unequal,)), "labels_swapped", 0, {}, {}))
    with pytest.raises(ConfigError, match="labels_swapped, items_swapped, query_other"):
        list(pairs(of, made, "labels_swaped", 0, {}, {}))
