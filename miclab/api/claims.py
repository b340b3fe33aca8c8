"""Claims and their verdicts, from the rows of studies. Nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.config.presets import Profile
from miclab.tables import Table, Tabled, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from miclab.claims.evidence import Evidence
    from miclab.claims.ledger import Line


class Judgement(Tabled):
    """A claim with its result from the rows of its studies.

    Arguments:
        line: the claim's line of the ledger.
        evidence: the rows.
    """

    def __init__(self, line: Line, evidence: Evidence):
        self.line, self.evidence = line, evidence

    @property
    def id(self) -> str:
        """A capital letter and a number."""
        return self.line.entry.id

    @property
    def statement(self) -> str:
        """The statement of the claim."""
        return self.line.entry.statement

    @property
    def criterion(self) -> str:
        """The condition under which it holds, fixed before its studies ran."""
        return self.line.entry.criterion

    @property
    def verdict(self) -> str:
        """`holds`, `holds in part`, `fails`, `undecided` or `cannot be told by this measure`."""
        return self.line.findings.verdict

    @property
    def explanation(self) -> str:
        """The verdict in words, with its conditions or with what is missing."""
        return self.line.verdict

    def tables(self) -> tuple[Table, ...]:
        """A row for each condition, with its interval and bound; then one for each number shown for comparison."""
        from miclab.claims.tables import comparisons_table, conditions_table

        title = f"{self.id}: {self.statement} {self.explanation[:1].upper()}{self.explanation[1:]}."
        found = self.line.findings
        conditions = titled(conditions_table([self.line]), title, found.notes)
        return (conditions, comparisons_table(self.line)) if found.comparisons else (conditions,)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data, as `miclab claims ID --json` has it."""
        return self.line.as_json()

    def figure(self) -> Figure:
        """The claim's own figure, from the rows.

        Raises:
            MiclabError: its studies have no rows.
        """
        return self.line.entry.draw(self.evidence)

    def __repr__(self) -> str:
        return f"Judgement({self.id}: {self.explanation})"


class Ledger(Tabled, Sequence[Judgement]):
    """Claims with their verdicts, in the ledger's order.

    Arguments:
        judgements: of each claim.
    """

    def __init__(self, judgements: Sequence[Judgement]):
        self._judgements = tuple(judgements)

    def __len__(self) -> int:
        return len(self._judgements)

    def __getitem__(self, index: Any) -> Any:
        return self._judgements[index]

    def __iter__(self) -> Iterator[Judgement]:
        return iter(self._judgements)

    def tables(self) -> tuple[Table, ...]:
        """A row for each claim."""
        from miclab.claims.tables import ledger_table

        lines = [one.line for one in self]
        return (ledger_table(lines, lines[0].profile if lines else ""),)

    def as_json(self) -> list[dict[str, Any]]:
        """Each claim as plain data, as `miclab claims --json` has it."""
        return [one.as_json() for one in self]

    def plot(self, axes: Axes | None = None) -> Axes:
        """How many claims have each verdict.

        Arguments:
            axes: where to draw; None: new axes.
        """
        from miclab.claims.verdict import VERDICTS, kind_of
        from miclab.statistics.palette import KINDS
        from miclab.statistics.style import draw_counts, new_axes

        counts = {verdict: sum(one.verdict == verdict for one in self) for verdict in VERDICTS}
        return draw_counts(axes or new_axes(), counts, "claims", [KINDS[kind_of(verdict)] for verdict in VERDICTS])


def claims(
    *ids: str, preset: Profile = "quick", studies: str | Path = "", parameters: Mapping[str, str] | None = None
) -> Ledger:
    """The verdict on every claim, or on the named ones, from the rows of their studies.

    Arguments:
        ids: claims, for example `U1`, `M7`; none: all.
        preset: whose rows: `quick` or `paper`.
        studies: directory of study files, with their rows under `rows/PRESET`; empty: those that come with miclab.
        parameters: values of the studies' parameters, by name, as texts.

    Raises:
        MiclabError: there is no such claim (the message names the nearest) or directory.
    """
    from miclab.claims.evidence import Evidence
    from miclab.claims.ledger import chosen, judged
    from miclab.studies.shipped import studies_directory

    entries = chosen(ids)
    evidence = Evidence(studies_directory(str(studies)), preset, parameters)
    evidence.check_parameters(dict.fromkeys(study for entry in entries for study in entry.studies))
    return Ledger([Judgement(line, evidence) for line in judged(evidence, entries)])


def judge(
    id: str, preset: Profile = "quick", studies: str | Path = "", parameters: Mapping[str, str] | None = None
) -> Judgement:
    """The verdict on one claim, with every condition. Arguments and errors are those of `claims`."""
    return claims(id, preset=preset, studies=studies, parameters=parameters)[0]
