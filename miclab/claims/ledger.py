"""The ledger: every claim, judged from the rows of its studies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from miclab.claims.evidence import Evidence
from miclab.claims.registry import Claim, all_claims, find_claim
from miclab.claims.verdict import Findings
from miclab.statistics.intervals import Interval

RUN_ORDER = (
    "multimodal",
    "complexity",
    "complexity_onehot",
    "secondary_complexity",
    "zipf",
    "noise",
    "decoder_size",
    "diversity",
    "early_fusion",
    "secondary_zipf",
    "secondary_noise",
    "secondary_size",
    "joint_label",
    "alignment",
    "words_pictures_blended",
    "words_pictures",
    "pictures_speech",
    "speech_pictures",
    "three_modalities",
    "parts_trained",
    "real_secondary",
    "longer_context",
    "context",
    "context_codes",
    "anchors",
    "circuit_controls",
    "early_fusion_swapped",
    "diversity_swapped",
    "transience",
    "position_width",
    "position_constant",
    "optimiser",
    "position_constant_sgd",
)
"""Studies by what they settle for the time they take, the best first; others follow."""


@dataclass(frozen=True)
class Line:
    """A claim with its findings in one preset.

    Arguments:
        planned: runs of its studies, stage-1 runs aside; its conditions may need fewer of them.
    """

    entry: Claim
    profile: str
    findings: Findings
    planned: int

    @property
    def runs(self) -> int:
        """Runs that went into its conditions."""
        return len(frozenset[str]().union(*(condition.used for condition in self.findings.conditions)))

    @property
    def missing(self) -> int:
        """Planned runs that its conditions lack."""
        return len(frozenset[str]().union(*(condition.absent for condition in self.findings.conditions)))

    @property
    def needed(self) -> int:
        """Planned runs that its conditions need; what is only shown for comparison needs others."""
        return self.runs + self.missing

    @property
    def verdict(self) -> str:
        """The verdict in words, with the conditions or with what is missing."""
        found = self.findings.verdict
        if found == "holds only if":
            return f"{found} {'; '.join(self.findings.holding)}"
        if found == "not decided":
            words = {"holds": "hold", "does not hold": "fail", "not decided": "undecided"}
            counts = [
                f"{n} {word}" for key, word in words.items()
                if (n := sum(c.verdict == key for c in self.findings.conditions))
            ]  # fmt: skip
            if not self.planned:
                return f"{found}: its studies have no preset {self.profile}"
            if self.missing:
                return f"{found}: {self.missing} of {self.needed} runs missing"
            if not all(condition.decidable for condition in self.findings.conditions):
                return f"{found}: too few seeds"
            if len(self.findings.conditions) == 1:
                return f"{found}: the interval crosses the bound"
            return f"{found}: of {len(self.findings.conditions)} conditions {', '.join(counts)}"
        return found

    def as_json(self) -> dict[str, Any]:
        """The line as plain data. Scripts read these names: `clause` is a condition's text, `apart` are comparisons."""

        def plain(interval: Interval | None) -> dict[str, Any] | None:
            if interval is None or not math.isfinite(interval.mean + interval.low + interval.high):
                return None
            return asdict(interval)

        return {
            "id": self.entry.id,
            "statement": self.entry.statement,
            "profile": self.profile,
            "criterion": self.entry.criterion,
            "paper": self.entry.paper,
            "studies": list(self.entry.studies),
            "verdict": self.findings.verdict,
            "verdict_text": self.verdict,
            "runs": self.runs,
            "missing": self.missing,
            "needed": self.needed,
            "planned": self.planned,
            "conditions": [
                {"clause": c.text, "quantity": c.quantity, "bound": c.bound, "measured": plain(c.measured),
                 "verdict": c.verdict, "runs": len(c.used), "missing": len(c.absent)}
                for c in self.findings.conditions
            ],
            "apart": [
                {"quantity": a.quantity, "measured": plain(a.measured), "paper": a.paper, "distance": a.distance}
                for a in self.findings.comparisons
            ],
            "notes": list(self.findings.notes),
        }  # fmt: skip


def chosen(ids: Sequence[str]) -> list[Claim]:
    """Entries by their ids, in the ledger's order; if none is named, all that the ledger has.

    Raises:
        MiclabError: there is no such claim.
    """
    named = {name: find_claim(name) for name in ids}
    return sorted(named.values(), key=lambda entry: entry.order) if ids else all_claims()


def judged(evidence: Evidence, entries: Sequence[Claim]) -> list[Line]:
    """Every entry with its findings."""
    return [Line(entry, evidence.profile, entry.judge(evidence), _planned(evidence, entry)) for entry in entries]


def _planned(evidence: Evidence, entry: Claim) -> int:
    return len({name for study in entry.studies for *_, name in evidence.plan(study)})


def studies_to_run(lines: Sequence[Line], again: bool = False) -> list[str]:
    """Studies of the claims that lack planned runs, in the order in which they are worth running.

    Arguments:
        again: also those of claims that lack none.
    """
    named = [study for line in lines if line.planned and (again or line.missing) for study in line.entry.studies]
    known = [study for study in RUN_ORDER if study in named]
    return [*known, *dict.fromkeys(study for study in named if study not in RUN_ORDER)]
