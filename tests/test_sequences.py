"""Sequences: bursts, labels, followers, splits, and what a batch is a function of."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_config

from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.seeds import stream
from miclab.worlds.roles import LABEL
from miclab.worlds.sequences import (
    Batch,
    ClassPlan,
    plan_bursty,
    plan_independent,
    plan_training,
    raw_training_batches,
    swap_labels,
    training_batch,
)
from miclab.worlds.splits import SPLITS, split_batches
from miclab.worlds.world import World, draw_world

JOINT = {"task": "joint_label", "groups": [4, 2]}
BURSTY = {
    "one modality": (1, {"context": 8, "burstiness": 4}),
    "B = 1": (1, {"context": 8, "burstiness": 1}),
    "two modalities": (2, {"context": 6, "burstiness": 3}),
    "three modalities": (3, {"context": 8, "burstiness": 2, "order": ["m3", "m1", "m2"], "leader": "m2"}),
    "distinct labels": (2, {"context": 8, "burstiness": 2, "distinct_labels": "on"}),
    "released distinct labels": (3, {"context": 8, "burstiness": 4, "distinct_labels": "released"}),
    "joint label": (2, {"context": 8, "burstiness": 2, **JOINT}),
    "joint and distinct": (2, {"context": 8, "burstiness": 1, "distinct_labels": "on", **JOINT}),
}


def planned(config: RunConfig, plan=plan_bursty, count: int = 400, seed: int = 0) -> tuple[World, ClassPlan]:
    world = draw_world(config)
    return world, plan(config, world, count, stream(seed, "test"))


def is_bursty(config: RunConfig, classes: dict[str, torch.Tensor]) -> list[bool]:
    """For each sequence whether its context is made of groups of B equal exemplars and its query is one of them."""
    together = torch.stack(list(classes.values()), -1).tolist()
    copies, found = config.sequence.burstiness, []
    for row in together:
        counts = Counter(map(tuple, row[:-1]))
        found.append(all(c % copies == 0 for c in counts.values()) and tuple(row[-1]) in counts)
    return found


def label_of(config: RunConfig, classes: dict[str, torch.Tensor]) -> torch.Tensor:
    """Labels by the definitions of the study."""
    if config.sequence.task == "joint_label":
        one, two = config.sequence.groups
        first, second = (classes[name] for name in config.order)
        return first % one * two + second % two
    return classes[config.leader] % config.modalities[config.leader].labels


# -- bursts and labels --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", BURSTY)
def test_bursts_labels_and_followers(name):
    """Fails if a context class stands another number of times than B, the query is not in the context, a label is not
    its class's, a follower carries another label than its leader, or distinct labels are not distinct."""
    modalities, sequence = BURSTY[name]
    config = tiny_config(modalities, sequence=sequence)
    world, plan = planned(config)
    assert all(is_bursty(config, plan.classes))
    assert torch.equal(plan.labels, label_of(config, plan.classes))
    if config.sequence.task == "shared_label":
        for modality, classes in plan.classes.items():
            assert torch.equal(world.tables[modality].label_of[classes], plan.labels)
            assert torch.equal(classes % config.modalities[modality].labels, plan.labels)
    counts = [Counter(row) for row in plan.labels[:, :-1].tolist()]
    collisions = sum(max(c.values()) > config.sequence.burstiness for c in counts)
    if config.sequence.distinct_labels == "off":
        assert collisions > 0
    else:
        assert all(set(c.values()) == {config.sequence.burstiness} for c in counts)


def test_label_collisions_have_the_frequency_of_chance():
    """Fails if context classes are drawn without putting back or are made to differ: with 2 classes in the context and
    8 labels, one sequence in 8 has a single label; with 32 classes one in 32 a single class."""
    _, plan = planned(tiny_config(sequence={"context": 8, "burstiness": 4}), count=8000)
    labels, classes = plan.labels[:, :-1], plan.classes["m1"][:, :-1]
    for values, chance in ((labels, 1 / 8), (classes, 1 / 32)):
        same = (values == values[:, :1]).all(1).double().mean()
        assert float(same) == pytest.approx(chance, abs=4 * math.sqrt(chance / 8000))


def test_the_querys_place_and_the_order_of_bursts_are_uniform():
    """Fails if copies of a class stand together, or the query prefers some places of the context."""
    config = tiny_config(sequence={"context": 4, "burstiness": 2, "distinct_labels": "on"})
    _, plan = planned(config, count=6000)
    classes, requested = plan.classes["m1"][:, :-1], plan.classes["m1"][:, -1:]
    patterns = Counter(map(tuple, (classes == classes[:, :1]).tolist()))
    # Three ways to pair four places; each as likely as the others.
    assert len(patterns) == 3
    assert min(patterns.values()) > 2000 - 5 * math.sqrt(2000)
    share = (classes == requested).double().mean(0)
    np.testing.assert_allclose(share.numpy(), 0.5, atol=4 * math.sqrt(0.25 / 6000))


