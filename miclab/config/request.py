"""The request of a run: how long to train, when to stop, what to evaluate and keep. No field of it changes a weight. So
a run that is extended or evaluated more stays the same run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from miclab.config.checks import check_known, check_number, check_whole
from miclab.errors import ConfigError

Split = Literal["train", "icl", "swapped", "iwl"]
"""An evaluation split, defined in `miclab.worlds.splits`."""
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, kw_only=True)
class SplitSizes:
    """Numbers of sequences in an evaluation."""

    sequences: int = 1000
    """Sequences of each split; of `icl`: for each set of novel classes."""
    novel_sets: int = 8
    """Independent sets of novel classes over which `icl` is averaged."""
    evaluation_seed: int = -1
    """Seed of the novel classes and of all sequences that are evaluated; -1: the run's `seed`."""

    def __post_init__(self) -> None:
        check_whole("", self, "sequences", 1)
        check_whole("", self, "evaluation_seed", -1, 2**63 - 1)
        check_whole("", self, "novel_sets", 1)

    def sets_of(self, split: str) -> int:
        """Independent sets of sequences of a split: `icl` has one for each set of novel classes, others have one."""
        return self.novel_sets if split == "icl" else 1

    def sequences_of(self, split: str) -> int:
        """All sequences of a split."""
        return self.sequences * self.sets_of(split)


@dataclass(frozen=True, kw_only=True)
class Request:
    """How long to train, when to stop, and what to record."""

    steps: int = 300_000
    """Training steps in all; more of them extend a finished run."""
    evaluate_every: int = 2000
    """Steps between metric rows; before the first of them also at 1, 2, 4, 8, ... steps."""
    checkpoint_every: int = 20_000
    """Steps between checkpoints that are kept permanently; those of the early, logarithmic rows are kept too."""
    checkpoint_at: tuple[int, ...] = ()
    """Further steps whose checkpoints are kept permanently, without a metric row."""
    sequences: int = 1000
    """Sequences of each split in a metric row; of `icl`: for each set of novel classes."""
    novel_sets: int = 8
    """Independent sets of novel classes in a metric row."""
    evaluation_seed: int = -1
    """Seed of the novel classes and of all sequences that are evaluated; -1: the run's `seed`."""
    plateau_rows: int = 0
    """Stop when the metric has not risen over this many rows; 0: never."""
    plateau_metric: Split = "icl"
    """Accuracy that must rise."""
    plateau_rise: float = 0.01
    """A rise smaller than this counts as none."""
    plateau_after: int = 0
    """No stop before this step: in-context learning often waits at one half before it rises."""
    enough: float = 0.0
    """Stop when `plateau_metric` is at least this, so that decoders can be compared at equal accuracy; 0: never."""

    def __post_init__(self) -> None:
        for name in ("steps", "evaluate_every", "checkpoint_every", "sequences", "novel_sets"):
            check_whole("request", self, name, 1)
        for name in ("plateau_rows", "plateau_after"):
            check_whole("request", self, name, 0)
        check_whole("request", self, "evaluation_seed", -1, 2**63 - 1)
        if any(type(step) is not int or step < 1 for step in self.checkpoint_at):
            raise ConfigError("request.checkpoint_at", self.checkpoint_at, "whole numbers of steps, 1 or more")
        check_number("request", self, "plateau_rise", 0.0)
        check_number("request", self, "enough", 0.0)
        check_known("request", self, "plateau_metric", SPLITS)
        if self.checkpoint_every % self.evaluate_every:
            raise ConfigError(
                "request.checkpoint_every",
                self.checkpoint_every,
                f"a multiple of request.evaluate_every = {self.evaluate_every}",
            )

    @property
    def sizes(self) -> SplitSizes:
        """Sizes of the splits in a metric row."""
        return SplitSizes(sequences=self.sequences, novel_sets=self.novel_sets, evaluation_seed=self.evaluation_seed)

    def _is_early(self, step: int) -> bool:
        return step < self.evaluate_every and step & (step - 1) == 0

    def evaluates(self, step: int) -> bool:
        """Whether a metric row is written after `step` steps."""
        return self._is_early(step) or step % self.evaluate_every == 0 or step == self.steps

    def keeps(self, step: int) -> bool:
        """Whether the checkpoint after `step` steps is kept permanently."""
        scheduled = self._is_early(step) or step % self.checkpoint_every == 0 or step == self.steps
        return scheduled or step in self.checkpoint_at

    @property
    def may_end_early(self) -> bool:
        """Whether training may stop before `steps`."""
        return self.plateau_rows > 0 or self.enough > 0

    def plateau(self, rows: list[dict[str, Any]]) -> str:
        """Why training should stop, judged from its rows; empty if it should go on."""
        rows = [row for row in rows if row["step"] % self.evaluate_every == 0 and row["step"] > 0]
        if rows and 0 < self.enough <= (last := rows[-1]["accuracy"][self.plateau_metric]):
            return f"enough: {self.plateau_metric} is {last:.3f}, at least {self.enough:g}"
        if not self.plateau_rows or len(rows) <= self.plateau_rows or rows[-1]["step"] < self.plateau_after:
            return ""
        values = [row["accuracy"][self.plateau_metric] for row in rows]
        before, since = max(values[: -self.plateau_rows]), max(values[-self.plateau_rows :])
        if since > before + self.plateau_rise:
            return ""
        return (
            f"plateau: {self.plateau_metric} rose by no more than {self.plateau_rise} over"
            f" {self.plateau_rows} rows (best before {before:.3f}, since {since:.3f})"
        )
