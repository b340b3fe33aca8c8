"""What rotary decoders of two layers lack: X12 to X15, with the criteria of docs/findings/position-constant.md.

Intervals are Student's t over seeds; a ratio of steps is judged by its geometric mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from miclab.claims.circuit import strongest
from miclab.claims.evidence import Evidence, EvidenceCells, Quantity, grid, steps_to
from miclab.claims.registry import claim
from miclab.claims.verdict import Comparison, Finding
from miclab.statistics.grid import Expression, mean

STUDY = "position_constant"
AXES = "K B code width layers placement constant constant_on bias centre jitter token_noise first mlp_bias"
PLAIN: Mapping[str, Any] = {
    "code": "rope", "width": 64, "layers": 2, "placement": "random", "constant": 0.0, "constant_on": "all",
    "bias": "none", "centre": "off", "jitter": 0, "token_noise": 0.0, "first": "none", "mlp_bias": "on",
}  # fmt: skip
"""Rope in a width of 64, two layers: what the other decoders differ from."""
POINTS = (4096, 2048)
"""K, at B = 2."""
STEPS: Mapping[str, Quantity] = {
    "steps": steps_to("icl", 0.9, censored="never"),
    "steps, censored": steps_to("icl", 0.9, censored="last"),
}
LEAD, DROP = 0.1, 0.1
"""Of accuracy."""


def decoder(**changes: Any) -> dict[str, Any]:
    """A decoder of the study by its axes, from what it differs in from plain rope."""
    return {**PLAIN, **changes}


KEYS = decoder(bias="key")
CONSTANT = decoder(constant=1.0)
ABSOLUTE = {
    "learnt positions in 64": decoder(code="learned"),
    "one-hot positions in 128": decoder(code="onehot", width=128),
}


def decoders(everything: EvidenceCells, *decoders: Mapping[str, Any]) -> EvidenceCells:
    """The cells of some decoders."""
    return everything.where(lambda cell: any(all(vars(cell)[k] == v for k, v in one.items()) for one in decoders))


def steps_ratio(one: Mapping[str, Any], other: Mapping[str, Any]) -> Expression:
    """Steps to 0.9 of a decoder over those of another. It is infinite where a run of the first never reaches 0.9. A run
    of the second that never does counts as its last step."""
    return (mean("steps", **one) / mean("steps, censored", **other)).on_log_scale()


@claim(
    "X12",
    "With a constant in its keys, rope learns as fast as absolute codes.",
    paper="none: it does not study what rotary codes lack",
    criterion=(
        "At (4096, 2): the ratio of steps to 0.9, rope with a bias of the keys (width 64) over learnt positions "
        "(width 64) and over one-hot positions (width 128), geometric mean over seeds, has its upper bound below "
        "1.25, for each of the two. A censored run of the denominator counts as 1,500; if one of the numerator is "
        "censored, the condition does not hold."
    ),
    studies=STUDY,
)
def x12(rows: Evidence) -> Iterator[Finding]:
    """Steps to 0.9 of rope with a bias of the keys over those of absolute codes."""
    everything = grid(rows, STUDY, AXES, STEPS).where(K=4096, B=2)
    for name, absolute in ABSOLUTE.items():
        yield decoders(everything, KEYS, absolute).condition(
            steps_ratio(KEYS, absolute) < 1.25,
            f"steps to 0.9, rope with a bias of the keys over {name}",
            f"the absolute code is {name}",
        )
    for name, one in {"rope": PLAIN, "rope with a bias of the keys": KEYS, **ABSOLUTE}.items():
        yield decoders(everything, one).comparison(
            mean("steps, censored").on_log_scale(), f"steps to 0.9, {name} (its last step where it does not get there)"
        )


@claim(
    "X13",
    "The lead of absolute codes comes from random placement.",
    paper="none: it places every sequence at a random slot",
    criterion=(
        "For learnt positions (width 64) and for one-hot positions (width 128), at each of the two points where the "
        "lead over rope of equal width at step 1,500 with random placement is at least 0.1 (whole interval): the lead "
        "with fixed placement minus half of the lead with random placement has its upper bound below 0."
    ),
    studies=STUDY,
)
def x13(rows: Evidence) -> Iterator[Finding]:
    """The lead of absolute codes over rope with fixed placement against half of that with random placement."""
    for classes in POINTS:
        everything = grid(rows, STUDY, AXES, "icl").where(K=classes, B=2)
        for name, absolute in ABSOLUTE.items():
            rope, fixed = decoder(width=absolute["width"]), {**absolute, "placement": "fixed"}
            cells = decoders(everything, absolute, fixed, rope)
            random_lead = mean("icl", **absolute) - mean("icl", **rope)
            fixed_lead = mean("icl", **fixed) - mean("icl", **rope)
            place = f"K is {classes} and the code is {name}"
            quantity = "lead over rope with fixed placement minus half of that with random placement"
            lead = cells.comparison(random_lead, f"lead over rope with random placement, where {place}")
            if _applies(lead):
                yield cells.condition(fixed_lead - random_lead * 0.5 < 0, quantity, place)
            elif cells.absent:
                yield cells.judged(None, quantity, place, high=0.0)
            else:
                yield f"no lead of at least {LEAD:g} with random placement, so not judged, where {place}"
            yield lead
            yield cells.comparison(fixed_lead, f"lead over rope with fixed placement, where {place}")


def _applies(lead: Comparison) -> bool:
    return lead.measured is not None and lead.measured.unit == "seed" and lead.measured.low >= LEAD


def previous_token(row: Mapping[str, Any]) -> float | None:
    """Attention of a label on its own item in layer 0, of the head that has most."""
    return strongest(row, "label_to_item.m1", layer=0)


def uniform_in_first(row: Mapping[str, Any]) -> list[float] | None:
    """ICL with the pattern of layer 0 (of one head) set to uniform, by set of novel classes."""
    columns = sorted(c for c in row if c.startswith("probe.uniform_pattern.head ") and c.endswith(" uniform.sets"))
    return row[columns[0]] if columns else None


@claim(
    "X14",
    "A constant in the keys makes a previous-token head that is needed.",
    paper="none: it does not study what rotary codes lack",
    criterion=(
        "At (4096, 2): PH of layer 0 is above 0.5 with a bias of the keys and with a constant on every token, and "
        "below 0.25 for plain rope, whole intervals; and setting the pattern of layer 0 to uniform lowers ICL by more "
        "than 0.1, whole interval, for the first two."
    ),
    studies=STUDY,
)
def x14(rows: Evidence) -> Iterator[Finding]:
    """The previous-token head's attention, and what ICL loses without its pattern."""
    quantities: Mapping[str, Quantity] = {
        "PH": previous_token, "untouched": "probe.uniform_pattern.untouched", "uniform": uniform_in_first,
    }  # fmt: skip
    everything = grid(rows, STUDY, AXES, quantities).where(K=4096, B=2)
    helped = {"a bias of the keys": KEYS, "a constant on every token": CONSTANT}
    heads = "attention of a label on its own item, layer 0, step 1,500"
    for name, one in helped.items():
        yield decoders(everything, one).condition(mean("PH") > 0.5, heads, f"rope has {name} and its head is looked at")
    yield decoders(everything, PLAIN).condition(mean("PH") < 0.25, heads, "the head of plain rope is looked at")
    for name, one in helped.items():
        yield decoders(everything, one).condition(
            mean("untouched") - mean("uniform") > DROP,
            "ICL minus ICL with the pattern of layer 0 set to uniform",
            f"rope has {name} and needs its head",
        )
    yield decoders(everything, PLAIN).comparison(
        mean("untouched") - mean("uniform"), "ICL minus ICL with the pattern of layer 0 set to uniform, plain rope"
    )


@claim(
    "X15",
    "The same under the paper's optimiser.",
    paper="none: it does not study what rotary codes lack",
    criterion=(
        "K = 4096, B = 4, SGD 1e-3, three seeds to step 205,000: the ratio of steps to 0.9 of rope with a bias of the "
        "keys over learnt positions has its upper bound below 1.1."
    ),
    studies="position_constant_sgd",
)
def x15(rows: Evidence) -> Iterator[Finding]:
    """Steps to 0.9 of rope with a bias of the keys over those of learnt positions, under SGD."""
    everything = grid(rows, "position_constant_sgd", "code bias", STEPS)
    keys, learnt, plain = ({"code": c, "bias": b} for c, b in (("rope", "key"), ("learned", "none"), ("rope", "none")))
    yield decoders(everything, keys, learnt).condition(
        steps_ratio(keys, learnt) < 1.1,
        "steps to 0.9, rope with a bias of the keys over learnt positions",
        "SGD is as in the paper",
    )
    for name, one in {"rope": plain, "rope with a bias of the keys": keys, "learnt positions": learnt}.items():
        yield decoders(everything, one).comparison(
            mean("steps, censored").on_log_scale(), f"steps to 0.9, {name} (its last step where it does not get there)"
        )