def test_leader_and_followers_follow_their_own_frequencies():
    """Fails if followers are drawn uniformly or the leader by a follower's frequencies: leader m2 uniform, follower m1
    with alpha = 1, given the label."""
    modalities = {
        "m1": {"classes": 32, "dimension": 8, "labels": 8, "zipf_exponent": 1.0},
        "m2": {"classes": 16, "dimension": 6, "labels": 4},
    }
    config = tiny_config(modalities=modalities, sequence={"context": 4, "burstiness": 1})
    _, plan = planned(config, count=4000)
    # Context positions only: with B = 1 they are independent draws.
    lead, follow = (np.bincount(plan.classes[m][:, :-1].numpy().ravel(), minlength=32) for m in ("m2", "m1"))
    np.testing.assert_allclose(lead[:16] / 16_000, 1 / 16, atol=5 * math.sqrt(1 / 16 / 16_000))
    for label in range(4):
        weights = 1 / np.arange(label + 1, 33, 8)
        expected = weights / weights.sum() / 4
        np.testing.assert_allclose(follow[label::8] / 16_000, expected, atol=5 * math.sqrt(0.25 / 16_000))
    # Only the first L2 labels are used.
    assert follow[np.arange(32) % 8 >= 4].sum() == 0


@pytest.mark.parametrize("distinct", ["off", "on", "released"])
def test_only_the_released_distinct_labels_ignore_the_frequencies_of_labels(distinct):
    """Fails if `on` draws labels uniformly, or `released` by their mass: with alpha = 3 label 0 has 0.83 of it, so the
    first of two distinct labels is 0 in most sequences; released, in a quarter (2 of 8 labels)."""
    modalities = {"m1": {"classes": 32, "dimension": 8, "labels": 8, "zipf_exponent": 3.0}}
    sequence = {"context": 4, "burstiness": 2, "distinct_labels": distinct}
    _, plan = planned(tiny_config(modalities=modalities, sequence=sequence), count=4000)
    share = float((plan.labels[:, :-1] == 0).any(1).double().mean())
    mass = np.arange(1, 33) ** -3.0
    mass = mass.reshape(4, 8).sum(0) / mass.sum()
    # Successive draws without putting back: first label j, then 0.
    second = sum(mass[j] * mass[0] / (1 - mass[j]) for j in range(1, 8))
    wanted = {"off": 1 - (1 - mass[0]) ** 2, "on": mass[0] + second, "released": 0.25}[distinct]
    assert share == pytest.approx(wanted, abs=4 * math.sqrt(0.25 / 4000))


# FAULT in miclab/worlds/sequences.py: `released` ignores the labels' mass only; classes of a label still follow Zipf.
def test_released_distinct_labels_ignore_the_class_frequencies():
    """Fails if the released option still draws the classes of a label by Zipf: the paper's note says that it ignores
    alpha altogether."""
    modalities = {"m1": {"classes": 32, "dimension": 8, "labels": 8, "zipf_exponent": 3.0}}
    sequence = {"context": 4, "burstiness": 2, "distinct_labels": "released"}
    _, plan = planned(tiny_config(modalities=modalities, sequence=sequence), count=4000)
    counts = np.bincount(plan.classes["m1"][:, -1].numpy(), minlength=32)
    np.testing.assert_allclose(counts / 4000, 1 / 32, atol=5 * math.sqrt(1 / 32 / 4000))


# -- not bursty ---------------------------------------------------------------------------------------------------
def test_independent_sequences_hold_the_query_only_by_chance():
    """Fails if the query of a sequence that is not bursty is taken from its context."""
    _, plan = planned(tiny_config(sequence={"context": 8, "burstiness": 4}), plan_independent, count=8000)
    classes = plan.classes["m1"]
    inside = float((classes[:, :-1] == classes[:, -1:]).any(1).double().mean())
    chance = 1 - (31 / 32) ** 8
    assert inside == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / 8000))


