"""What the measures of a head are, in words, for the readers of a report (see `miclab.measures.attention`)."""

from __future__ import annotations

from miclab.config.run import RunConfig

_WORDS = {
    "previous_token_1": ("Previous token", "mean attention of each position on the one before it"),
    "previous_token_2": ("Two tokens back", "mean attention of each position on the one two before it"),
    "label_to_item": (
        "Label looks at its own item",
        "mean attention of each context label on its own exemplar's item",
    ),
    "induction": (
        "Induction strength",
        "from the query: mean attention on the right context labels minus mean attention on the wrong ones",
    ),
    "induction_total": (
        "Induction strength, summed",
        "from the query: total attention on the right context labels minus total on the wrong ones",
    ),
    "induction_all_positions": (
        "Induction strength against all positions",
        "from the query: mean attention on the right context labels minus mean attention on all other positions",
    ),
    "target_label_attention": ("Right labels", "from the query: mean attention on the right context labels"),
    "target_item_attention": (
        "Right items",
        "from the query: mean attention on context items of the right label",
    ),
    "total_label_attention": (
        "All labels",
        "from the query: total attention on context labels, right or wrong",
    ),
    "entropy": ("Entropy of the query's attention", "0 is all on one position, 1 is uniform"),
    "label_row_entropy": ("Entropy of the labels' attention", "0 is all on one position, 1 is uniform"),
}
FIRST = "induction_total"
"""The measure that a report shows first."""


def describe(name: str) -> tuple[str, str]:
    """Title and explanation of a measure; of one that is not known, its name."""
    stem, _, modality = name.partition(".")
    title, text = _WORDS.get(stem, (stem.replace("_", " "), ""))
    return (f"{title} ({modality})" if modality else title), text


def guides(name: str, config: RunConfig) -> list[tuple[float, str]]:
    """Levels that help to read a measure: what it can reach, and its value where attention is spread evenly.

    A query of uniform attention puts 1/T on each of T positions. The ceiling 1/B supposes that each of B copies of the
    right class gets an equal part and that no other context class carries its label.
    """
    context, copies, length = config.sequence.context, config.sequence.burstiness, config.sequence_length
    stem = name.partition(".")[0]
    if stem in ("induction", "target_label_attention"):
        return [(1 / copies, f"ceiling 1/B = {1 / copies:.3g}")]
    if stem == "target_item_attention":
        return [(1 / copies, f"all on the right items: 1/B = {1 / copies:.3g}"), (1 / length, "uniform")]
    if stem == "total_label_attention":
        return [(context / length, "uniform attention")]
    if stem in ("entropy", "label_row_entropy"):
        return [(1.0, "uniform attention")]
    if stem == "induction_total":
        return [(0.0, "as much on wrong labels")]
    return []
