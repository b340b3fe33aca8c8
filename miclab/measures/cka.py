"""Linear CKA of two sets of features, row by row, plain and debiased."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def plain_cka(x: Float[Tensor, "row a"], y: Float[Tensor, "row b"]) -> float:
    """Linear CKA (Kornblith et al. 2019, equation 3): |Y'X|^2 / (|X'X| |Y'Y|) of centred columns."""
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    return float((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


class Gram:
    """The Gram matrix of features without its diagonal, represented by sums. No n x n matrix is made.

    Arguments:
        features: one row per sample.
    """

    def __init__(self, features: Float[Tensor, "row column"]):
        self.features = features.double()
        self.squares = self.features.square().sum(1)
        self.row_sums = self.features @ self.features.sum(0) - self.squares
        self.total = self.row_sums.sum()

    def permuted(self, order: Tensor) -> Gram:
        """The same with its rows in another order."""
        new = object.__new__(Gram)
        new.features, new.squares = self.features[order], self.squares[order]
        new.row_sums, new.total = self.row_sums[order], self.total
        return new


def unbiased_hsic(k: Gram, m: Gram) -> Tensor:
    """Unbiased HSIC (Song et al. 2012, equation 5), up to a common factor."""
    n = len(k.squares)
    shared = (k.features.T @ m.features).square().sum() - k.squares @ m.squares
    return shared + k.total * m.total / ((n - 1) * (n - 2)) - 2 * (k.row_sums @ m.row_sums) / (n - 2)


def hsic_norms(k: Gram, m: Gram) -> Tensor:
    """What unbiased HSIC is divided by in CKA. No permutation of rows changes it."""
    return (unbiased_hsic(k, k) * unbiased_hsic(m, m)).clamp(min=1e-300).sqrt()


def debiased_cka(x: Float[Tensor, "row a"], y: Float[Tensor, "row b"]) -> float:
    """Linear CKA from unbiased HSIC: near 0 for unrelated rows, whatever their number; it can fall below 0."""
    k, m = Gram(x), Gram(y)
    return float(unbiased_hsic(k, m) / hsic_norms(k, m))