@pytest.mark.parametrize("unpaired", [False, True])
def test_followers_of_independent_sequences(unpaired):
    """Fails if our followers lose the leader's label, or if the released variant keeps it: there m1's classes have
    any of its 8 labels, equal to the leader's in one of 8."""
    config = tiny_config(2, sequence={"context": 4, "burstiness": 2, "unpaired_independent": unpaired})
    _, plan = planned(config, plan_independent, count=2000)
    assert torch.equal(plan.labels, plan.classes["m2"] % 4)
    same = float((plan.classes["m1"] % 8 == plan.labels).double().mean())
    assert same == (pytest.approx(1 / 8, abs=0.015) if unpaired else 1)
    # Bursty sequences are paired in either case.
    _, bursty = planned(config)
    assert torch.equal(bursty.classes["m1"] % 8, bursty.labels)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_fraction_of_bursty_sequences(fraction):
    """Fails if p_B is not the share of bursty sequences."""
    config = tiny_config(sequence={"context": 8, "burstiness": 4, "bursty_fraction": fraction})
    _, plan = planned(config, plan_training, count=4000)
    found = np.mean(is_bursty(config, plan.classes))
    assert found == pytest.approx(fraction, abs=0.03 if fraction == 0.3 else 0)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_fraction_of_novel_sequences(fraction):
    """Fails if p_C is not the share of sequences made of novel classes, if these are not redrawn at every step, or if
    a sequence mixes novel and training classes."""
    options = {"context": 4, "burstiness": 2, "novel_fraction": fraction}
    modalities = {"m1": {"classes": 32, "dimension": 16, "labels": 8, "noise": 0.0}}
    config = tiny_config(modalities=modalities, sequence=options, optimiser={"batch_size": 2000})
    world = draw_world(config)

    def novel_items(step: int) -> torch.Tensor:
        items = training_batch(config, world, step).items["m1"]
        known = (torch.cdist(items, world.sources["m1"].prototypes) < 1e-3).any(-1)
        assert (known.all(1) | (~known).all(1)).all()
        return items[~known[:, 0]]

    novel = novel_items(0)
    assert len(novel) / 2000 == pytest.approx(fraction, abs=0.045 if fraction == 0.3 else 0)
    if fraction:
        assert torch.cdist(novel[:50, 0], novel_items(1)[:, 0]).min() > 0.05


# -- realised batches ---------------------------------------------------------------------------------------------
def test_a_batch_holds_the_items_and_labels_of_its_roles():
    """Fails if an item of one modality or exemplar stands in another's place, if labels are embedded in another's
    vector, or if copies of a class share their noise."""
    config = tiny_config(3, sequence={"context": 6, "burstiness": 3, "order": ["m3", "m1", "m2"]})
    world = draw_world(config)
    batch = training_batch(config, world, 0)
    assert batch.roles.modalities == ("m3", "m1", "m2")
    assert len(batch.roles.kind) == config.sequence_length == 4 * 6 + 3
    assert torch.equal(batch.label_vectors, world.label_embeddings[batch.labels])
    assert (batch.roles.kind == LABEL).sum() == 6
    for name, items in batch.items.items():
        nearest = torch.cdist(items, world.sources[name].prototypes).argmin(-1)
        assert torch.equal(nearest, batch.classes[name])
    flat = batch.items["m1"].flatten(0, 1)
    assert len(flat.unique(dim=0)) == len(flat)
    assert batch.placement.min() >= 0
    assert batch.placement.max() < 1
    assert batch.placement.std() > 0.15


def equal(one: Batch, other: Batch) -> bool:
    """Whether two batches have the same bits."""
    pairs = [(one.items[k], other.items[k]) for k in one.items] + [
        (one.classes[k], other.classes[k]) for k in one.classes
    ]
    pairs += [(getattr(one, k), getattr(other, k)) for k in ("label_vectors", "labels", "target", "placement")]
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_batch_is_a_function_of_config_seed_and_step():
    """Fails if any hidden state (torch's global generator, an earlier batch) decides a batch, or if steps or seeds
    repeat each other."""
    config = tiny_config(2, sequence={"context": 4, "burstiness": 2, "bursty_fraction": 0.5, "novel_fraction": 0.5})
    world = draw_world(config)
    first = training_batch(config, world, 7)
    torch.manual_seed(99)
    training_batch(config, world, 3)
    assert equal(training_batch(config, world, 7), first)
    assert equal(training_batch(config, draw_world(config), 7), first)
    for other in (training_batch(config, world, 8), training_batch(replace(config, seed=1), world, 7)):
        for name in ("label_vectors", "target", "placement"):
            assert not torch.equal(getattr(other, name), getattr(first, name))
    assert len(first.rows(slice(2, 5))) == 3
    assert torch.equal(first.rows(slice(2, 5)).items["m2"], first.items["m2"][2:5])


