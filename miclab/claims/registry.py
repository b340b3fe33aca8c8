"""The registry of claims: statement, criterion, conditions and figure of each in one place.

    @claim("U2", "More noise within classes raises in-context learning.", paper="a curve that rises",
           criterion="Slope of ICL on eps ...", studies=("noise",), figure=curves("noise", x="eps", by="K"))
    def u2(rows):
        for K, cells in grid(rows, "noise", "K eps", "icl").by("K"):
            yield cells.condition(slope("icl", "eps") > 0, "slope of ICL per unit of eps", f"K is {K}")

A user's file adds claims in the same way (docs/extend/claim.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from miclab.claims.evidence import Evidence
from miclab.claims.verdict import Finding, Findings, Verdict, findings_of
from miclab.config.registry import Registry
from miclab.errors import MiclabError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Conditions = Callable[[Evidence], Iterable[Finding]]
Drawing = Callable[[Evidence], "Figure"]


@dataclass(frozen=True)
class Theme:
    """The theme of the claims whose ids begin with one letter.

    Arguments:
        about: in words.
        over: what their intervals are over.
        own: whether they are our own questions, not claims of the paper.
    """

    about: str = ""
    over: str = "seeds"
    own: bool = False


THEMES = {
    "U": Theme("one modality"),
    "L": Theme("longer contexts, our own", own=True),
    "M": Theme("two modalities"),
    "J": Theme("the joint-label task"),
    "C": Theme("measures of the circuit", over="configurations"),
    "A": Theme("alignment and encoders"),
    "R": Theme("real data, a claim of the paper"),
    "D": Theme("real data, our own", own=True),
    "W": Theme("refined or made anew, our own", own=True),
    "X": Theme("controls, our own", own=True),
    "Z": Theme("depth, our own", own=True),
}
"""Themes by the first letter of a claim's id, in the order in which the ledger has them; claims of others follow."""
THEME = Theme(own=True)
"""The theme of other letters."""
LEDGER = "ledger"
"""The collection of claims that `miclab claims` lists."""


class Claim:
    """A claim of the ledger.

    Arguments:
        id: a capital letter and a number.
        statement: the claim, in words.
        paper: the paper's figure, quoted.
        criterion: when it holds; fixed before its studies run.
        studies: names of the study files that it needs.
        conditions: from the studies' rows to conditions, comparisons and notes.
        figure: draws it from the rows; None: its conditions as a forest.
        faulty: the fault of the criterion and the better one, with the date; empty: none is known.
        beyond: why the criterion's measure cannot answer the question, with the date; empty: it can.
        meaning: what a verdict means for a reader of the paper, a sentence by verdict.
        fewest_seeds: the fewest seeds that decide.
        collection: the claims that it is listed with.
    """

    def __init__(
        self, *, id: str, statement: str, paper: str, criterion: str, studies: Sequence[str], conditions: Conditions,
        figure: Drawing | None, faulty: str = "", beyond: str = "", meaning: Mapping[Verdict, str] | None = None,
        fewest_seeds: int = 2, collection: str = LEDGER,
    ):  # fmt: skip
        self.id, self.statement, self.paper, self.criterion = id, statement, paper, criterion
        self.studies, self.conditions, self.figure = tuple(studies), conditions, figure
        self.faulty, self.beyond, self.meaning = faulty, beyond, dict(meaning or {})
        self.fewest_seeds, self.collection = fewest_seeds, collection
        self.__doc__ = statement

    def judge(self, rows: Evidence) -> Findings:
        """What the rows say about it."""
        found = findings_of(self.conditions(rows))
        conditions = tuple(replace(one, fewest_seeds=self.fewest_seeds) for one in found.conditions)
        faulty = (f"The criterion is kept as it was registered, and is faulty: {self.faulty}",) if self.faulty else ()
        # Without rows no better measure could have shown anything.
        beyond = self.beyond if any(condition.used for condition in found.conditions) else ""
        return replace(found, conditions=conditions, notes=(*found.notes, *faulty), beyond=beyond)

    def draw(self, rows: Evidence) -> Figure:
        """Its figure.

        Raises:
            NoRowsError: its studies have no rows.
        """
        from miclab.claims.plots.forest import conditions_figure

        return self.figure(rows) if self.figure else conditions_figure(self.judge(rows))

    @property
    def theme(self) -> Theme:
        """What it is about."""
        return THEMES.get(self.id[0], THEME)

    @property
    def own(self) -> bool:
        """Whether it is our own question, by its theme or since the paper has no figure for it."""
        return self.theme.own or self.paper.startswith("none")

    @property
    def order(self) -> tuple[int, int]:
        """Its place in the ledger."""
        number = re.search(r"\d+", self.id)
        letter = "".join(THEMES).find(self.id[0])
        return (letter if letter >= 0 else len(THEMES)), int(number.group()) if number else 0


CLAIMS: Registry[Claim] = Registry("claim")


def claim(
    id: str,
    statement: str,
    *,
    paper: str,
    criterion: str,
    studies: str | Sequence[str],
    figure: Drawing | None = None,
    faulty: str = "",
    beyond: str = "",
    meaning: Mapping[Verdict, str] | None = None,
    fewest_seeds: int = 2,
    collection: str = LEDGER,
) -> Callable[[Conditions], Conditions]:
    """A decorator that adds a claim. It decorates a generator of the claim's conditions.

    Arguments:
        id: a capital letter and a number, such as `U2`.
        statement: what is claimed, in words.
        paper: the figure of the paper that the claim is about, quoted; otherwise `none` with the reason.
        criterion: when it holds, in words, fixed before its studies run.
        studies: names of the study files whose rows it needs, without `.yaml`.
        figure: draws it (see `miclab.claims.plots`); default: its conditions as a forest.
        faulty: the fault found in the criterion, and the better one, dated. The criterion itself stays.
        beyond: why the measure cannot answer the question whatever it shows, dated.
        meaning: what a verdict means for a reader of the paper, if the usual sentence is too short.
        fewest_seeds: the fewest seeds that decide. 1: it speaks of one run, whose sets of novel classes are resampled.
        collection: the claims that it is listed with; another name than the ledger's keeps it out of the ledger.

    Raises:
        MiclabError: the id is taken, or an argument is empty.
    """
    names = (studies,) if isinstance(studies, str) else tuple(studies)
    for part, given in (("statement", statement), ("criterion", criterion), ("studies", names)):
        if not given:
            raise MiclabError(f"The claim {id} has no {part}: give @claim all of statement, criterion and studies.")

    def add(conditions: Conditions) -> Conditions:
        CLAIMS.register(id, conditions)(
            Claim(
                id=id, statement=statement, paper=paper, criterion=criterion, studies=names, conditions=conditions,
                figure=figure, faulty=faulty, beyond=beyond, meaning=meaning, fewest_seeds=fewest_seeds,
                collection=collection,
            )
        )  # fmt: skip
        return conditions

    return add


def all_claims(collection: str = LEDGER) -> list[Claim]:
    """Every claim of a collection, in the ledger's order."""
    import miclab.claims.entries  # noqa: F401  (it registers those of this package)

    return sorted((one for one in CLAIMS.values() if one.collection == collection), key=lambda one: one.order)


def find_claim(name: str) -> Claim:
    """A claim by its id, of any collection.

    Raises:
        MiclabError: there is no such claim; the message names the nearest one.
    """
    known = {one.id: one for one in all_claims()}
    if name in CLAIMS:
        return CLAIMS[name]
    raise MiclabError(f"{name!r} is no claim: {nearest(name, known)}; a claim of your own needs --plugin FILE.py")
