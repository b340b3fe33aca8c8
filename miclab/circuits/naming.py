"""What a head of a circuit is called: two words, its pattern and whether it is needed.

Pattern: where the head looks. A previous-token head has labels that look at their own items, an induction head a query
that looks at the right labels more than at wrong ones; each at least halfway from uniform attention to all attention,
with the whole interval. A head that is not so and whose rows are diffuse is an averaging head.

Need: setting the pattern to uniform lowers in-context learning by at least 0.1, with the whole interval, and by more
than the patterns of random other heads. A head whose output is needed may have a pattern that is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.controls import control
from miclab.circuits.find import DIFFUSE, HALFWAY, NEEDED_DROP, CircuitHeads, Head, head_name
from miclab.measures.baselines import uniform_levels
from miclab.statistics.intervals import Interval, clustered_interval
from miclab.tables import Table, table

if TYPE_CHECKING:
    from miclab.circuits.knockout import Interventions

Place = Literal["previous token", "induction"]
LOOKS: dict[Place, str] = {
    "previous token": "labels on own items",
    "induction": "query on right minus wrong labels",
}
"""What the pattern of each place in the circuit is measured by."""
ROWS: dict[Place, str] = {"previous token": "label_row_entropy", "induction": "entropy"}
"""Entropy of the rows that matter."""
AVERAGING, OTHER = "averaging head", "other head"
DEFINITIONS = (
    f"pattern: a previous-token or induction head looks there at least halfway from uniform attention to all attention"
    f" (whole interval); an averaging head does not, and the entropy of its rows is above {DIFFUSE} of uniform rows'.",
    f"need: needed, if setting the pattern to uniform lowers accuracy on icl by at least {NEEDED_DROP} (whole interval)"
    " and by more than that of random other heads; else redundant. Of the output, see `miclab knockout`.",
)


def looking(strengths: Mapping[str, NDArray[np.floating]], place: Place) -> NDArray[np.floating]:
    """How far heads look where the place asks [set, layer, head]: items of several modalities are added."""
    if place == "induction":
        return strengths["induction_total"]
    return np.sum([values for name, values in strengths.items() if name.startswith("label_to_item.")], axis=0)


def uniform_level(levels: Mapping[str, float], place: Place) -> float:
    """The same under uniform attention, from `uniform_levels`."""
    return float(looking({name: np.array(level) for name, level in levels.items()}, place))


def _end(interval: Interval, upper: bool = False) -> float:
    """The end that decides; of one set of novel classes, which has no interval, the estimate."""
    return interval.mean if not interval.known else interval.high if upper else interval.low


def pattern_word(place: Place, looks: Interval, uniform: float, entropy: Interval | None) -> str:
    """What a head is called by where it looks.

    Arguments:
        place: in the circuit.
        looks: how far it looks there, at most 1.
        uniform: the same under uniform attention.
        entropy: of its rows, as a share of uniform rows'; None: they have none.
    """
    if _end(looks) >= uniform + HALFWAY * (1 - uniform):
        return f"{place.replace(' ', '-')} head"
    return AVERAGING if entropy is not None and _end(entropy) > DIFFUSE else OTHER


def need_word(drop: Interval, beyond: Interval | None) -> str:
    """Whether a pattern is needed: `needed`, `redundant`, or `need undecided`.

    Arguments:
        drop: accuracy that is lost when it is set to uniform.
        beyond: the same minus that of random other heads; None: there are none.
    """
    if _end(drop) >= NEEDED_DROP and (beyond is None or _end(beyond) > 0):
        return "needed"
    lost = _end(drop, upper=True) < NEEDED_DROP or (beyond is not None and _end(beyond, upper=True) <= 0)
    return "redundant" if lost else "need undecided"


@dataclass(frozen=True)
class Named:
    """What a head of a circuit is called, or a group of heads with one pattern.

    Arguments:
        place: in the circuit.
        heads: layer and head of each, from 0.
        pattern: its pattern, in a word.
        looks: how far it looks where the place asks, the least of a group.
        uniform: the same under uniform attention.
        drop: accuracy on novel classes that is lost with its pattern, or those of the group together, set to uniform.
        beyond: the same minus that of random other heads; None where the decoder has none.
    """

    place: Place
    heads: tuple[Head, ...]
    pattern: str
    looks: Interval
    uniform: float
    drop: Interval
    beyond: Interval | None

    @property
    def need(self) -> str:
        """Whether its pattern is needed."""
        return need_word(self.drop, self.beyond)

    @property
    def words(self) -> str:
        """Both words."""
        return f"{self.pattern}{'s together' if len(self.heads) > 1 else ''}, {self.need}"

    @property
    def where(self) -> str:
        """Its heads in words."""
        return ", ".join(map(head_name, self.heads))

    def as_json(self) -> dict[str, Any]:
        """It as plain data."""
        return {
            "place": self.place, "heads": list(map(head_name, self.heads)), "pattern": self.pattern, "need": self.need,
            "looks": self.looks.as_json(), "uniform": round(self.uniform, 6), "drop": self.drop.as_json(),
            "drop_beyond_random_heads": self.beyond.as_json() if self.beyond else None,
        }  # fmt: skip


def names_table(runs: Sequence[str], named: Sequence[Sequence[Named]]) -> Table:
    """A row for each head and group of each run's circuit."""
    rows = [
        [*([run] if len(runs) > 1 else []), one.where, one.words, LOOKS[one.place], one.looks, one.uniform, one.drop,
         one.beyond]
        for run, names in zip(runs, named, strict=True)
        for one in names
    ]  # fmt: skip
    columns = [*(["run"] if len(runs) > 1 else []), "head", "called", "looks at", "attention", "uniform attention",
               "ICL lost, pattern uniform", "beyond random heads"]  # fmt: skip
    return table("what the circuit's heads are called, by pattern and need", columns, rows, DEFINITIONS)


