"""Least-squares slopes over cells as weights, and weighted sums, with the same digits on every processor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def fit(axes: Mapping[str, NDArray], axis: str) -> NDArray[np.floating]:
    """Weights of the cells whose sum is the least-squares slope along `axis`, beside the other axes and a constant."""
    design = np.column_stack([np.ones(len(axes[axis])), *axes.values()])
    return least_squares(design)[1 + list(axes).index(axis)]


def least_squares(design: NDArray[np.floating]) -> NDArray[np.floating]:
    """Weights [coefficient, cell] that make least-squares coefficients of values in cells, by Gram and Schmidt.

    A library's solver would do, but its last digits depend on the processor, as those of a matrix product do.

    Arguments:
        design: the columns that are fitted [cell, coefficient].

    Returns:
        The weights; NaN where the columns depend on each other, so that there is no one fit.
    """
    basis: list[NDArray] = []
    for column in design.T:
        rest = column
        # Twice: the first pass leaves what rounding makes of columns that are nearly the same.
        for other in basis * 2:
            rest = rest - other * (other * rest).sum()
        length = np.sqrt((rest**2).sum())
        basis.append(rest / (length if length > 1e-10 * np.sqrt((column**2).sum()) else np.nan))
    shares = [[(one * column).sum() for column in design.T] for one in basis]
    weights = np.array(basis)
    for i in reversed(range(len(basis))):
        for j in range(i + 1, len(basis)):
            weights[i] -= shares[i][j] * weights[j]
        weights[i] /= shares[i][i]
    return weights


def weighted(values: NDArray[np.floating], weights: NDArray[np.floating]) -> NDArray[np.floating]:
    """Sums of values times weights, added in the cells' order.

    A matrix product adds in an order that depends on the processor. A number halfway between two printed ones would be
    rounded up on one machine and down on another.

    Arguments:
        values: [..., cell].
        weights: [cell], or [cell, sum] for several sums.

    Returns:
        [...], or [..., sum].
    """
    # Sums come first while they are made, which leaves long rows to add: [cell, ...] and [sum, ...].
    rows = np.ascontiguousarray(np.moveaxis(values, -1, 0))
    total = np.zeros(np.shape(weights)[1:] + rows.shape[1:])
    for row, weight in zip(rows, weights, strict=True):
        total += np.multiply.outer(weight, row)
    return np.moveaxis(total, 0, -1) if np.ndim(weights) > 1 else total
