"""Metric rows of a group, computed for all lanes at once, against the rows of each run by itself."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import own_doors  # noqa: F401  (`linear_example` is in the registry)
import pytest
import torch
from test_encoders import classifying, gaussian
from test_lanes import FOUR, REQUEST, elsewhere, together
from tiny import tiny_config
from torch._subclasses.fake_tensor import FakeTensorMode

from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.measures import evaluate, lane_scores
from miclab.measures.lane_scores import LaneDecoder, batch_tensors
from miclab.measures.registry import Measure, chosen
from miclab.model.classifier import model_of
from miclab.training import lane_program, lane_rows, loop, trajectory
from miclab.training.lane_program import mapped
from miclab.training.lane_rows import LaneRows, lanes_at_once
from miclab.training.lanes import Lanes
from miclab.training.loop import prepared
from miclab.worlds.sequences import training_batch
from miclab.worlds.splits import split_batches
from miclab.worlds.world import draw_world

SIZES = SplitSizes(sequences=24, novel_sets=2)
COUNTED = ("accuracy", "icl_sets", "context_label_accuracy", "nearest_sets")
"""Shares of answers, in which a tie of logits may go either way."""


def weights(config: RunConfig) -> dict[str, torch.Tensor]:
    """Initial parameters, large enough that every part counts."""
    generator = torch.Generator().manual_seed(config.seed)
    first = model_of(config).initial_parameters(config.weights_seed)
    return {n: p + 0.2 * torch.randn(p.shape, generator=generator) for n, p in first.items()}


def stacked(configs: list[RunConfig]) -> dict[str, torch.Tensor]:
    """Parameters of a group whose idle lanes hold nothing."""
    own = [weights(config) for config in configs]
    idle = {name: torch.full_like(value, torch.nan) for name, value in own[0].items()}
    return {name: torch.stack([one[name] for one in [*own, *[idle] * (4 - len(own))]]) for name in idle}


def rows_of(
    configs: list[RunConfig], sizes: list[SplitSizes] | None = None, texts: list[str] | None = None
) -> LaneRows:
    worlds = [draw_world(config) for config in configs]
    say = (lambda text: None) if texts is None else texts.append
    return LaneRows(configs, worlds, sizes or [SIZES] * len(configs), torch.device("cpu"), say)


def flat(row: Any, name: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], float | None]:
    """Numbers of a row by their place in it."""
    if isinstance(row, (dict, list)):
        parts = row.items() if isinstance(row, dict) else enumerate(row)
        return {place: value for key, part in parts for place, value in flat(part, (*name, key)).items()}
    return {name: row}


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Raises AssertionError unless two rows are equal but for rounding of floats, and one tie in each share."""
    mine, theirs = flat(one), flat(other)
    assert list(mine) == list(theirs)
    for place, value in mine.items():
        if value is None or theirs[place] is None:
            assert value == theirs[place], place
            continue
        near = 1.01 / SIZES.sequences if place[0] in COUNTED else 2e-3 if "retrieval" in place else 1e-4
        assert value == pytest.approx(theirs[place], abs=near), place


def unlike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a number of a row is far from that of another."""
    mine, theirs = ({place: value for place, value in flat(row).items() if value is not None} for row in (one, other))
    return any(abs(value - theirs.get(place, value)) > 0.01 for place, value in mine.items())


VARIANTS = {
    "default": tiny_config(),
    "one-hot, a learnt share": tiny_config(decoder={"positions": "onehot", "attention": "previous_token"}),
    "attention without a pattern": tiny_config(decoder={"attention": "linear_example"}),
    "pairs of classes": tiny_config(2, sequence={"pairing": "class"}),
    "an encoder": classifying(gaussian("mlp", labels=16)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_rows_of_all_lanes_at_once_are_the_rows_of_each_run(name):
    """Fails if a lane is measured with another lane's weights, sequences or pairs, or a number is left out."""
    configs = [replace(VARIANTS[name], numerics=FOUR, seed=seed) for seed in range(2)]
    rows, parameters = rows_of(configs), stacked(configs)
    wanted = {lane: rows.alone(parameters, lane) for lane in range(2)}
    first = rows.rows(parameters, range(2))
    assert not rows.one_by_one
    assert rows.held
    for split in () if rows.config.is_classification else ("train", "swapped", "iwl"):
        for lane, config in enumerate(configs):
            own = [batch_tensors(batch) for _, batch in split_batches(config, rows.worlds[lane], split, SIZES)]
            mine = [mapped(lambda value, lane=lane: value[lane], given) for given in rows.held[split, SIZES]]
            assert len(mine) == len(own)
            for one, other in zip(mine, own, strict=True):
                torch.testing.assert_close(one, other)
    # The second row is of kept sequences; then nothing may be kept, and two lanes are computed at once.
    second = rows.rows(parameters, [1])
    rows.held, rows.room = {}, 0
    for parts in rows.parts.values():
        parts.at_once = 2
    third = rows.rows(parameters, [1, 0])
    assert (list(second), sorted(third), rows.held) == ([1], [0, 1], {})
    for lane, row in [*first.items(), *second.items(), *third.items()]:
        same(row, wanted[lane])
    assert unlike(wanted[0], wanted[1])


