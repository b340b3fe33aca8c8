"""CKA and alignment: exact values where there are any, the bias where it is known, and the null of shuffled pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_config, tiny_mapping

from miclab.config import schema
from miclab.config.request import Request, SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import RunError
from miclab.measures.alignment import (
    ROW_SHUFFLES,
    ROWS,
    align,
    aligned_modalities,
    alignment,
    alignment_row,
)
from miclab.measures.cka import debiased_cka, plain_cka
from miclab.measures.evaluate import metric_row
from miclab.model.decoder import Decoder
from miclab.model.projector import DEPTH
from miclab.training.loop import train_config
from miclab.worlds.exemplars import Exemplars
from miclab.worlds.source_facts import resolved
from miclab.worlds.world import draw_world


def random_rows(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def test_debiased_cka_is_its_formula():
    """Fails if a term of the unbiased estimator is wrong: against the textbook HSIC (Song et al. 2012, equation 5)."""
    x, y = random_rows(30, 5, 0), random_rows(30, 7, 1)
    y[:, :5] += x

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        n, one = len(k), np.ones(len(k))
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        both = (one @ k @ one) * (one @ m @ one) / (n - 1) / (n - 2)
        return (np.trace(k @ m) + both - 2 / (n - 2) * one @ k @ m @ one) / n / (n - 3)

    k, m = ((f @ f.T) for f in (x.double().numpy(), y.double().numpy()))
    wanted = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert 0.1 < wanted < 0.9
    assert debiased_cka(x, y) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("cka", [plain_cka, debiased_cka])
def test_cka_of_the_same_rows_is_one_whatever_their_rotation_scale_and_origin(cka):
    """Fails if features are not centred, or the measure depends on the basis or the scale."""
    x = random_rows(200, 16, 0)
    rotation = torch.linalg.qr(random_rows(16, 16, 1)).Q
    moved = 7.3 * x @ rotation + 5
    assert cka(x, x) == pytest.approx(1)
    assert cka(x, moved) == pytest.approx(1, abs=1e-4)
    y = random_rows(200, 16, 2) + 0.5 * x
    assert cka(moved, y) == pytest.approx(cka(x, y), abs=1e-4)


@pytest.mark.parametrize("rows", [16, 64, 256])
def test_plain_cka_of_random_rows_is_its_bias_and_debiased_cka_has_none(rows):
    """Fails if the debiased estimator keeps the bias d / (n + d) of the plain one, averaged over 20 draws."""
    pairs = [(random_rows(rows, 64, 2 * i), random_rows(rows, 64, 2 * i + 1)) for i in range(20)]
    plain = np.mean([plain_cka(x, y) for x, y in pairs])
    assert plain == pytest.approx(64 / (rows + 64), rel=0.1)
    debiased = [debiased_cka(x, y) for x, y in pairs]
    assert abs(np.mean(debiased)) < 4 * np.std(debiased) / np.sqrt(20) + 1e-3
    assert abs(np.mean(debiased)) < plain / 4


def test_alignment_is_above_its_null_only_where_projected_items_are_aligned():
    """Fails if pairs do not share a label, or labels do not trade partners in the null: here every class of a label
    stands at that label's own point, in either modality, or (after scrambling m2) at a random one."""
    modalities = {
        "m1": {"classes": 64, "dimension": 16, "labels": 8, "noise": 0.0},
        "m2": {"classes": 32, "dimension": 16, "labels": 8, "noise": 0.0},
    }
    config = tiny_config(2, modalities=modalities, bridge={"projector": "linear"})
    assert DEPTH["linear"] == 1
    world = draw_world(config)
    points = random_rows(8, 16, 3) / 4
    same = {
        name: replace(s, prototypes=points[world.tables[name].label_of] + 0.05 * random_rows(len(s.prototypes), 16, 4))
        for name, s in world.sources.items()
    }
    parameters = Decoder(config).initial_parameters(0) | {"bridge.m2.0": torch.eye(16)}
    found = alignment(config, replace(world, sources=same), parameters, "m2", rows=256, shuffles=40)
    assert found.cka.mean > 0.9
    assert found.above_null
    assert found.p_value == pytest.approx(1 / 41)
    assert found.distance < 0.4 < found.null_distance
    assert found.plain_cka > found.cka.mean - 0.05
    assert found.rows == 256
    assert found.null_plain < 0.5 < found.plain_cka
    # Eight classes stand around each label's point, and a blind choice hits one of eight labels.
    assert found.retrieval.mean > 0.99
    assert found.retrieval_chance == pytest.approx(1 / 8)
    unrelated = alignment(config, world, parameters, "m2", rows=256, shuffles=40)
    assert abs(unrelated.cka.mean) < 0.1
    assert unrelated.distance == pytest.approx(unrelated.null_distance, rel=0.05)
    assert unrelated.retrieval.mean == pytest.approx(1 / 8, abs=0.08)


