"""Attention over the patches of pictures: their grid is the model's own, and the page shows it as it is."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
import torch
from tiny_mllm import production, task

from miclab.circuits.find import head_name
from miclab.mllm.heads import measure_heads
from miclab.mllm.overlays import overlay, patches_of, strongest_heads
from miclab.mllm.task import Item
from miclab.report.overlays import overlays_page
from miclab.worlds.roles import OTHER

WIDE = {"qwen2.5-vl": (84, 28), "qwen2-vl": (84, 56), "qwen3-vl": (28, 84)}


@torch.no_grad()
@pytest.mark.parametrize("family", WIDE)
def test_patches_are_where_the_model_puts_them(family: str, tmp_path: Path):
    from PIL import Image

    of = production(family)
    chosen = task(tmp_path, side=56)
    file, episode = tmp_path / "wide.png", chosen.episodes[0]
    Image.new("RGB", WIDE[family], (200, 30, 30)).save(file)
    # The last example has two pictures, the first of another shape.
    *others, last = episode.support
    two = replace(last, item=Item((file, *last.item.images)))
    episode = replace(episode, support=(*others, two))
    seen: list[Any] = []
    of.model.get_decoder().register_forward_pre_hook(
        lambda _, __, more: seen.append(more["position_ids"]), with_kwargs=True
    )
    encoded = of.prompter(chosen).encode([(episode, episode.answer)])
    of.model(**encoded.inputs, use_cache=False)
    # The model's positions of a picture's tokens are their rows and columns, from the picture's start.
    places = seen[0][-2:, 0]
    found = patches_of(of, encoded)
    assert [len(pictures) for pictures in found] == [1, 1, 1, 2, 1]
    shapes = set()
    for picture in (one for pictures in found for one in pictures):
        own = places[:, list(picture.positions)]
        own = own - own.min(1, keepdim=True).values
        expected = [(row, column) for row in range(picture.rows) for column in range(picture.columns)]
        assert [tuple(place) for place in own.T.tolist()] == expected
        shapes.add((picture.rows, picture.columns))
    assert len(shapes) == 2


@torch.no_grad()
@pytest.mark.parametrize(("family", "grid"), [("llava", (2, 2)), ("gemma3", (2, 2)), ("idefics3", (1, 1))])
def test_square_pictures_have_square_grids_and_unknown_ones_none(family: str, grid: tuple[int, int], tmp_path: Path):
    of = production(family)
    chosen = task(tmp_path)
    encoded = of.prompter(chosen).encode([(chosen.episodes[0], chosen.episodes[0].answer)])
    found = patches_of(of, encoded)
    assert {(one.rows, one.columns) for pictures in found for one in pictures} == {grid}
    reading, ids = encoded.readings[0], encoded.inputs["input_ids"][0]
    for number, (picture,) in enumerate(found):
        own = ((reading.roles.kind >= 0) & (reading.roles.exemplar == number)).nonzero()[:, 0].tolist()
        if grid == (1, 1):
            assert list(picture.positions) == own
        else:
            assert len({int(ids[place]) for place in picture.positions}) == 1
            assert len(picture.positions) == grid[0] * grid[1] <= len(own)


def test_the_page_lays_each_heads_attention_over_the_patches(tmp_path: Path):
    of = production("qwen2.5-vl")
    chosen = task(tmp_path, side=56, names=("perpo", "dax"))
    table = measure_heads(of, chosen)
    heads = strongest_heads(table)
    assert len(heads) == len(set(heads)) == 8
    over = [overlay(of, chosen, episode, heads) for episode in chosen.episodes[:2]]
    page = tmp_path / "attention.html"
    page.write_bytes(overlays_page("Heads", "miclab", table, heads, over))
    shares = """() => [...document.querySelectorAll("[data-items] .item")].map((item) =>
      [...item.querySelectorAll(".field")].map((field) => Number(field.style.getPropertyValue("--share"))))"""
    for width in (1280, 390):
        with browser.opened(page, viewport={"width": width, "height": 844}) as tab:
            tab.wait_for_selector(".ready")
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth)")
            for place in (0, 3):
                tab.locator('[data-choose="head"]').fill(str(place))
                assert head_name(heads[place]) in tab.locator("output[data-shown]").text_content()
                shown, attention = tab.evaluate(shares), over[0].maps[heads[place]][over[0].reading.last]
                for fields, (picture,) in zip(shown, over[0].patches, strict=True):
                    assert fields == pytest.approx([attention[own] for own in picture.positions], abs=1e-3)
                    assert len(fields) == 4
            # From the second name of the second episode, where a button chooses the head.
            tab.locator('[data-choose="episode"]').select_option("1")
            tab.locator('[data-choose="from"]').select_option("2")
            tab.locator('[data-head="5"]').click()
            source = over[1].reading.label_positions(1)[-1]
            attention = over[1].maps[heads[5]][source]
            for fields, (picture,) in zip(tab.evaluate(shares), over[1].patches, strict=True):
                assert fields == pytest.approx([attention[own] for own in picture.positions], abs=1e-3)
            # All shares of a position add up to 1.
            texts = [*tab.locator("[data-items] small").all_text_contents(), tab.locator("[data-sum]").text_content()]
            total = sum(float(number) for text in texts for number in re.findall(r"\d\.\d\d", text))
            assert total == pytest.approx(1, abs=0.06)
            # Of the text that is neither, the token with most attention is named.
            inside = over[1].reading.roles.kind[: len(attention)].numpy() != OTHER
            named = over[1].names[int(np.where(inside, -1, np.round(attention * 1000)).argmax())].strip() or "a space"
            assert f"most of it on “{named}”" in tab.locator("[data-sum]").text_content()
            before = tab.locator(".field").first.evaluate("(one) => getComputedStyle(one).backgroundColor")
            tab.locator('[data-choose="opacity"]').fill("0")
            after = tab.locator(".field").first.evaluate("(one) => getComputedStyle(one).backgroundColor")
            assert (before == after, after) == (False, "rgba(230, 97, 0, 0)")
