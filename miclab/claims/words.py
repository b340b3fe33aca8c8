"""The words of a verdict: which conditions hold, and what it means for a reader of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from miclab.claims.verdict import Verdict

MOST_WORDS = 15
"""Words of conditions in a cell of the ledger."""
MEANINGS: Mapping[Verdict, str] = {
    "holds": "A reader can build on the statement, in this preset.",
    "holds in part": "A reader can build on the statement where its conditions hold, and not elsewhere.",
    "fails": "A reader should not build on the statement: the runs contradict it.",
    "undecided": "A reader should take the statement as neither confirmed nor refuted.",
    "cannot be told by this measure": "A reader can draw nothing from this measure, whatever it shows.",
}
"""What a verdict means for a reader of the paper, for claims without their own sentence."""


def merged(texts: Sequence[str]) -> dict[str, int]:
    """Merges texts that differ in their last word alone, and counts them: `K is 1024` and `K is 2048` give
    `K is 1024, 2048`, of 2."""
    found: dict[str, list[str]] = {}
    for text in texts:
        start, _, end = text.rpartition(" ")
        found.setdefault(start, []).append(end)
    return {f"{start} {', '.join(ends)}".strip(): len(ends) for start, ends in found.items()}


def in_part(holding: Sequence[str], conditions: int) -> str:
    """`holds in part` with the conditions that hold, at most `MOST_WORDS` words of them.

    Arguments:
        holding: the conditions that hold, each completing "the claim holds only if ...".
        conditions: how many there are in all.
    """
    texts, parts = merged(holding), []
    for text in texts:
        # If others follow, "and 3 others" must fit too.
        room = MOST_WORDS - 3 * (len(parts) + 1 < len(texts))
        if len(" ".join([*parts, text]).split()) > room:
            break
        parts.append(text)
    count = f"{len(holding)} of {conditions} conditions"
    if not parts:
        return f"holds in part: {count}"
    others = len(holding) - sum(texts[part] for part in parts)
    more = f" and {others} other{'s' * (others > 1)}" if others else ""
    return f"holds in part, if {'; '.join(parts)}{more} ({count})"