def one_class_a_label(noise: float):
    """A world of 64 labels with one class each, at the same prototype in both modalities, and an identity projector."""
    modality = {"classes": 64, "dimension": 16, "labels": 64, "noise": noise}
    config = tiny_config(2, modalities={"m1": modality, "m2": modality}, bridge={"projector": "linear"})
    world = draw_world(config)
    sources = {
        name: replace(source, prototypes=world.sources["m1"].prototypes) for name, source in world.sources.items()
    }
    return (
        config,
        replace(world, sources=sources),
        Decoder(config).initial_parameters(0) | {"bridge.m2.0": torch.eye(16)},
    )


def test_the_interval_of_cka_covers_what_ever_more_pairs_would_give():
    """Fails if the estimate is biased by the number of rows, or its interval too narrow or too wide: of 60 experiments
    about 93 % have to cover (a percentile bootstrap of 20 draws). Known answer: with prototypes of covariance S and
    noise of covariance e^2 I / d around them, CKA of all pairs is |S|^2 / (|S + e^2 I / d| |S|)."""
    config, world, parameters = one_class_a_label(noise=1.5)
    prototypes = world.sources["m1"].prototypes.double()
    s = (prototypes - prototypes.mean(0)).T @ (prototypes - prototypes.mean(0)) / 64
    wanted = float(s.norm() / (s + 1.5**2 * torch.eye(16, dtype=torch.double) / 16).norm())
    assert 0.25 < wanted < 0.75
    found = [
        alignment(replace(config, seed=seed), world, parameters, "m2", rows=128, shuffles=5, draws=20)
        for seed in range(60)
    ]
    assert {(one.cka.unit, one.cka.count) for one in found} == {("draw", 20)}
    assert 0.85 <= np.mean([one.cka.low <= wanted <= one.cka.high for one in found]) <= 0.98
    assert np.mean([one.cka.mean for one in found]) == pytest.approx(wanted, abs=0.005)
    # The plain estimator is off by many times the interval's width.
    assert np.mean([one.plain_cka for one in found]) > wanted + 0.03


def test_few_unrelated_labels_are_not_taken_for_aligned():
    """Fails if what is tested is whether rows are independent, and not which label belongs to which: with eight labels
    the items of a label lie together in either modality, so every row says the same as many others."""
    modality = {"classes": 8, "dimension": 16, "labels": 8, "noise": 0.3}
    config = tiny_config(2, modalities={"m1": modality, "m2": modality}, sequence={"context": 4, "burstiness": 2})
    found = []
    for seed in range(40):
        mine = replace(config, seed=seed)
        parameters = Decoder(mine).initial_parameters(seed)
        found.append(alignment(mine, draw_world(mine), parameters, "m2", rows=128, shuffles=40, draws=2))
    assert np.mean([one.above_null for one in found]) <= 0.15
    assert np.mean([one.p_value <= 0.05 for one in found]) <= 0.15
    assert np.mean([one.cka.mean > one.null_high for one in found]) > 0.9


@pytest.mark.parametrize("mixtures", [0, 200])
def test_concepts_are_aligned_only_where_the_same_one_lies_in_the_same_place(mixtures):
    """Fails if mixtures, which share their parents, trade as if each were a concept of its own: then unrelated ones
    seem aligned."""
    words = {"source": "small:concepts.words", "labels": 4, "noise": 0.0, "blends": mixtures}
    modalities = {"m1": {**words, "classes": 32}, "m2": {**words, "classes": 24, "blends": mixtures}}
    sequence = {"context": 4, "burstiness": 2, "pairing": "concept", "leader": "m2"}
    if mixtures:
        modalities["m2"]["classes"] = 32
    found = {"same": [], "unrelated": []}
    for seed in range(8):
        plain = tiny_mapping(2, modalities=modalities, sequence=sequence, bridge={"projector": "linear"}, seed=seed)
        config = resolved(schema.from_mapping(RunConfig, plain))
        world, width = draw_world(config), config.item_width
        parameters = Decoder(config).initial_parameters(seed) | {"bridge.m2.0": torch.eye(width)}
        mine = world.sources["m2"]
        other = Exemplars(mine.exemplars.data, random_rows(len(mine.exemplars.data.items), width, seed))
        unrelated = replace(world, sources={**world.sources, "m2": replace(mine, exemplars=other)})
        for name, here in (("same", world), ("unrelated", unrelated)):
            found[name].append(alignment(config, here, parameters, "m2", rows=200, shuffles=40, draws=2))
    assert {one.p_value for one in found["same"]} == {1 / 41}
    assert all(one.above_null for one in found["same"])
    assert sum(one.above_null or False for one in found["unrelated"]) <= 2
    assert np.mean([one.cka.mean > one.null_high for one in found["unrelated"]]) > 0.8


