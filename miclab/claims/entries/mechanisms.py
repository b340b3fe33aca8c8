"""What smeared keys do for the circuit: X17 to X20, with the criteria of docs/findings/mechanisms.md.

Two explanations are compared. H1: keys gain from knowing the previous token. H2: the query finds its item in the
label's own key, so that one attention step does the work of two. Intervals are Student's t over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from miclab.claims.entries.position_constant import decoders, uniform_in_first
from miclab.claims.evidence import Evidence, EvidenceCells, Quantity, grid, steps_to
from miclab.claims.registry import claim
from miclab.claims.verdict import Comparison, Condition, Finding
from miclab.statistics.grid import mean

STUDY = "mechanisms"
PARTS = ("name", "layers", "on", "back", "share")
"""Options of the attention that distinguish the decoders."""
AXES = " ".join(("K", "B", *(f"decoder.attention.{part}" for part in PARTS)))
FEW = ((1024, 1), (256, 4))
"""K and B at which the two explanations differ."""
MANY = ((4096, 2), (2048, 2))
"""K and B of the study of the missing constant."""
MARGIN = 0.1
"""Of accuracy."""
GAIN = "ICL minus ICL of plain rope"


def attention(name: str, layers: tuple[int, ...] = (), *options: Any) -> Mapping[str, Any]:
    """A decoder of the study by its axes. Options are those of `smeared`: on, back and share."""
    values = (name, layers, *(options or (None, None, None)))
    return {f"decoder.attention.{part}": value for part, value in zip(PARTS, values, strict=True)}


PLAIN = attention("softmax")
PATTERN = attention("previous_token", (0,))
SHIFTED = attention("smeared", (0,), "values", 1, "frozen")
BOTH = attention("smeared", (), "keys", 1, "bounded")
FIRST = attention("smeared", (0,), "keys", 1, "bounded")
SECOND = attention("smeared", (1,), "keys", 1, "bounded")
VALUES = attention("smeared", (), "values", 1, "bounded")
TWO_BACK = attention("smeared", (), "keys", 2, "bounded")
WORDS = (
    (PLAIN, "plain rope"), (PATTERN, "the fixed previous-token pattern"), (SHIFTED, "shifted values in layer 0"),
    (BOTH, "smeared keys"), (FIRST, "smeared keys in layer 0"), (SECOND, "smeared keys in layer 1"),
    (VALUES, "smeared values"), (TWO_BACK, "keys smeared from two back"),
)  # fmt: skip


def words(one: Mapping[str, Any]) -> str:
    """The decoder in words."""
    return next(name for known, name in WORDS if known == one)


def gain(cells: EvidenceCells, one: Mapping[str, Any], where: str, *, helps: bool = True) -> Condition:
    """The condition that a decoder's ICL exceeds that of plain rope by the margin, or does not."""
    difference = mean("icl", **one) - mean("icl", **PLAIN)
    bound = difference > MARGIN if helps else difference < MARGIN
    return decoders(cells, one, PLAIN).condition(bound, GAIN, f"rope has {words(one)}, {where}")


def shown(cells: EvidenceCells, where: str, *chosen: Mapping[str, Any]) -> Iterator[Comparison]:
    """ICL of some decoders, for comparison."""
    for one in chosen:
        yield decoders(cells, one).comparison(mean("icl"), f"ICL {where}, {words(one)}")


def points(rows: Evidence, chosen: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, EvidenceCells]]:
    """Each point in words, with its cells."""
    for classes, burstiness in chosen:
        yield f"at ({classes}, {burstiness})", grid(rows, STUDY, AXES, "icl").where(K=classes, B=burstiness)


