"""The ledger: every claim, judged from the rows of its studies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from miclab.claims.evidence import Evidence
from miclab.claims.plateau import WANTED_SEEDS, CellEscape
from miclab.claims.registry import Claim, all_claims, find_claim
from miclab.claims.verdict import Condition, Findings
from miclab.claims.words import MEANINGS, in_part
from miclab.statistics.distributions import holm
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
    "aligned_prototypes",
    "real_secondary",
    "longer_context",
    "context",
    "context_codes",
    "anchors",
    "circuit_controls",
    "multimodal_patterns",
    "refined",
    "refined_parts",
    "refined_circuits",
    "early_fusion_swapped",
    "diversity_swapped",
    "transience",
    "position_width",
    "position_constant",
    "mechanisms",
    "real_constant",
    "depth",
    "depth_multimodal",
    "optimiser",
    "position_constant_sgd",
)
"""Studies by how much they decide for their time, the best first. Others follow."""


@dataclass(frozen=True)
class Line:
    """A claim with its findings in one preset.

    Arguments:
        planned: runs of its studies without stage-1 runs. Its conditions may need fewer of them.
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
        """Planned runs that its conditions need. Numbers for comparison may need others."""
        return self.runs + self.missing

    @property
    def verdict(self) -> str:
        """The verdict in words: with its conditions, what is missing, or the seeds that left the plateau."""
        found = self.findings.verdict
        if found == "holds in part":
            return in_part(self.findings.holding_in_short, len(self.findings.conditions))
        if found == "undecided":
            return f"{found}: {self._open}"
        if found in ("holds", "fails") and (left := _left(self.findings.plateau)):
            mixed = any(cell.mixed for cell in self.findings.plateau)
            return f"{found}, whether or not all seeds leave the plateau" if mixed else f"{found}: {left}"
        return found

    @property
    def _open(self) -> str:
        """Why nothing is decided."""
        conditions = self.findings.conditions
        if not self.planned:
            return f"its studies have no preset {self.profile}"
        if self.missing:
            return f"{self.missing} of {self.needed} runs missing"
        if not all(condition.decidable for condition in conditions):
            return "too few seeds"
        if len(conditions) > 1:
            held = sum(condition.verdict == "holds" for condition in conditions)
            return f"{held} of {len(conditions)} conditions {'holds' if held == 1 else 'hold'}"
        if self.findings.plateau and any(condition.open for condition in conditions):
            return f"it hangs on the plateau, {_left(self.findings.plateau)}"
        return "the interval crosses the bound"

    @property
    def deciding(self) -> Condition | None:
        """The decided condition that is nearest to its bound, or else the nearest of all measured ones."""
        measured = [c for c in self.findings.conditions if c.measured is not None]
        decided = [c for c in measured if c.verdict != "undecided"]
        return max(decided or measured, key=lambda c: c.p if c.p is not None else -1.0, default=None)

    @property
    def deciding_text(self) -> str:
        """That condition with its interval and, where there are others, its own verdict; empty: nothing is measured."""
        if (one := self.deciding) is None:
            return ""
        among = f" ({one.verdict}; one of {count} conditions)" if (count := len(self.findings.conditions)) > 1 else ""
        return f"{one.quantity}, if {one.text}: {one.measured_text}{among}"

    @property
    def sentence(self) -> str:
        """The verdict with preset, seeds, the condition nearest to its bound, and what it means for a reader of the
        paper."""
        seeds = self.findings.seeds
        many = f", {seeds} seed{'s' * (seeds > 1)}" if seeds else ""
        shown = f"; nearest to its bound: {text}" if (text := self.deciding_text) else ""
        meaning = self.entry.meaning.get(self.findings.verdict) or MEANINGS[self.findings.verdict]
        reason = f" {self.findings.beyond}" if self.findings.beyond else ""
        return f"Preset {self.profile}{many}{shown}. {meaning}{reason}"

    @property
    def wants_seeds(self) -> tuple[CellEscape, ...]:
        """Cells that a seed left late, with fewer seeds than such cells should have."""
        return tuple(cell for cell in self.findings.plateau if cell.left and cell.seeds < WANTED_SEEDS)

    def as_json(self) -> dict[str, Any]:
        """The line as plain data. Scripts read these names: `clause` is a condition's text, `apart` are comparisons."""

        def plain(interval: Interval | None) -> dict[str, Any] | None:
            return None if interval is None or not math.isfinite(interval.mean) else asdict(interval)

        return _finite({
            "id": self.entry.id,
            "statement": self.entry.statement,
            "profile": self.profile,
            "criterion": self.entry.criterion,
            "paper": self.entry.paper,
            "studies": list(self.entry.studies),
            "verdict": self.findings.verdict,
            "verdict_text": self.verdict,
            "sentence": self.sentence,
            "seeds": self.findings.seeds,
            "p": self.findings.p,
            "faulty": self.entry.faulty,
            "beyond": self.entry.beyond,
            "runs": self.runs,
            "missing": self.missing,
            "needed": self.needed,
            "planned": self.planned,
            "conditions": [
                {"clause": c.text, "quantity": c.quantity, "bound": c.bound, "measured": plain(c.measured),
                 "verdict": c.verdict, "runs": len(c.used), "missing": len(c.absent), "p": c.p,
                 "by_seed": [round(v, 6) for v in c.values],
                 "plateau": [cell.as_json() for cell in c.plateau], "hangs_on_plateau": c.open}
                for c in self.findings.conditions
            ],
            "apart": [
                {"quantity": a.quantity, "measured": plain(a.measured), "paper": a.paper, "distance": a.distance}
                for a in self.findings.comparisons
            ],
            "notes": list(self.findings.notes),
            "wants_ten_seeds": [cell.cell for cell in self.wants_seeds],
        })  # fmt: skip


