"""The world: items, class frequencies, labels, novel classes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_config

from miclab.config.run import RunConfig, two_modalities
from miclab.errors import RunError
from miclab.seeds import stream, stream_seed
from miclab.worlds.world import (
    ClassTable,
    GaussianSource,
    draw_world,
    novel_class_count,
    novel_world,
    world_from_tensors,
    zipf_weights,
)


@pytest.mark.parametrize(("noise", "dimension"), [(0.0, 64), (0.1, 64), (1.0, 32)])
def test_items_have_norm_one_and_the_noise_that_was_requested(noise, dimension):
    """Fails if an item is not scaled by 1 / sqrt(1 + eps^2), or if eps is per dimension instead of per item: the mean
    squared norm is 1 and the variance within a class is eps^2 / (1 + eps^2), both to 3 standard errors."""
    config = tiny_config(modalities={"m1": {"classes": 512, "dimension": dimension, "noise": noise, "labels": 8}})
    source = draw_world(config).sources["m1"]
    classes = torch.arange(512).repeat_interleave(20)
    items = source.draw(classes, stream(0, "test")).view(512, 20, dimension).double()
    within = items.var(1).sum(-1).mean()
    expected = noise**2 / (1 + noise**2)
    assert float(within) == pytest.approx(expected, abs=3 * expected * math.sqrt(2 / (dimension * 512 * 19)) + 1e-12)
    norm = items.square().sum(-1).mean(1)
    assert float(norm.mean()) == pytest.approx(1, abs=3 * math.sqrt(2 / dimension / 512))
    # A class's items stand around its own prototype.
    centre = source.prototypes.double() / math.sqrt(1 + noise**2)
    error = (items.mean(1) - centre).square().sum(-1).mean()
    assert float(error) == pytest.approx(expected / 20, rel=0.1, abs=1e-10)


def test_prototypes_and_label_embeddings_are_normal_with_variance_one_over_dimension():
    """Fails if rows have another variance than 1/D, are correlated, or labels are drawn in another space."""
    world = draw_world(RunConfig(modalities=two_modalities()))
    assert world.label_embeddings.shape == (32, 64)
    for rows in (world.sources["m1"].prototypes, world.sources["m2"].prototypes):
        count, dimension = rows.shape
        assert float(rows.var()) == pytest.approx(1 / dimension, rel=4 * math.sqrt(2 / rows.numel()))
        assert abs(float(rows.mean())) < 4 / math.sqrt(rows.numel() * dimension)
        kurtosis = float((rows.double() ** 4).mean() * dimension**2)
        assert kurtosis == pytest.approx(3, abs=4 * math.sqrt(96 / rows.numel()))
        neighbours = (rows[1:] * rows[:-1]).sum(-1).mean()
        assert abs(float(neighbours)) < 4 / math.sqrt(dimension * count)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.7])
def test_class_frequencies_follow_zipf(exponent):
    """Fails if a class has another mass than k^-alpha / sum, exactly in the table, and by chi-square in the draws."""
    count, draws = 64, 40_000
    table = ClassTable(torch.arange(count) % 8, zipf_weights(count, exponent))
    weights = np.arange(1, count + 1) ** -exponent
    probabilities = weights / weights.sum()
    drawn = np.bincount(table.draw((200, draws // 200), stream(1, "test")).numpy().ravel(), minlength=count)
    chi_square = ((drawn - draws * probabilities) ** 2 / (draws * probabilities)).sum()
    # 63 degrees of freedom: mean 63, standard deviation 11.2.
    assert chi_square < 63 + 5 * 11.2
    by_label = [probabilities[np.arange(count) % 8 == label].sum() for label in range(8)]
    np.testing.assert_allclose(table.label_mass.numpy(), by_label, rtol=1e-12)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_classes_of_a_label_follow_their_own_frequencies_given_the_label(exponent):
    """Fails if a follower's class is drawn uniformly, or by all classes' frequencies instead of its label's."""
    table = ClassTable(torch.arange(40) % 5, zipf_weights(40, exponent))
    drawn = table.draw_with_label(torch.full((30_000,), 3), stream(2, "test")).numpy()
    weights = (np.arange(3, 40, 5) + 1.0) ** -exponent
    expected = 30_000 * weights / weights.sum()
    found = np.bincount(drawn, minlength=40)
    assert found[3::5].sum() == 30_000
    # 7 degrees of freedom: mean 7, standard deviation 3.7.
    assert ((found[3::5] - expected) ** 2 / expected).sum() < 7 + 5 * 3.7


@given(st.data())
def test_a_draw_with_a_label_never_leaves_the_label(data):
    """Fails if rounding at a label's edge hands out a neighbour's class: any labels, masses over 300 orders of
    magnitude, and levels at both ends of [0, 1)."""
    labels = data.draw(st.integers(1, 6))
    label_of = [*range(labels), *data.draw(st.lists(st.integers(0, labels - 1), max_size=30))]
    powers = st.floats(-300, 0)
    weights = 10 ** np.array(data.draw(st.lists(powers, min_size=len(label_of), max_size=len(label_of))))
    table = ClassTable(torch.tensor(label_of), torch.tensor(weights))
    requested = torch.arange(labels).repeat(50)
    drawn = table.draw_with_label(requested, stream(data.draw(st.integers(0, 1000)), "test"))
    assert torch.equal(torch.tensor(label_of)[drawn], requested)
    anywhere = table.draw((100,), stream(0, "test"))
    assert anywhere.min() >= 0
    assert anywhere.max() < len(label_of)


