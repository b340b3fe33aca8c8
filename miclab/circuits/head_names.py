"""What a head of a circuit is called: two words, its pattern and whether it is needed.

Pattern: where the head looks. In a previous-token head labels look at their own items. In an induction head the query
looks at the right labels more than at wrong ones. The strength is at least halfway from uniform attention to all
attention, with the whole interval. Any other head whose rows are diffuse is an averaging head.

Need: with the pattern set to uniform in-context learning falls by at least 0.1, with the whole interval. It falls by
more than with the patterns of random other heads. A head whose output is needed may have a pattern that is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.controls import control
from miclab.circuits.find import DIFFUSE, HALFWAY, NEEDED_DROP, CircuitHeads, Head, head_name
from miclab.measures.baselines import uniform_by_head
from miclab.statistics.intervals import Interval, clustered_interval
from miclab.tables import Interval as Estimate
from miclab.tables import Table, table

if TYPE_CHECKING:
    from miclab.circuits.knockout import Interventions
    from miclab.config.run import RunConfig

Place = Literal["previous token", "induction"]
LOOKS: dict[Place, str] = {
    "previous token": "labels on own items",
    "induction": "query on right minus wrong labels",
}
"""What the pattern of each place in the circuit is measured by."""
ROWS: dict[Place, str] = {"previous token": "label_row_entropy", "induction": "entropy"}
"""Entropy of the rows that matter."""
PLACES = {
    "previous-token head": "strongest head (previous token)",
    "induction head": "strongest head (induction)",
}
"""What the strongest heads of both kinds are called where they have not the pattern, or are no circuit."""
AVERAGING, OTHER = "averaging head", "other head"
DEFINITIONS = (
    f"Pattern: a previous-token or induction head looks there at least halfway from uniform attention to 1 (whole"
    f" interval). An averaging head does not, and its rows have above {DIFFUSE} of a uniform row's entropy.",
    f"Need: a pattern is needed if setting it to uniform lowers icl by at least {NEEDED_DROP} (whole interval) and by"
    " more than those of random other heads. A redundant pattern may belong to an output that is needed.",
)


def looking(strengths: Mapping[str, NDArray[np.floating]], place: Place) -> NDArray[np.floating]:
    """How far heads look at the place, by measure [..., layer, head]: items of several modalities are added."""
    if place == "induction":
        return strengths["induction_total"]
    return np.sum([values for name, values in strengths.items() if name.startswith("label_to_item.")], axis=0)


def uniform_level(levels: Mapping[str, float], place: Place) -> float:
    """The same under uniform attention, from numbers by measure."""
    return float(looking({name: np.array(level) for name, level in levels.items()}, place))


def pattern_word(place: Place, looks: Interval, uniform: float, entropy: Interval | None) -> str:
    """What a head is called by where it looks.

    Arguments:
        place: in the circuit.
        looks: how far it looks there, at most 1.
        uniform: the same under uniform attention.
        entropy: of its rows, as a share of uniform rows'; None: they have none.
    """
    if looks.decides() >= uniform + HALFWAY * (1 - uniform):
        return f"{place.replace(' ', '-')} head"
    return AVERAGING if entropy is not None and entropy.decides() > DIFFUSE else OTHER


def need_word(drop: Interval, beyond: Interval | None) -> str:
    """Whether a pattern is needed: `needed`, `redundant`, or `need undecided`.

    Arguments:
        drop: accuracy that is lost when it is set to uniform.
        beyond: the same minus that of random other heads; None: there are none.
    """
    if drop.decides() >= NEEDED_DROP and (beyond is None or beyond.decides() > 0):
        return "needed"
    lost = drop.decides(upper=True) < NEEDED_DROP or (beyond is not None and beyond.decides(upper=True) <= 0)
    return "redundant" if lost else "need undecided"


@dataclass(frozen=True)
class Named:
    """What a head of a circuit is called, or a group of heads with one pattern.

    Arguments:
        place: in the circuit.
        heads: layer and head of each, from 0.
        pattern: its pattern, in a word.
        looks: how far it looks at the place, the least of a group.
        uniform: the same under uniform attention to what the layer may see; of a group that of its least head.
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
    def line(self) -> str:
        """Heads, words, and in which place of the circuit they are the strongest."""
        return f"{self.where} {self.words} (strongest for {self.place})"

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
         Estimate(one.beyond, absent="no other heads")]
        for run, names in zip(runs, named, strict=True)
        for one in names
    ]  # fmt: skip
    columns = [*(["run"] if len(runs) > 1 else []), "head", "called", "looks at", "attention", "uniform attention",
               "ICL lost, pattern uniform", "beyond random heads"]  # fmt: skip
    return table("what the circuit's heads are called, by pattern and need", columns, rows, DEFINITIONS)


def words_of(
    strengths: Mapping[str, NDArray[np.floating]],
    levels: Mapping[str, NDArray[np.floating]],
    place: Place,
    heads: Iterable[Head],
) -> dict[Head, tuple[str, Interval]]:
    """What heads are called by where they look, and how far they look there.

    Arguments:
        strengths: measures on novel classes by name [set, layer, head].
        levels: the same under uniform attention [layer, head], from `uniform_by_head`.
        place: in the circuit.
    """
    values, uniform, entropies = looking(strengths, place), looking(levels, place), strengths.get(ROWS[place])
    found = {}
    for head in heads:
        looks = clustered_interval([values[:, *head]])
        known = entropies is not None and not np.isnan(entropies[:, *head]).any()
        entropy = clustered_interval([entropies[:, *head]]) if entropies is not None and known else None
        found[head] = pattern_word(place, looks, float(uniform[head]), entropy), looks
    return found


def places_of(circuit: CircuitHeads) -> dict[Place, Head]:
    """The circuit's head in each place."""
    return {"previous token": circuit.previous_token, "induction": circuit.induction}


def true_words(
    config: RunConfig, strengths: Mapping[str, NDArray[np.floating]], circuit: CircuitHeads
) -> frozenset[str]:
    """Which of `PLACES` the two heads of a circuit may be called, by their patterns."""
    levels = uniform_by_head(config)
    return frozenset(
        words_of(strengths, levels, place, [head])[head][0] for place, head in places_of(circuit).items()
    ) & frozenset(PLACES)


def shown_name(name: str, true: Collection[str]) -> str:
    """The name of a head of the circuit, or of an effect that names one, as it may be called.

    Arguments:
        true: words of `PLACES` that are true.
    """
    for word, instead in PLACES.items():
        if word not in true:
            name = name.replace(word, instead)
    return name


def names_of(work: Interventions, circuit: CircuitHeads) -> tuple[Named, ...]:
    """The two heads of a circuit, and each group of two heads or more that have the pattern of its place.

    Arguments:
        work: interventions on novel classes.
        circuit: its two heads.
    """
    levels, found = uniform_by_head(work.config), []
    for place, head in places_of(circuit).items():
        uniform, own = looking(levels, place), f"{place.replace(' ', '-')} head"
        words = words_of(work.untouched.strengths, levels, place, (*places_of(circuit).values(), *circuit.rest))
        found.append(_named(work, circuit, place, (head,), *words[head], float(uniform[head])))
        # A previous-token head feeds an induction head of a later layer.
        fits = [one for one in words if place == "induction" or one[0] < circuit.induction[0]]
        group = tuple(sorted(one for one in fits if words[one][0] == own))
        if len(group) > 1:
            least = min(group, key=lambda one: words[one][1].mean)
            found.append(_named(work, circuit, place, group, own, words[least][1], float(uniform[least])))
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