def _finite(value: Any) -> Any:
    """Plain data with None for numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _left(cells: Sequence[CellEscape]) -> str:
    """The number of seeds that left the plateau, in cells near it where some did; empty if there is none."""
    counts = sorted({(cell.left, cell.seeds) for cell in cells if cell.left})
    return ", ".join(f"{left} of {seeds} seeds" for left, seeds in counts) + " left the plateau" if counts else ""


FEW_SEEDS = 3
"""Claims with at most so many seeds are never counted as surviving a correction. With two degrees of freedom, p depends
on the shape of the seeds' distribution, which cannot be checked."""


def below(lines: Sequence[Line], level: float = 0.05) -> tuple[str, ...]:
    """The notes below the ledger. They give Holm's correction over the claims that hold or fail, and the cells that
    need more seeds. Neither changes a verdict."""
    notes = []
    values = {line.entry.id: p for line in lines if (p := line.findings.p) is not None}
    if len(values) > 1:
        adjusted = holm(values)
        seeds = {line.entry.id: line.findings.seeds for line in lines}
        few = [name for name in values if 0 < seeds[name] <= FEW_SEEDS]
        alive = [name for name in values if adjusted[name] <= level and name not in few]
        text = f"Holm's correction over the {len(values)} claims that hold or fail, at {level:g}: "
        text += f"{', '.join(alive) or 'none'} {'survives' if len(alive) == 1 else 'survive'} it."
        if few:
            text += f" Of {FEW_SEEDS} seeds or fewer, so unable to survive it: {', '.join(few)}."
        notes.append(text)
    wanting = {line.entry.id: len(line.wants_seeds) for line in lines if line.wants_seeds}
    if wanting:
        names = ", ".join(f"{name} ({count})" for name, count in wanting.items())
        notes.append(
            f"Cells near the plateau of copying any label, which want {WANTED_SEEDS} seeds, by claim: {names}."
        )
    return tuple(notes)


def chosen(ids: Sequence[str]) -> list[Claim]:
    """Entries by their ids, in the ledger's order; without ids, all of the ledger.

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
    """Studies of the claims that lack planned runs, the most useful first.

    Arguments:
        again: also the studies of complete claims.
    """
    named = [study for line in lines if line.planned and (again or line.missing) for study in line.entry.studies]
    known = [study for study in RUN_ORDER if study in named]
    return [*known, *dict.fromkeys(study for study in named if study not in RUN_ORDER)]
