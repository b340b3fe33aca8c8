"""What one short training of each kind can speak to: the claims of `miclab demo`, from the rows of the study `demo`.

They are no part of the ledger. Each speaks of the runs that it is given, one of each kind: its interval is over sets of
novel classes. The bounds of M1, M7 and M8 were written again after a first version had been seen
(docs/findings/demonstration.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from miclab.claims import paper
from miclab.claims.evidence import Evidence, EvidenceCells, Quantity, grid, steps_to
from miclab.claims.registry import claim
from miclab.claims.verdict import Finding
from miclab.statistics.grid import accuracy, mean

COLLECTION = "demonstration"
STUDY = "demo"
LEVEL = 0.9
COPY = "with B = 4 and N = 8 only two classes share a context: copying any of its labels scores about 0.5"
ABLATED, CUT = "probe.ablation", "probe.knockout"
INTERVAL = "with its whole 95 % interval over sets of novel classes"


def _one_modality(rows: Evidence, *quantities: str) -> EvidenceCells:
    return grid(rows, STUDY, "code K2", quantities, where=lambda cell: cell.K2 is None)


def _two_modalities(rows: Evidence, *quantities: str) -> EvidenceCells:
    return grid(rows, STUDY, "code K2", quantities, where=lambda cell: cell.K2 is not None)


def _emergence(rows: Evidence, modalities: int) -> Iterator[str]:
    """When in-context learning arises, as notes."""
    wanted: dict[str, Quantity] = {"step": steps_to("icl", LEVEL, "never")}
    cells = grid(rows, STUDY, "code K2", wanted, where=lambda cell: (cell.K2 is None) == (modalities == 1))
    for key, seeds in cells.values.items():
        step = min(float(values["step"][0]) for values in seeds.values())
        reached = "is not reached" if math.isinf(step) else f"is reached at step {step:,.0f}"
        yield f"{key[0]}: ICL of {LEVEL:g} {reached}"


@claim(
    "DemoU5",
    "One modality, K = 4096, B = 4: with one-hot positions (APE) in-context learning arises, and both rotary codes are "
    "5 points or more behind at equal steps.",
    paper="APE about 0.95 to 1, RoPE 0.10 to 0.20 below",
    criterion=(
        f"ICL of APE above 0.95; ICL of APE minus ICL of `rope` above 0.05, and minus ICL of `rope_released`, the "
        f"authors' code, too. Each {INTERVAL}."
    ),
    studies=STUDY,
    fewest_seeds=1,
    collection=COLLECTION,
)
def u5(rows: Evidence) -> Iterator[Finding]:
    """ICL of three position codes."""
    cells = _one_modality(rows, "icl")
    onehot = mean("icl", code="onehot")
    yield cells.where(code="onehot").condition(accuracy("icl") > 0.95, "ICL of APE", "APE reads its context")
    for code in ("rope", "rope_released"):
        gap = onehot - mean("icl", code=code)
        both = cells.where(lambda cell, code=code: cell.code in ("onehot", code))
        yield both.condition(gap > 0.05, f"ICL(APE) - ICL({code})", f"the code is {code}")
        yield both.comparison(gap, f"ICL(APE) - ICL({code})", paper.figure("U5", "gap at K = 4096, B = 4"))
    yield from _emergence(rows, 1)


@claim(
    "DemoU6",
    "The induction head of APE attends sharply, that of RoPE diffusely.",
    paper="by eye",
    criterion=(
        "Entropy of the query's attention in the induction head (0 sharp, 1 uniform): that of `rope` minus that of APE "
        f"above 0.05 {INTERVAL}."
    ),
    studies=STUDY,
    fewest_seeds=1,
    collection=COLLECTION,
)
def u6(rows: Evidence) -> Iterator[Finding]:
    """Entropy of the induction heads of two position codes."""
    entropy = "probe.entropy.induction head"
    cells = _one_modality(rows, entropy).where(lambda cell: cell.code in ("onehot", "rope"))
    more = mean(entropy, code="rope") - mean(entropy, code="onehot")
    yield cells.condition(more > 0.05, "entropy(rope) - entropy(APE) of the induction head", "the code is rope")


@claim(
    "DemoM1",
    "After stage 1 with K1 = 8192, K2 = 256 classes of M2, 32 times fewer, suffice for multimodal in-context learning.",
    paper="ICL about 0.95 and more",
    criterion=f"Multimodal ICL above 0.90 {INTERVAL}.",
    studies=STUDY,
    fewest_seeds=1,
    collection=COLLECTION,
)
def m1(rows: Evidence) -> Iterator[Finding]:
    """ICL after the second stage."""
    cells = _two_modalities(rows, "icl")
    yield cells.condition(accuracy("icl") > 0.9, "multimodal ICL", "K2 is 256")
    yield cells.comparison(accuracy("icl"), "multimodal ICL", paper.figure("M1", "multimodal ICL"))
    yield from _emergence(rows, 2)


@claim(
    "DemoM7",
    "Multimodal in-context learning needs the previous-token head and the induction head.",
    paper="0.970 falls to 0.199 without the previous-token head, to 0.062 without the induction head",
    criterion=(
        "Without the previous-token head accuracy over that of the untouched decoder below 0.6 (a fall of 40 %); "
        f"without the induction head accuracy below 0.15 (chance is 1/16). Each {INTERVAL}."
    ),
    studies=STUDY,
    fewest_seeds=1,
    collection=COLLECTION,
)
def m7(rows: Evidence) -> Iterator[Finding]:
    """Accuracy without either head of the circuit."""
    intact, previous, induction = (f"{CUT}.{n}" for n in ("untouched", "previous-token head", "induction head"))
    cells = _two_modalities(rows, intact, previous, induction)
    share = mean(previous) / mean(intact)
    quantity, without = "accuracy without the previous-token head / untouched", "accuracy without the induction head"
    yield cells.condition(share < 0.6, quantity, "the previous-token head is cut")
    yield cells.condition(accuracy(induction) < 0.15, without, "the induction head is cut")
    yield cells.comparison(share, quantity, paper.figure("M7", "share without the previous-token head"))
    yield cells.comparison(accuracy(induction), without, paper.figure("M7", "induction head"))
    yield f"the previous-token head: {COPY}"


def _zeroed(rows: Evidence, name: str) -> EvidenceCells:
    return _two_modalities(rows, f"{ABLATED}.{name}")


@claim(
    "DemoM8",
    "Both modalities are needed at inference.",
    paper="0.336 with M2's items zeroed, 0.063 with M1's",
    criterion=(
        f"Accuracy with M2's items zeroed below 0.6; with M1's items zeroed below 0.15 (chance is 1/16). "
        f"Each {INTERVAL}."
    ),
    studies=STUDY,
    fewest_seeds=1,
    collection=COLLECTION,
)
def m8(rows: Evidence) -> Iterator[Finding]:
    """Accuracy with a modality's items zeroed."""
    for name, high in (("items of m2 zeroed", 0.6), ("items of m1 zeroed", 0.15)):
        cells, left = _zeroed(rows, name), accuracy(f"{ABLATED}.{name}")
        modality = name.split()[2].upper()
        yield cells.condition(left < high, f"accuracy, {name}", f"{modality}'s items are zeroed")
        yield cells.comparison(left, f"accuracy, {name}", paper.figure("M8", name))
    yield f"M2's items: {COPY}"


@claim(
    "DemoX8",
    "Zeroing M1's items and the labels, which live in M1's space, gives the paper's 0.063: chance among M2's labels.",
    paper="0.063 (our reading)",
    criterion=f"Accuracy with M1's items and the labels zeroed below 0.15 {INTERVAL}.",
    studies=STUDY,
    fewest_seeds=1,
    collection=COLLECTION,
)
def x8(rows: Evidence) -> Iterator[Finding]:
    """Accuracy with M1's items and the labels zeroed."""
    name = "items of m1 and labels zeroed"
    cells, left = _zeroed(rows, name), accuracy(f"{ABLATED}.{name}")
    yield cells.condition(left < 0.15, f"accuracy, {name}", "M1's items and the labels are zeroed")
    yield cells.comparison(left, f"accuracy, {name}", paper.figure("M8", name))
