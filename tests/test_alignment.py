"""CKA and alignment: exact values where there are any, the bias where it is known, and the null of shuffled pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_config

from miclab.alignment import alignment, debiased_cka, plain_cka
from miclab.bridge import DEPTH
from miclab.decoder import Decoder
from miclab.world import draw_world


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
    """Fails if pairs do not share a label, or the null is not made of shuffled pairs: here every class of a label
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
    unrelated = alignment(config, world, parameters, "m2", rows=256, shuffles=40)
    assert abs(unrelated.cka.mean) < 0.1
    assert unrelated.distance == pytest.approx(unrelated.null_distance, rel=0.05)