def test_two_labels_are_too_few_to_judge():
    """Fails if labels of which half the orders are the true one give a verdict: their null holds what it should not."""
    config = tiny_config(2, modalities={n: {"classes": 16, "dimension": 8, "labels": 2} for n in ("m1", "m2")})
    found = alignment(config, draw_world(config), Decoder(config).initial_parameters(0), "m2", rows=64, shuffles=5)
    assert (found.traders, found.above_null) == (2, None)


def test_rows_that_are_resampled_bring_the_bias_back():
    """Why the interval is not a bootstrap over rows: of unrelated rows it would not hold the truth, 0."""
    x, y = random_rows(128, 64, 0), random_rows(128, 64, 1)
    generator = torch.Generator().manual_seed(2)
    drawn = [torch.randint(128, (128,), generator=generator) for _ in range(100)]
    values = np.array([debiased_cka(x[rows], y[rows]) for rows in drawn])
    assert abs(debiased_cka(x, y)) < 0.1
    assert np.quantile(values, 0.025) > 0.15


def test_labels_without_a_counterpart_are_left_out():
    """Fails if a class whose label the host lacks is paired with a class of another label, or raises."""
    modalities = {
        "m1": {"classes": 32, "dimension": 8, "labels": 8},
        "m2": {"classes": 16, "dimension": 6, "labels": 4},
        "m3": {"classes": 32, "dimension": 5, "labels": 16},
    }
    config = tiny_config(3, modalities=modalities, sequence={"context": 4, "burstiness": 2, "leader": "m2"})
    assert aligned_modalities(config) == ("m2", "m3")
    world = draw_world(config)
    found = alignment(config, world, Decoder(config).initial_parameters(0), "m3", rows=64, shuffles=5, draws=2)
    assert abs(found.cka.mean) < 0.2


def test_metric_rows_hold_the_alignment_and_disturb_nothing():
    """Fails if a row's numbers are not those of the first draw, change from call to call, or touch a random stream."""
    config = tiny_config(2)
    world, parameters = draw_world(config), Decoder(config).initial_parameters(0)
    sizes = SplitSizes(sequences=4, novel_sets=1)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    row = metric_row(config, world, parameters, sizes)
    assert torch.equal(torch.get_rng_state(), state)
    assert metric_row(config, world, parameters, sizes) == row
    assert set(row["alignment"]) == {"m2"}
    wanted = alignment(config, world, parameters, "m2", rows=ROWS, shuffles=ROW_SHUFFLES, draws=1)
    assert row["alignment"]["m2"] == {
        "cka": pytest.approx(wanted.cka.mean, abs=1e-6),
        "null_high": pytest.approx(wanted.null_high, abs=1e-6),
        "distance": pytest.approx(wanted.distance, abs=1e-6),
        "retrieval": pytest.approx(wanted.retrieval.mean, abs=1e-6),
        "retrieval_chance": pytest.approx(wanted.retrieval_chance, abs=1e-6),
        "rows": ROWS,
    }
    louder = {**parameters, "bridge.m2.1": parameters["bridge.m2.1"] * 10}
    assert alignment_row(config, world, louder)["m2"]["distance"] > row["alignment"]["m2"]["distance"]
    alone = tiny_config(1)
    assert "alignment" not in metric_row(alone, draw_world(alone), Decoder(alone).initial_parameters(0), sizes)


def test_joint_labels_have_no_alignment_and_train_nevertheless(tmp_path):
    """Fails if groups of different modalities are taken for the same label, or a metric row raises on them."""
    modalities = {
        "m1": {"classes": 32, "dimension": 8, "labels": 8},
        "m2": {"classes": 32, "dimension": 6, "labels": 8},
    }
    sequence = {"context": 4, "burstiness": 2, "task": "joint_label", "groups": [2, 4]}
    config = tiny_config(2, modalities=modalities, sequence=sequence)
    request = Request(steps=1, evaluate_every=1, checkpoint_every=1, sequences=4, novel_sets=1)
    run, _ = train_config(config, request, tmp_path)
    assert all("alignment" not in row for row in run.rows())
    with pytest.raises(RunError, match="joint-label task"):
        align(run)
    with pytest.raises(RunError, match="at least 4"):
        alignment(tiny_config(2), draw_world(tiny_config(2)), {}, "m2", rows=3)
