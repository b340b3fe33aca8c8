"""The known signs of failure in plain words, with their evidence in numbers and advice."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from miclab.circuits.existence import why_no_circuit, why_unformed
from miclab.circuits.find import DIFFUSE, CircuitHeads, head_name, strongest_heads
from miclab.config.request import SplitSizes
from miclab.errors import MiclabError
from miclab.measures.alignment import align, aligned_modalities
from miclab.measures.evaluate import Evaluation, evaluate
from miclab.runs.find import find
from miclab.runs.run import Run
from miclab.statistics.intervals import clustered_interval
from miclab.tables import Mark, Table, Tabled, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIGH = 0.8
"""Accuracies from here on are called high."""
NEAR = 0.1
"""An accuracy within this distance of a floor is called near it."""

SHOWN, NOT_SHOWN, NOT_JUDGED = Mark("shown", "bad"), Mark("not shown", "good"), Mark("not judged")


@dataclass(frozen=True)
class Sign:
    """A sign of failure, looked for in a run.

    Arguments:
        name: of the sign.
        shown: whether the run shows it; None where it cannot be judged.
        evidence: the numbers.
        advice: changes to try, if it is shown.
    """

    name: str
    shown: bool | None
    evidence: str
    advice: str

    @property
    def mark(self) -> Mark:
        """Whether it is shown, as a mark."""
        return NOT_JUDGED if self.shown is None else SHOWN if self.shown else NOT_SHOWN


@dataclass(frozen=True)
class Diagnosis(Tabled):
    """The signs of failure that were looked for in a checkpoint.

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
        """A row for each sign. Advice is given only for signs that are shown."""
        rows = [[s.name, s.mark, s.evidence, s.advice if s.shown else ""] for s in self.signs]
        return (table(self.run, ["sign", "found", "evidence", "what to change"], rows),)

    def as_json(self) -> list[dict[str, Any]]:
        """Each sign as plain data."""
        return [asdict(sign) for sign in self.signs]

    def plot(self, axes: Axes | None = None) -> Axes:
        """Which signs are shown, a bar for each; grey where it could not be judged.

        Arguments:
            axes: where to draw; None: new axes.
        """
        from miclab.statistics.palette import KINDS
        from miclab.statistics.style import new_axes

        axes = axes or new_axes()
        lengths = [{True: 1.0, False: 0.0, None: 0.5}[sign.shown] for sign in self.signs]
        axes.barh([sign.name for sign in self.signs], lengths, color=[KINDS[sign.mark.kind] for sign in self.signs])
        axes.set_xticks([0, 0.5, 1], [NOT_SHOWN.text, NOT_JUDGED.text, SHOWN.text])
        axes.invert_yaxis()
        axes.set_title(self.run, fontsize="small")
        return axes


def _accuracy(found: Evaluation, split: str) -> float:
    return found.scores[split].accuracy


def _oracle(found: Evaluation, split: str, name: str) -> float:
    return float(found.scores[split].oracles[name].mean())


def low_data_complexity(run: Run, found: Evaluation) -> Sign:
    """ICL near chance though training accuracy is high."""
    icl, train, chance = _accuracy(found, "icl"), _accuracy(found, "train"), _oracle(found, "icl", "chance")
    return Sign(
        "data complexity too low",
        train >= HIGH and icl <= chance + NEAR,
        f"accuracy on training classes {train:.2f} (high: {HIGH}), on novel classes {icl:.2f} (chance {chance:.2f})",
        "Raise the number of classes (modalities.<name>.classes, of real data .blends) or of copies in the "
        "context (sequence.burstiness).",
    )


def copies_any_label(run: Run, found: Evaluation) -> Sign:
    """Answers come from the context, but from any of its labels: the stage before the induction circuit."""
    icl, random = _accuracy(found, "icl"), _oracle(found, "icl", "random_context_label")
    copied = clustered_interval([found.scores["icl"].in_context])
    return Sign(
        "copies any label of the context",
        copied.mean >= HIGH and abs(icl - random) <= NEAR,
        f"{copied} of the answers are labels of the context, yet accuracy on novel classes is {icl:.2f}; a random"
        f" label of the context scores {random:.2f}",
        "Train longer (`miclab resume RUN --steps ...`): this is the plateau before the induction circuit.",
    )


def alignment_gap(run: Run, found: Evaluation) -> Sign:
    """Unimodal ICL strong, multimodal weak, and projected items no better aligned with the host's than by chance."""
    name = "alignment gap"
    advice = "Train stage 2 longer, enlarge the projector (bridge.projector), or put an encoder before it."
    if not run.config.parent.run:
        return Sign(name, None, "not judged: the run has no stage-1 parent", advice)
    try:
        parent = find(run.config.parent.run, run.path.parent)
        before = evaluate(parent, step=run.config.parent.step, splits=("icl",), sizes=_sizes(found), measures=False)
    except MiclabError as error:
        return Sign(name, None, f"not judged: {error}", advice)
    icl, unimodal = _accuracy(found, "icl"), before.scores["icl"].accuracy
    if not aligned_modalities(run.config):
        return Sign(
            name, None, "not judged: in a joint-label task no class has the label of another modality's", advice
        )
    gaps = align(run, step=found.step)
    if few := [a for a in gaps if a.above_null is None]:
        measured = f"not judged: {few[0].traders} labels of {few[0].modality} are too few to judge alignment"
        return Sign(name, None, measured, advice)
    measured = "; ".join(
        f"CKA of {a.modality} {a.cka} against {a.traded_high:.3f} by chance ({a.rows} rows, {a.cka.count} draws)"
        for a in gaps
    )
    weak = unimodal >= HIGH and icl < min(HIGH, unimodal - NEAR)
    return Sign(
        name,
        weak and any(not a.above_null for a in gaps),
        f"unimodal ICL of the parent {unimodal:.2f}, multimodal {icl:.2f}; {measured}",
        advice,
    )