def names_of(work: Interventions, circuit: CircuitHeads) -> tuple[Named, ...]:
    """The two heads of a circuit, and each group of two heads or more that have the pattern of its place.

    Arguments:
        work: interventions on novel classes.
        circuit: its two heads.
    """
    levels, found = uniform_levels(work.config), []
    places: dict[Place, Head] = {"previous token": circuit.previous_token, "induction": circuit.induction}
    for place, head in places.items():
        values, uniform = looking(work.untouched.strengths, place), uniform_level(levels, place)
        looks = {one: clustered_interval([values[:, *one]]) for one in (head, *circuit.rest)}
        entropies = work.untouched.strengths.get(ROWS[place])

        def word(one: Head, place: Place = place, looks=looks, uniform=uniform, entropies=entropies) -> str:
            known = entropies is not None and not np.isnan(entropies[:, *one]).any()
            return pattern_word(place, looks[one], uniform, clustered_interval([entropies[:, *one]]) if known else None)

        found.append(_named(work, circuit, place, (head,), word(head), looks[head], uniform))
        # A previous-token head feeds an induction head of a later layer.
        fits = [one for one in looks if place == "induction" or one[0] < circuit.induction[0]]
        group = tuple(sorted(one for one in fits if word(one) == f"{place.replace(' ', '-')} head"))
        if len(group) > 1:
            least = min((looks[one] for one in group), key=lambda interval: interval.mean)
            found.append(_named(work, circuit, place, group, word(group[0]), least, uniform))
    return tuple(found)


def _named(
    work: Interventions, circuit: CircuitHeads, place: Place, heads: tuple[Head, ...], pattern: str, looks: Interval,
    uniform: float,
) -> Named:  # fmt: skip
    cut = work.knocked(f"pattern of {', '.join(map(head_name, heads))} uniform", heads, "uniform")
    rest = tuple(other for other in circuit.rest if other not in heads)
    chosen = control(CircuitHeads(circuit.induction, circuit.previous_token, rest), heads, work.config.seed)
    other = work.drawn("random other patterns uniform", chosen, "uniform")
    beyond = clustered_interval([other.correct - cut.correct]) if other else None
    return Named(place, heads, pattern, looks, uniform, clustered_interval([cut.before - cut.correct]), beyond)