def test_what_does_not_fit_takes_no_room_from_what_does():
    """Fails if a split that is too large to keep makes all smaller ones be drawn for every row."""
    config = replace(tiny_config(decoder={"layers": 1}), numerics=FOUR)
    many = replace(SIZES, sequences=8, novel_sets=4)
    rows, parameters = rows_of([config], [many]), stacked([config])
    rows.rows(parameters, [0])
    sizes = {split: sum(map(lane_rows._size, rows.held[split, many])) for split in ("train", "icl", "swapped", "iwl")}
    small = rows_of([config], [many])
    small.room = sum(sizes.values()) - sizes["icl"]
    assert small.room < sizes["icl"] + sizes["train"]
    for _ in range(2):
        same(small.rows(parameters, [0])[0], rows.rows(parameters, [0])[0])
        assert {key[0] for key in small.held} == {"train", "swapped", "iwl"}
        assert small.room >= 0


def test_a_row_depends_neither_on_neighbours_nor_on_its_place():
    """Fails if a lane's row changes with who else is in the group, who needs a row, or other sizes of a neighbour."""
    configs = [replace(tiny_config(decoder={"layers": 1}), numerics=FOUR, seed=seed) for seed in range(4)]
    full = rows_of(configs).rows(stacked(configs), range(4))
    alone = rows_of(configs[3:]).rows(stacked(configs[3:]), [0])
    turned, sizes = [configs[3], configs[0], configs[2]], [SIZES, replace(SIZES, sequences=8), SIZES]
    some = rows_of(turned, sizes).rows(stacked(turned), [0, 1, 2])
    same(alone[0], full[3])
    same(some[0], full[3])
    same(some[2], full[2])
    other = rows_of([turned[1]], [sizes[1]])
    same(some[1], other.rows(stacked([configs[0]]), [0])[0])
    assert unlike(full[3], full[2])


def branching(pattern: torch.Tensor) -> torch.Tensor:
    """A measure that decides by a value, as `vmap` cannot."""
    return pattern[:, :, -1].amax(-1) if float(pattern.sum()) > 0 else pattern[:, :, -1].amin(-1)


def test_a_measure_that_vmap_does_not_take_is_lane_by_lane(monkeypatch):
    """Fails if a user's measure ends the group, is left out, moves in the row, or is not named, once."""
    own = Measure("test_branching", branching, ("pattern",), (0, 1), "", "", lambda config: ())
    measures = (own, *chosen(True)[:2])
    for module in (evaluate, lane_scores):
        monkeypatch.setattr(module, "measures_of", lambda decoder, parameters: measures)
    configs = [replace(tiny_config(decoder={"layers": 1}), numerics=FOUR, seed=seed) for seed in range(2)]
    texts: list[str] = []
    rows, parameters = rows_of(configs, texts=texts), stacked(configs)
    for _ in range(2):
        for lane, row in rows.rows(parameters, range(2)).items():
            assert next(iter(row["measures"])) == "test_branching"
            same(row, rows.alone(parameters, lane))
    assert len(texts) == 1
    assert texts[0].startswith("test_branching cannot be measured for all lanes at once")
    assert not rows.one_by_one


