"""Noise: raw bits from one generator, and the Normal numbers made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from miclab.seeds import stream
from miclab.worlds.draws import draw_bits
from miclab.worlds.noise import normal

COUNT, DIMENSION = 20_000, 33


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """Vectors of an odd dimension, in which one number of a pair is left over."""
    return normal(draw_bits((COUNT,), DIMENSION, stream(0, "test")), DIMENSION).double().numpy()


def test_numbers_are_standard_normal(drawn):
    """Fails if the radius or the angle has another scale: mean, variance, skewness and kurtosis to 4 standard errors,
    the whole distribution by Kolmogorov and Smirnov, its tails by their mass, in each column as well as in all."""
    numbers = drawn.ravel()
    size = numbers.size
    assert abs(numbers.mean()) < 4 / math.sqrt(size)
    assert numbers.var() == pytest.approx(1, abs=4 * math.sqrt(2 / size))
    assert abs(stats.skew(numbers)) < 4 * math.sqrt(6 / size)
    assert abs(stats.kurtosis(numbers)) < 4 * math.sqrt(24 / size)
    assert stats.kstest(numbers, "norm").pvalue > 1e-3
    for edge in (2, 3, 4):
        mass = 2 * stats.norm.sf(edge)
        assert (abs(numbers) > edge).mean() == pytest.approx(mass, abs=5 * math.sqrt(mass / size))
    np.testing.assert_allclose(drawn.mean(0), 0, atol=5 / math.sqrt(COUNT))
    np.testing.assert_allclose(drawn.var(0), 1, atol=5 * math.sqrt(2 / COUNT))


def test_numbers_are_independent(drawn):
    """Fails if a bit is used twice: the two numbers of a pair share a radius and an angle, so their values, squares
    and products must be uncorrelated with all others of the vector, and vectors with their neighbours."""
    for values in (drawn, drawn**2, abs(drawn)):
        between = np.corrcoef(values.T) - np.eye(DIMENSION)
        assert abs(between).max() < 5.5 / math.sqrt(COUNT)
        standard = (values - values.mean(0)) / values.std(0)
        assert abs((standard[1:] * standard[:-1]).mean()) < 4 / math.sqrt(values.size)
    half = (DIMENSION + 1) // 2
    radius = drawn[:, : DIMENSION - half] ** 2 + drawn[:, half:] ** 2
    assert stats.kstest(radius.ravel() / 2, "expon").pvalue > 1e-3
    angle = np.arctan2(drawn[:, half:], drawn[:, : DIMENSION - half])
    assert stats.kstest(angle.ravel(), "uniform", (-math.pi, 2 * math.pi)).pvalue > 1e-3


def test_bits_are_a_function_of_the_generators_state():
    """Fails if another generator decides them, or two draws repeat each other."""
    one, again = stream(0, "a"), stream(0, "a")
    first = draw_bits((5, 3), 6, one)
    torch.manual_seed(7)
    np.random.seed(7)
    assert first.shape == (5, 3, 2, 3)
    assert first.dtype == torch.int32
    assert torch.equal(draw_bits((5, 3), 6, again), first)
    others = torch.stack([first, draw_bits((5, 3), 6, one), draw_bits((5, 3), 6, stream(0, "b"))])
    assert len(others.unique()) == others.numel()


@pytest.mark.parametrize("word", [0, -1, 2**31 - 1, -(2**31), 255, -256])
def test_extreme_bits_give_finite_numbers(word):
    """Fails if a uniform number of 0 or 1 reaches the logarithm, or a sign is carried into the shifted bits."""
    found = normal(torch.full((2, 3), word, dtype=torch.int32), 6)
    assert found.isfinite().all()
    assert found.abs().max() <= math.sqrt(2 * 24 * math.log(2)) + 1e-6
