"""Generated text against committed text: the same words, and measured numbers to the last digit printed."""

from __future__ import annotations

import re
from decimal import Decimal

MEASURED = re.compile(r"-?\d+\.\d{3,}")
"""Numbers with three decimals or more. Counts, bounds and the paper's figures have fewer, and have to be equal."""


def assert_same_text(found: str, committed: str) -> None:
    """Fails unless two texts have the same words and the same numbers; measured ones may differ by one unit of their
    last digit, since a number halfway between two printed ones is rounded either way by sums in another order.

    Raises:
        AssertionError: with the first line that differs.
    """
    lines, others = found.splitlines(), committed.splitlines()
    for number, (line, other) in enumerate(zip(lines, others, strict=False), 1):
        assert _same(line, other), f"line {number} differs:\n  generated: {line}\n  committed: {other}"
    assert len(lines) == len(others), f"{len(lines)} lines are generated, {len(others)} are committed"


def _same(line: str, other: str) -> bool:
    if MEASURED.sub("#", line) != MEASURED.sub("#", other):
        return False
    pairs = zip(MEASURED.findall(line), MEASURED.findall(other), strict=True)
    return all(_near(Decimal(one), Decimal(two)) for one, two in pairs)


def _near(one: Decimal, two: Decimal) -> bool:
    return one.same_quantum(two) and abs(one - two) <= Decimal((0, (1,), one.as_tuple().exponent))