@claim(
    "X17",
    "Smeared keys do more than a previous-token pattern.",
    paper="none: it has softmax attention alone",
    criterion=(
        "At (1024, 1) and at (256, 4), step 1,500: ICL with smeared keys in both layers minus ICL with the fixed "
        "previous-token pattern of layer 0, and minus ICL with shifted values in layer 0, is above 0.1, whole "
        "interval, each of the four."
    ),
    studies=STUDY,
)
def x17(rows: Evidence) -> Iterator[Finding]:
    """ICL with smeared keys minus ICL with the previous token given."""
    for where, cells in points(rows, FEW):
        for other in (PATTERN, SHIFTED):
            yield decoders(cells, BOTH, other).condition(
                mean("icl", **BOTH) - mean("icl", **other) > MARGIN,
                f"ICL with smeared keys minus ICL with {words(other)}",
                f"rope has {words(other)} instead, {where}",
            )
        yield from shown(cells, where, PLAIN, PATTERN, SHIFTED, BOTH)


@claim(
    "X18",
    "With smeared keys one attention step is enough.",
    paper="none: it has softmax attention alone",
    criterion=(
        "At (1024, 1) and at (256, 4), step 1,500: ICL minus that of plain rope is above 0.1, whole interval, with "
        "smeared keys in layer 0 alone; with smeared keys in layer 1 alone; and with the latter after the pattern of "
        "layer 0 is set to uniform."
    ),
    studies=STUDY,
)
def x18(rows: Evidence) -> Iterator[Finding]:
    """ICL with smeared keys in one layer, also without the pattern of layer 0, minus ICL of plain rope."""
    quantities: Mapping[str, Quantity] = {"icl": "icl", "uniform": uniform_in_first}
    for where, cells in points(rows, FEW):
        yield gain(cells, FIRST, where)
        yield gain(cells, SECOND, where)
        classes, burstiness = cells.keys[0][:2]
        edited = grid(rows, STUDY, AXES, quantities).where(K=classes, B=burstiness)
        yield decoders(edited, SECOND, PLAIN).condition(
            mean("uniform", **SECOND) - mean("icl", **PLAIN) > MARGIN,
            "ICL with the pattern of layer 0 set to uniform minus ICL of plain rope",
            f"rope has {words(SECOND)} and a uniform layer 0, {where}",
        )
        yield from shown(cells, where, FIRST, SECOND)


@claim(
    "X19",
    "At a burstiness of 2 the previous token suffices.",
    paper="none: it has softmax attention alone",
    criterion=(
        "At (4096, 2) and at (2048, 2), step 1,500: ICL minus that of plain rope is above 0.1, whole interval, with "
        "the fixed previous-token pattern of layer 0, and with shifted values in layer 0."
    ),
    studies=STUDY,
)
def x19(rows: Evidence) -> Iterator[Finding]:
    """ICL with the previous token given minus ICL of plain rope; steps to 0.9 beside it."""
    for where, cells in points(rows, MANY):
        for one in (PATTERN, SHIFTED):
            yield gain(cells, one, where)
        yield from shown(cells, where, PLAIN, PATTERN, SHIFTED, BOTH, FIRST, SECOND)
        classes, burstiness = cells.keys[0][:2]
        steps = grid(rows, STUDY, AXES, {"steps": steps_to("icl", 0.9, censored="last")})
        for one in (PATTERN, SHIFTED, BOTH, FIRST, SECOND):
            yield decoders(steps.where(K=classes, B=burstiness), one).comparison(
                mean("steps").on_log_scale(),
                f"steps to 0.9 {where}, {words(one)} (its last step where it does not get there)",
            )


@claim(
    "X20",
    "It is the keys that have to be smeared, and from one position back.",
    paper="none: it has softmax attention alone",
    criterion=(
        "Step 1,500: ICL minus that of plain rope is below 0.1, whole interval, with keys smeared from two back at "
        "each of the four points, and with smeared values at (1024, 1) and at (256, 4)."
    ),
    studies=STUDY,
)
def x20(rows: Evidence) -> Iterator[Finding]:
    """ICL with the two controls minus ICL of plain rope."""
    for where, cells in points(rows, (*MANY, *FEW)):
        yield gain(cells, TWO_BACK, where, helps=False)
        yield from shown(cells, where, TWO_BACK, VALUES)
    for where, cells in points(rows, FEW):
        yield gain(cells, VALUES, where, helps=False)