@pytest.mark.parametrize(
    ("first", "second", "labels", "given", "expected"),
    [
        (8192, 256, 16, 0, 16),
        (8192, 8192, 16, 0, 128),
        (8192, 1024, 16, 0, 16),
        (8192, 3072, 16, 0, 48),
        (4096, 1088, 16, 0, 32),
        (8192, 256, 16, 128, 128),
    ],
)
def test_number_of_novel_classes(first, second, labels, given, expected):
    """Fails if the paper's rule max(L, floor(128 K2 / K1 / L) L), 128 for the host, or its override is wrong."""
    modalities = {
        "m1": {"classes": first},
        "m2": {"classes": second, "dimension": 32, "labels": labels, "novel_classes": given},
    }
    config = tiny_config(2, modalities=modalities)
    assert novel_class_count(config, "m1") == 128
    assert novel_class_count(config, "m2") == expected


def test_novel_classes_are_fresh_uniform_and_share_the_labels():
    """Fails if novel classes repeat each other or training's, keep Zipf frequencies, or get other label embeddings."""
    config = tiny_config(modalities={"m1": {"classes": 256, "dimension": 16, "labels": 8, "zipf_exponent": 2.0}})
    world = draw_world(config)
    one, other = (novel_world(config, world, "evaluation", index) for index in range(2))
    prototypes = [w.sources["m1"].prototypes for w in (world, one, other)]
    for i in range(3):
        for j in range(i):
            assert torch.cdist(prototypes[i], prototypes[j]).min() > 0.05
    assert torch.equal(one.label_embeddings, world.label_embeddings)
    assert torch.equal(one.tables["m1"].label_of, torch.arange(128) % 8)
    drawn = torch.bincount(one.tables["m1"].draw((25_600,), stream(0, "test")), minlength=128).double()
    assert float(((drawn - 200) ** 2 / 200).sum()) < 127 + 5 * math.sqrt(2 * 127)
    # The world of training keeps its frequencies: class 0 has 1 / zeta(2) of the mass.
    first = (world.tables["m1"].draw((20_000,), stream(0, "test")) == 0).float().mean()
    assert float(first) == pytest.approx(6 / math.pi**2, abs=0.02)


def test_a_world_is_rebuilt_from_its_tensors_and_kept_by_stage_two():
    """Fails if stage 2 draws the parent's prototypes anew, or if a world of other shapes is taken."""
    one, two = tiny_config(1), tiny_config(2)
    world = draw_world(one)
    again = world_from_tensors(one, world.tensors())
    assert torch.equal(again.sources["m1"].prototypes, world.sources["m1"].prototypes)
    other_seed = replace(two, seed=5)
    kept = draw_world(other_seed, world.tensors())
    assert torch.equal(kept.sources["m1"].prototypes, world.sources["m1"].prototypes)
    assert torch.equal(kept.label_embeddings, world.label_embeddings)
    assert not torch.equal(draw_world(other_seed).label_embeddings, world.label_embeddings)
    assert kept.sources["m2"].prototypes.shape == (16, 6)
    with pytest.raises(RunError, match=r"prototypes\.m2 should have shape \(16, 6\)"):
        world_from_tensors(two, world.tensors())
    with pytest.raises(RunError, match="label_embeddings should have shape"):
        world_from_tensors(one, {**world.tensors(), "label_embeddings": torch.zeros(3, 8)})


def test_the_joint_task_deals_classes_over_groups():
    """Fails if classes get their modality's labels where the joint-label task needs groups."""
    config = tiny_config(2, sequence={"context": 4, "burstiness": 2, "task": "joint_label", "groups": [4, 2]})
    world = draw_world(config)
    assert torch.equal(world.tables["m1"].label_of, torch.arange(32) % 4)
    assert torch.equal(world.tables["m2"].label_of, torch.arange(16) % 2)
    assert len(world.label_embeddings) == 8


def test_streams_are_functions_of_seed_and_name():
    """Fails if two names or seeds share a stream, or one name gives two."""
    names = [(0, "batch", 1), (1, "batch", 1), (0, "batch", 2), (0, "batch"), (0, "batches", 1), (0, "batch", 11)]
    assert len({stream_seed(*name) for name in names}) == len(names)
    assert stream_seed(0, "batch", 1) == stream_seed(0, "batch", 1)
    assert all(0 <= stream_seed(*name) < 2**63 for name in names)


def test_a_source_draws_items_of_any_arrangement():
    """Fails if items are handed to other places than their classes."""
    source = GaussianSource(torch.eye(4), 0.0)
    classes = torch.tensor([[0, 1, 2], [3, 3, 0]])
    assert torch.equal(source.draw(classes, stream(0)).argmax(-1), classes)