def memorising(run: Run, found: Evaluation) -> Sign:
    """IWL high with `swapped` low."""
    iwl, swapped = _accuracy(found, "iwl"), _accuracy(found, "swapped")
    return Sign(
        "memorising",
        iwl >= HIGH and swapped <= 0.5,
        f"accuracy without help from the context (iwl) {iwl:.2f}, with every label shifted (swapped) {swapped:.2f}",
        "Raise the number of classes, burstiness or within-class noise, so that weights alone cannot answer.",
    )


def _strongest(found: Evaluation) -> CircuitHeads | None:
    return strongest_heads({name: value.mean(0) for name, value in found.scores["icl"].strengths.items()})


def no_induction_circuit(run: Run, found: Evaluation) -> Sign:
    """No induction circuit: often training has only begun."""
    icl, heads = found.scores["icl"], _strongest(found)
    reason = why_no_circuit(heads, icl)
    evidence = reason or f"accuracy on novel classes is {icl.interval()}, above that of answering with any label"
    if heads is not None:
        strength = clustered_interval([icl.strengths["induction_total"][:, *heads.induction]])
        evidence += f"; the strongest induction head, {head_name(heads.induction)}, has strength {strength} of 1"
    advice = "Train longer (`miclab resume RUN --steps ...`), or raise data complexity (classes, burstiness)."
    if any(one.source for one in run.config.modalities.values()):
        advice += " If all classes of real data are in use, mixtures of two are more (`modalities.NAME.blends`)."
    if run.config.decoder.layers < 2:
        advice = "Use two layers or more (decoder.layers): the circuit's two heads lie in different layers."
    return Sign("no induction circuit", bool(reason), evidence, advice)


def diffuse_attention(run: Run, found: Evaluation) -> Sign:
    """The induction head's attention spread out: expected under rotary codes. A head that has not formed attends
    uniformly. That is no evidence about the position code, so it is not judged."""
    icl, heads = found.scores["icl"], _strongest(found)
    layer, head = heads.induction if heads is not None else (0, 0)
    if reason := icl.left_out.get("entropy"):
        return Sign("diffuse attention", None, f"not judged: {reason}", "")
    entropy = float(icl.strengths["entropy"][:, layer, head].mean())
    if math.isnan(entropy):
        return Sign("diffuse attention", None, f"not judged: the attention of layer {layer} is no softmax", "")
    unformed = why_unformed((layer, head), icl)
    rotary = run.config.decoder.position_facts.rotates
    measured = (
        f"the induction head {head_name((layer, head))} has attention entropy {entropy:.2f} of a uniform row's"
        f" (diffuse above {DIFFUSE}); positions: {run.config.decoder.positions}"
    )
    if unformed:
        measured = f"not judged: no induction head has formed. {unformed[:1].upper()}{unformed[1:]}"
    return Sign(
        "diffuse attention",
        None if unformed else entropy > DIFFUSE,
        measured,
        "Expected under a rotary code; a one-hot code (decoder.positions=onehot) gives sharper heads."
        if rotary
        else "Train longer or raise data complexity; the code is not rotary, so sharp heads are possible.",
    )


SIGNS: tuple[Callable[[Run, Evaluation], Sign], ...] = (
    no_induction_circuit,
    low_data_complexity,
    alignment_gap,
    memorising,
    diffuse_attention,
    copies_any_label,
)


def _sizes(found: Evaluation) -> SplitSizes:
    sets, sequences = found.scores["icl"].correct.shape
    return SplitSizes(sequences=sequences, novel_sets=sets)


STEPS = 1 + len(SIGNS)
"""Parts of the work of `diagnose`: the evaluation, and each sign."""


def diagnose(
    run: Run,
    *,
    step: int | None = None,
    sizes: SplitSizes | None = None,
    on_progress: Callable[[int, str], None] = lambda done, text: None,
) -> Diagnosis:
    """Looks for every known sign in a checkpoint of a run, by default its last good one.

    Arguments:
        on_progress: called with the number of `STEPS` done and the name of the next.
    """
    on_progress(0, "evaluation")
    found = evaluate(run, step=step, sizes=sizes or SplitSizes())
    signs: list[Sign] = []
    for look in SIGNS:
        on_progress(1 + len(signs), look.__name__.replace("_", " "))
        signs.append(look(run, found))
    on_progress(STEPS, "")
    return Diagnosis(run.path.name, tuple(signs))
