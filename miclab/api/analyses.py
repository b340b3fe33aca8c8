"""Analyses of checkpoints: what `evaluate`, `circuits`, `knockout`, `ablate`, `align` and `diagnose` compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from miclab.api.run import Run
from miclab.api.runs import disks, opened
from miclab.config.request import Split, SplitSizes
from miclab.errors import ConfigError, nearest
from miclab.tables import Mark, Table, Tabled, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from miclab.circuits.diagnose import Sign
    from miclab.circuits.existence import Circuits
    from miclab.circuits.knockout import Effects
    from miclab.measures.alignments import Alignments
    from miclab.measures.evaluations import Evaluations

AnyRun = Run | str | Path
OnProgress = Callable[[int, str], None]
SEQUENCES, SETS = 1000, 8


def _sizes(sequences: int, novel_sets: int, seed: int) -> SplitSizes:
    return SplitSizes(sequences=sequences, novel_sets=novel_sets, evaluation_seed=seed)


def evaluate(
    run: AnyRun | Sequence[AnyRun],
    step: int | None = None,
    *,
    context: int | None = None,
    measures: Iterable[str] = (),
    sequences: int = SEQUENCES,
    novel_sets: int = SETS,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> Evaluations:
    """Accuracy on every split, 0 to 1, with 95 % intervals and oracles.

    Arguments:
        run: a run, or several that are seeds of one experiment: runs, paths or names.
        step: training step of the checkpoint; None: the last good one of each.
        context: another number of context examples than in training.
        measures: names of measures to take on novel classes as well.
        sequences: sequences of each split; of `icl`, for each set of novel classes.
        novel_sets: independent sets of novel classes.
        evaluation_seed: seed of all sequences that are evaluated; -1: the run's `seed`.
        on_progress: called with the number of runs done and the name of the last.

    Raises:
        RunError: the runs differ in more than the seed.
        ConfigError: there is no such checkpoint or measure, or the position code cannot place so long a context.
    """
    from miclab.measures.evaluations import evaluate_runs

    return evaluate_runs(
        disks(run), step=step, context=context, sizes=_sizes(sequences, novel_sets, evaluation_seed),
        measures=measures, on_progress=on_progress,
    )  # fmt: skip


def circuits(
    run: AnyRun | Sequence[AnyRun],
    step: int | None = None,
    *,
    split: Split = "icl",
    sequences: int = SEQUENCES,
    novel_sets: int = SETS,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> Circuits:
    """Measures of every head with 95 % intervals, and the heads of the induction circuit where there is one.

    Heads are LAYER.HEAD, both from 0. Arguments and errors are those of `evaluate`; `split` says whose sequences are
    looked at.
    """
    from miclab.circuits.existence import circuits

    return circuits(
        disks(run),
        step=step,
        split=split,
        sizes=_sizes(sequences, novel_sets, evaluation_seed),
        on_progress=on_progress,
    )


def knock_out(
    run: AnyRun | Sequence[AnyRun],
    heads: Iterable[str] | None = None,
    step: int | None = None,
    *,
    baseline: Literal["zero", "mean"] = "zero",
    split: Split = "icl",
    sequences: int = SEQUENCES,
    novel_sets: int = SETS,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> Effects:
    """Accuracy with heads knocked out, beside the untouched decoder on the same sequences.

    Arguments:
        heads: LAYER.HEAD, both from 0, cut together; None: each head, those of the run's own circuit, both, and random
            others as control, as `miclab knockout` does.
        baseline: what takes the place of a head's output: `zero`, or `mean` over a training batch.
        split: whose accuracy is measured.

    The other arguments and the errors are those of `evaluate`.

    Raises:
        ConfigError: there is no such head; the message lists them.
    """
    from miclab.circuits import knockout

    if baseline not in ("zero", "mean"):
        raise ConfigError("baseline", baseline, nearest(str(baseline), ("zero", "mean")))
    runs, sizes = disks(run), _sizes(sequences, novel_sets, evaluation_seed)
    if heads is None:
        return knockout.knock_out(runs, baseline=baseline, step=step, sizes=sizes, split=split, on_progress=on_progress)
    names = [heads] if isinstance(heads, str) else list(heads)
    if not names:
        raise ConfigError("heads", names, "at least one head, or None")
    chosen = [Run(runs[0]).head(name) for name in names]
    return knockout.knock_out_together(runs, chosen, baseline=baseline, step=step, sizes=sizes, split=split)


def ablate(
    run: AnyRun | Sequence[AnyRun],
    step: int | None = None,
    *,
    split: Split = "icl",
    sequences: int = SEQUENCES,
    novel_sets: int = SETS,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> Effects:
    """Accuracy with the items of a modality, the labels, or both set to zero. Arguments and errors are those of
    `evaluate`; `split` says whose accuracy is measured."""
    from miclab.circuits.knockout import ablate

    sizes = _sizes(sequences, novel_sets, evaluation_seed)
    return ablate(disks(run), step=step, split=split, sizes=sizes, on_progress=on_progress)


def align(
    run: AnyRun,
    step: int | Sequence[int] | None = None,
    *,
    rows: int = 1024,
    on_progress: OnProgress | None = None,
) -> Alignments:
    """Alignment of every secondary modality with the host: debiased CKA with its null, distance, retrieval.

    Arguments:
        step: training step of a checkpoint, or several; None: the last good one.
        rows: pairs of classes in a draw, at least 4.
        on_progress: called with the number of checkpoints done.

    Raises:
        RunError: the run has one modality or a joint-label task.
        ConfigError: there is no such checkpoint.
    """
    from miclab.measures.alignments import align_run

    steps = list(step) if isinstance(step, Sequence) else [step]
    return align_run(opened(run).disk, steps, rows, on_progress)


@dataclass(frozen=True)
class Diagnosis(Tabled):
    """Signs of failure that were looked for in a run.

    Arguments:
        run: name of the run.
        signs: each with whether it is shown, the numbers, and what to change.
    """

    run: str
    signs: tuple[Sign, ...]

    @property
    def shown(self) -> tuple[Sign, ...]:
        """The signs that the run shows."""
        return tuple(sign for sign in self.signs if sign.shown)

    def tables(self) -> tuple[Table, ...]:
        """A row for each sign."""
        words = {True: Mark("shown", "bad"), False: Mark("not shown", "good"), None: Mark("not judged")}
        rows = [[s.name, words[s.shown], s.evidence, s.advice if s.shown else ""] for s in self.signs]
        return (table(self.run, ["sign", "shown", "evidence", "what to change"], rows),)

    def as_json(self) -> list[dict[str, Any]]:
        """Each sign as plain data."""
        return [asdict(sign) for sign in self.signs]

    def plot(self, axes: Axes | None = None) -> Axes:
        """Which signs are shown, a bar for each; grey where it could not be judged.

        Arguments:
            axes: where to draw; None: new axes.
        """
        from miclab.statistics.palette import BLUE, GREY, VERMILLION
        from miclab.tables import new_axes

        axes = axes or new_axes()
        colours = [{True: VERMILLION, False: BLUE, None: GREY}[sign.shown] for sign in self.signs]
        lengths = [{True: 1.0, False: 0.0, None: 0.5}[sign.shown] for sign in self.signs]
        axes.barh([sign.name for sign in self.signs], lengths, color=colours)
        axes.set_xticks([0, 0.5, 1], ["not shown", "not judged", "shown"])
        axes.invert_yaxis()
        return axes


def diagnose(
    run: AnyRun,
    step: int | None = None,
    *,
    sequences: int = SEQUENCES,
    novel_sets: int = SETS,
    evaluation_seed: int = -1,
) -> Diagnosis:
    """Looks for every known sign of failure in a checkpoint. Arguments and errors are those of `evaluate`."""
    from miclab.circuits.diagnose import diagnose

    disk = opened(run).disk
    signs = diagnose(disk, step=step, sizes=_sizes(sequences, novel_sets, evaluation_seed))
    return Diagnosis(disk.path.name, tuple(signs))