@pytest.mark.parametrize("error", [RuntimeError("vmap: no such rule"), torch.OutOfMemoryError("CUDA out of memory.")])
def test_what_cannot_be_computed_at_once_is_one_by_one(error, monkeypatch):
    """Fails if a group ends where its rows cannot be computed together, or does not say so once."""

    def fails(*given):
        raise error

    monkeypatch.setattr(lane_rows.LaneDecoder, "answers", fails)
    config = replace(tiny_config(decoder={"layers": 1}), numerics=FOUR)
    texts: list[str] = []
    rows, parameters = rows_of([config], texts=texts), stacked([config])
    for _ in range(2):
        assert rows.rows(parameters, [0]) == {0: rows.alone(parameters, 0)}
    assert [("one by one" in text) for text in texts].count(True) == 1
    assert texts[-1].startswith("metric rows cannot be computed for all lanes at once")


def test_a_group_that_trains_as_one_program_measures_as_one(tmp_path, monkeypatch):
    """Fails if a run of such a group measures itself, a row has another step or lane, or a diverged run is measured."""
    calls: list[tuple[int, ...]] = []

    class Counted(LaneRows):
        def rows(self, parameters, lanes):
            calls.append(tuple(lanes))
            return super().rows(parameters, lanes)

    config = replace(tiny_config(optimiser={"name": "sgd", "learning_rate": 0.1}, decoder={"layers": 1}), numerics=FOUR)
    wild = replace(config, seed=1, optimiser=replace(config.optimiser, learning_rate=1e30))
    configs = [config, wild, replace(config, seed=2)]
    single, group = tmp_path / "single", tmp_path / "group"
    request = replace(REQUEST, steps=2, evaluate_every=2)
    assert together(configs[2:], single, [request]) == ["finished"]
    monkeypatch.setattr(loop, "Lanes", partial(Lanes, together=True))
    monkeypatch.setattr(loop, "LaneRows", Counted)
    monkeypatch.delattr(trajectory, "metric_row")
    assert together(configs, group, [request] * 3) == ["finished", "diverged", "finished"]
    # A fresh row, and rows after both steps. The second run's weights or its loss end in these.
    assert calls[0] == (0, 1, 2)
    assert calls[-1] == (0, 2)
    assert len(calls) == 3
    mine, theirs = (prepared(configs[2], root).run.rows() for root in (group, single))
    assert [row["step"] for row in mine] == [row["step"] for row in theirs] == [0, 1, 2]
    for row, other in zip(mine, theirs, strict=True):
        same({**row, "loss": 0.0}, {**other, "loss": 0.0})


def test_the_lanes_that_are_measured_at_once_divide_the_group(monkeypatch):
    """Fails if the parts of a group are unequal, so that a lane's place counts, or a large group needs any memory."""
    config = replace(tiny_config(), numerics=replace(FOUR, lanes=12))
    assert lanes_at_once(config, 512) == 12
    monkeypatch.setattr(lane_rows, "AT_ONCE", lane_rows.AT_ONCE // 2**30)
    assert lanes_at_once(config, 512) == 1
    found = []
    for limit in range(16, 32):
        monkeypatch.setattr(lane_rows, "AT_ONCE", 2**limit)
        found.append(lanes_at_once(config, 512))
    assert found == sorted(found)
    assert {12 % number for number in found} == {0}
    assert len(set(found)) > 1
    assert lanes_at_once(config, 1) >= lanes_at_once(config, 512)


@pytest.mark.parametrize("attention", ["softmax", "forgetting", "by_layer:each=[previous_token,softmax]"])
def test_measures_of_a_group_on_another_device_meet_no_tensor_of_the_cpu(attention, monkeypatch):
    """Fails if a mask, roles or what stands for no value stay behind, so that a GPU would refuse the measures."""
    # Its rows are found by values, which fakes have not.
    measures = tuple(one for one in chosen(True) if one.name != "label_row_entropy")
    monkeypatch.setattr(lane_scores, "measures_of", lambda decoder, parameters: measures)
    config = replace(tiny_config(2, decoder={"attention": attention}), numerics=FOUR)
    batch = training_batch(config, draw_world(config), 0)
    given, parameters = lane_program.stacked([batch_tensors(batch)] * 4), stacked([config])
    texts: list[str] = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        there, weights_there = mapped(elsewhere, given), mapped(elsewhere, parameters)
        decoder = LaneDecoder(config, {n: v[0] for n, v in weights_there.items()}, lambda *said: texts.extend(said))
        found = decoder.measured(weights_there, there)
    assert not texts
    assert {value.device.type for value in (found["correct"], *found["sums"].values())} == {"meta"}
    assert len(found["sums"]) > 5
