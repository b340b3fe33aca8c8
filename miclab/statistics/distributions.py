"""Probabilities and quantiles of the distributions that intervals rest on, one number at a time, and Holm's correction.

The distributions are SciPy's. It is imported with the first number, as training computes none and the import costs a
tenth of a second.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any


@functools.cache
def _special() -> Any:
    import scipy.special

    return scipy.special


def normal_probability(value: float) -> float:
    """Probability that a standard normal number is below a value."""
    return float(_special().ndtr(value))


def normal_quantile(probability: float) -> float:
    """The value below which a standard normal number is with this probability."""
    return float(_special().ndtri(probability))


def student_probability(freedom: int, value: float) -> float:
    """Probability that Student's t is below a value.

    Arguments:
        freedom: degrees of freedom.
    """
    return float(_special().stdtr(freedom, value))


def student_quantile(freedom: int, probability: float) -> float:
    """The value below which Student's t is with this probability.

    Arguments:
        freedom: degrees of freedom.
    """
    return float(_special().stdtrit(freedom, probability))


def beta_quantile(first: float, second: float, probability: float) -> float:
    """The value below which a number of the beta distribution of these two shapes is with this probability."""
    return float(_special().betaincinv(first, second, probability))


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """p of several statements, corrected so that any is falsely accepted with probability p at most (Holm, 1979).

    Arguments:
        values: p of each alone, by name.
    """
    found, largest = {}, 0.0
    for rank, name in enumerate(sorted(values, key=lambda one: values[one])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[name]))
        found[name] = largest
    return found
