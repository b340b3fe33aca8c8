"""Alignments of a run at one or several checkpoints, as a table and as plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from miclab.measures.alignment import ROWS, Alignment, align_over_training
from miclab.runs.run import Run
from miclab.tables import Interval, Number, Table, Tabled, table


@dataclass(frozen=True)
class Alignments(Tabled):
    """Alignment of every secondary modality of a run.

    Arguments:
        run: name of the run.
        trade: what trades partners under the null: `labels`, `concepts` or `classes`.
        found: by step and modality.
    """

    run: str
    trade: str
    found: tuple[Alignment, ...]

    def tables(self) -> tuple[Table, ...]:
        """A row for each step and modality; after each number what it is by chance."""
        columns = [
            "modality", "step", "CKA (debiased)", "95 % of traded", "95 % of shuffled", "p", "CKA (plain)",
            "plain, shuffled", "L2", "L2, shuffled", "retrieval", "retrieval by chance",
        ]  # fmt: skip
        rows = [
            [a.modality, a.step, Interval(a.cka, 4), Number(a.traded_high, 4), Number(a.null_high, 4), a.p_value,
             a.plain_cka, a.null_plain, a.distance, a.null_distance, a.retrieval, a.retrieval_chance]
            for a in self.found
        ]  # fmt: skip
        drawn = f"{self.found[0].cka.count} draws of {self.found[0].rows:,} pairs [95 % interval over draws]"
        note = f"traded: {self.trade} trade partners as wholes; shuffled: pairs one by one"
        return (table(f"{self.run}, {drawn}", columns, rows, [note]),)

    def as_json(self) -> list[dict[str, Any]]:
        """Each alignment as plain data."""
        return [
            asdict(a) | {"cka": a.cka.as_json(), "retrieval": a.retrieval.as_json(), "above_null": a.above_null}
            for a in self.found
        ]


def align_run(
    run: Run,
    steps: Sequence[int | None],
    rows: int = ROWS,
    on_progress: Callable[[int, str], None] | None = None,
) -> Alignments:
    """Alignment of every secondary modality of a run.

    Arguments:
        steps: of the checkpoints; None in it: the last good one.
        rows: pairs of classes in a draw.
        on_progress: called with the number of checkpoints done.

    Raises:
        RunError: the run has nothing to align, or there is no such checkpoint.
    """
    found: list[Alignment] = []
    for done, step in enumerate(steps, 1):
        found += align_over_training(run, steps=(step,), rows=rows)
        if on_progress:
            on_progress(done, "")
    trade = {"label": "labels", "concept": "concepts", "class": "classes"}[run.config.sequence.pairing]
    return Alignments(run.path.name, trade, tuple(found))