@pytest.mark.parametrize(("first", "end"), [(0, 20), (5, 13), (7, 9), (4, 4)])
def test_raw_batches_of_training_are_those_of_its_steps(first, end):
    """Fails if drawing several at a time leaves one out, repeats one, or lets one decide the next."""
    config = tiny_config(2, optimiser={"batch_size": 4}, sequence={"novel_fraction": 0.5})
    world = draw_world(config)
    raw_batches = list(raw_training_batches(config, world, first, end))
    assert len(raw_batches) == end - first
    for step, raw in enumerate(raw_batches, first):
        assert equal(raw.batch(), training_batch(config, world, step))


# -- splits -------------------------------------------------------------------------------------------------------
def batches(config: RunConfig, split: str, **sizes: int) -> list[tuple[World, Batch]]:
    options = {"sequences": 200, "novel_sets": 3, **sizes}
    return list(split_batches(config, draw_world(config), split, SplitSizes(**options)))


@pytest.mark.parametrize("split", SPLITS)
def test_splits_do_not_depend_on_training(split):
    """Fails if an evaluation sees another set of sequences after training or under another optimiser, or shares a
    training batch's random stream."""
    config = tiny_config(2)
    world = draw_world(config)
    before = batches(config, split)
    training_batch(config, world, 0)
    torch.rand(3)
    other = replace(config, optimiser=replace(config.optimiser, batch_size=200, learning_rate=0.5))
    assert len(before) == (3 if split == "icl" else 1)
    for (_, one), (_, two) in zip(before, batches(other, split), strict=True):
        assert equal(one, two)
    assert not torch.equal(before[0][1].placement, training_batch(other, world, 0).placement)
    assert not equal(before[0][1], batches(replace(config, seed=1), split)[0][1])


@pytest.mark.parametrize(("modalities", "sequence", "active"), [(1, {}, 8), (2, {}, 4), (2, JOINT, 8)])
@pytest.mark.parametrize("shift", [1, 2])
def test_swapped_labels_are_consistent(modalities, sequence, active, shift):
    """Fails if the target is shifted otherwise than the context, by another amount, or mod another number of labels
    than the task uses: every label is the class's plus the shift, and the query's label stands in the context beside
    an item of its class."""
    options = {"context": 4, "burstiness": 2, "swapped_shift": shift, **sequence}
    config = tiny_config(modalities, sequence=options)
    assert config.active_labels == active
    [(world, batch)] = batches(config, "swapped")
    labels = torch.cat([batch.labels, batch.target[:, None]], 1)
    assert torch.equal(labels, (label_of(config, dict(batch.classes)) + shift) % active)
    assert all(is_bursty(config, dict(batch.classes)))
    assert torch.equal(batch.label_vectors, world.label_embeddings[batch.labels])
    same = torch.stack([c[:, :-1] == c[:, -1:] for c in batch.classes.values()]).all(0)
    assert ((batch.labels == batch.target[:, None]) | ~same).all()
    assert same.any(1).all()
    plan = ClassPlan(dict(batch.classes), labels)
    assert torch.equal(swap_labels(config, plan).labels, (labels + shift) % active)


def test_kinds_of_sequences_and_classes_of_each_split():
    """Fails if a split draws other classes, labels or sequences than the table of splits says, with p_B = 0 and alpha
    = 2 in training: `icl` and `swapped` are bursty all the same, `icl` is uniform over novel classes."""
    modalities = {"m1": {"classes": 64, "dimension": 16, "labels": 8, "noise": 0.0, "zipf_exponent": 2.0}}
    sequence = {"context": 8, "burstiness": 4, "bursty_fraction": 0.0}
    config = tiny_config(modalities=modalities, sequence=sequence)
    known = draw_world(config).sources["m1"].prototypes
    for split, bursty in (("train", False), ("icl", True), ("swapped", True), ("iwl", False)):
        for world, batch in batches(config, split, sequences=400):
            found = np.mean(is_bursty(config, dict(batch.classes)))
            assert found == 1 if bursty else found < 0.7
            trained = (torch.cdist(batch.items["m1"], known) < 1e-3).any(-1)
            assert (~trained).all() if split == "icl" else trained.all()
            most = float((batch.classes["m1"] == 0).double().mean())
            assert most < 0.03 if split == "icl" else most > 0.4
            true = batch.classes["m1"] % 8
            assert torch.equal(batch.target, true[:, -1]) == (split != "swapped")
            assert torch.equal(world.sources["m1"].prototypes, known) == (split != "icl")
    sets = [world.sources["m1"].prototypes for world, _ in batches(config, "icl")]
    assert len({float(s.sum()) for s in sets}) == 3
