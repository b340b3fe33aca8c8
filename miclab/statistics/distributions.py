"""Probabilities and quantiles of the distributions that intervals rest on, one number at a time.

They are SciPy's. It is imported with the first number, as training computes none and the import costs a tenth of a
second.
"""

from __future__ import annotations

import functools
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
