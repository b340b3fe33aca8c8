"""Claims of arXiv 2601.20796 that one training of each kind can speak to: criterion fixed in advance, paper's figure,
verdict.

A verdict here rests on the runs that it is given, often one seed: it says what these runs show, with their interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from miclab.claims import paper
from miclab.claims.verdict import Outcome, bound_text, distance, outcome
from miclab.statistics.intervals import Interval


@dataclass(frozen=True)
class Expectation:
    """A claim about one number.

    Arguments:
        id: identifier in the paper's list of claims, with a letter where one claim has several figures.
        statement: what is claimed, in words.
        quantity: name of the number that decides.
        paper: the paper's figure, as it stands there.
        meaning: what a verdict says to a reader.
        low: the claim holds where the whole interval is above this.
        high: and below this.
        figure: the paper's figure as a number or a range; its distance is shown and does not affect the verdict.
    """

    id: str
    statement: str
    quantity: str
    paper: str
    meaning: Mapping[Outcome, str]
    low: float = -math.inf
    high: float = math.inf
    figure: paper.Number | None = None

    @property
    def criterion(self) -> str:
        """The criterion in words."""
        return f"{self.quantity} {bound_text(self.low, self.high)}"

    def verdict(self, measured: Interval) -> Outcome:
        """By the rule of the ledger, `outcome`; one seed suffices, since its runs are all that is spoken of."""
        return outcome(measured, self.low, self.high)


@dataclass(frozen=True)
class Judgement:
    """A claim with what was measured."""

    claim: Expectation
    measured: Interval

    @property
    def verdict(self) -> Outcome:
        """The claim's verdict on the measurement."""
        return self.claim.verdict(self.measured)

    @property
    def conclusion(self) -> str:
        """What it says to a reader."""
        return self.claim.meaning.get(self.verdict, "The interval crosses the criterion: these runs do not decide.")

    @property
    def paper(self) -> str:
        """The paper's figure, and how far ours is from it."""
        if self.claim.figure is None:
            return self.claim.paper
        away = distance(self.measured.mean, self.claim.figure)
        text = f"{abs(away):.3f} {'above' if away > 0 else 'below'}" if round(abs(away), 3) else "there"
        return f"{self.claim.paper} (ours: {text})"

    def row(self) -> dict[str, str]:
        """The judgement as texts, for tables and reports."""
        return {
            "result": f"{self.claim.id}  {self.claim.statement}",
            "measured": str(self.measured),
            "paper": self.paper,
            "verdict": self.verdict,
            "criterion": self.claim.criterion,
            "conclusion": self.conclusion,
        }


_COPY = "With B = 4 and N = 8 only two classes share a context: copying any of its labels scores about 0.5."

_NOT_BEHIND = "Less than 5 points behind here: under AdamW both read their context."

_GAP = paper.figure("U5", "gap at K = 4096, B = 4")

EXPECTATIONS = {
    one.id: one
    for one in (
        Expectation(
            "U5a", "APE: unimodal ICL arises at K = 4096, B = 4", "ICL", "about 0.95 to 1",
            {"holds": "The decoder reads its context.", "fails": "It does not read its context yet."},
            low=0.95,
        ),
        Expectation(
            "U5b", "`rope` is 5 points or more below APE at K = 4096, B = 4", "ICL(APE) - ICL(rope)", "0.10 to 0.20",
            {
                "holds": "RoPE is behind at equal steps.",
                "fails": _NOT_BEHIND,
            },
            low=0.05, figure=_GAP,
        ),
        Expectation(
            "U5c", "`rope_released`, the authors' rotary code, is so too", "ICL(APE) - ICL(rope_released)",
            "0.10 to 0.20",
            {
                "holds": "The released code is behind at equal steps.",
                "fails": _NOT_BEHIND,
            },
            low=0.05, figure=_GAP,
        ),
        Expectation(
            "U6", "APE attends sharply, RoPE diffusely", "entropy(rope) - entropy(APE) of the induction head",
            "by eye",
            {
                "holds": "The induction head of APE is sharper.",
                "fails": "The induction head of APE is not sharper.",
            },
            low=0.05,
        ),
        Expectation(
            "M1", "K2 = 256 after K1 = 8192 suffices for ICL of 0.90", "multimodal ICL", "about 0.95 and more",
            {
                "holds": "A secondary modality with 32 times fewer classes is read from the context.",
                "fails": "The second modality is not read well after this training.",
            },
            low=0.9, figure=paper.figure("M1", "multimodal ICL"),
        ),
        Expectation(
            "M7a", "no previous-token head: ICL falls by 40 %", "accuracy / untouched", "0.199 of 0.970",
            {
                "holds": f"The head is needed; the paper's share is 0.2. {_COPY}",
                "fails": "The circuit survives without it.",
            },
            high=0.6, figure=paper.figure("M7", "share without the previous-token head"),
        ),
        Expectation(
            "M7b", "without the induction head ICL falls to chance (1/16)", "accuracy", "0.062",
            {
                "holds": "No label reaches the answer without it.",
                "fails": "Other paths still carry labels to the answer.",
            },
            high=0.15, figure=paper.figure("M7", "induction head"),
        ),
        Expectation(
            "M8a", "zeroing M2's items lowers ICL to 0.6 at most", "accuracy", "0.336",
            {
                "holds": f"M2's items are needed. {_COPY}",
                "fails": "ICL survives without M2's items.",
            },
            high=0.6, figure=paper.figure("M8", "items of m2 zeroed"),
        ),
        Expectation(
            "M8b", "zeroing M1's items falls to chance", "accuracy", "0.063",
            {
                "holds": "As in the paper: M1 carries the matching.",
                "fails": "M2 alone finds the matching exemplar: the paper's 0.063 is not what its items carry.",
            },
            high=0.15, figure=paper.figure("M8", "items of m1 zeroed"),
        ),
        Expectation(
            "M8c", "zeroing M1's items and the labels, which live in M1's space", "accuracy", "0.063 (our reading)",
            {
                "holds": "1/16 is chance among M2's labels: zeroing the labels alone does it as well.",
                "fails": "Zeroing the labels too does not explain the paper's figure.",
            },
            high=0.15, figure=paper.figure("M8", "items of m1 and labels zeroed"),
        ),
    )
}  # fmt: skip
