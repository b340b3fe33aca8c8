"""The result of `miclab weights`: numbers of every head's weights, and what the stream says of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from miclab.circuits.find import Head, head_name
from miclab.circuits.logit_lens import Seen
from miclab.statistics.intervals import DECIMALS, Interval
from miclab.tables import HeadName, Number, Table, Tabled, table

Kind = Literal["Q", "K", "V"]
KINDS: tuple[Kind, ...] = ("Q", "K", "V")
Product = Literal["QK", "OV"]
PRODUCTS: tuple[Product, ...] = ("QK", "OV")
LEADING = (1, 2, 4, 8)
"""Leading directions whose share of a matrix is shown."""


def leading_share(values: Sequence[float], count: int) -> float:
    """Share of the sum of squares in the first directions of a `spectrum`."""
    return sum(value * value for value in values[:count])


@dataclass(frozen=True)
class Weights(Tabled):
    """Numbers of every head's weights.

    Arguments:
        run: name of the run.
        step: training step of the checkpoint.
        scores: by head and name.
        compositions: by earlier head, later head and kind.
        paths: by earlier head and later head (see `path_matching`).
        random: mean and standard deviation with random weights, by the names of scores and kinds. A name of a path has
            the word "path" before it.
        direct: direct effect on the target's logit minus the mean logit, by part; with intervals by set of classes.
        spectra: singular values of QK and OV (see `spectrum`).
        lens: the target's logit minus the mean logit of the context's other labels, read from the stream after a layer
            at positions of a role; likewise.
        random_spectra: share of the first 1, 2, 4, 8 directions with random weights, means over heads.
        random_lens: the lens after the last layer with random weights, by role.
    """

    run: str
    step: int
    scores: dict[Head, dict[str, float]]
    compositions: dict[tuple[Head, Head, Kind], float]
    paths: dict[tuple[Head, Head], dict[str, float]]
    random: dict[str, tuple[float, float]]
    direct: dict[str, Interval]
    spectra: dict[tuple[Head, Product], tuple[float, ...]] = field(default_factory=dict)
    lens: dict[Seen, Interval] = field(default_factory=dict)
    random_spectra: dict[Product, tuple[float, ...]] = field(default_factory=dict)
    random_lens: dict[str, float] = field(default_factory=dict)

    def tables(self) -> tuple[Table, ...]:
        """Heads, compositions, singular spectra, direct effects on the logits, and the logit lens."""
        names = list(next(iter(self.scores.values())))
        rows = [[HeadName(*head), *(Number(scores[name], 3) for name in names)] for head, scores in self.scores.items()]
        rows.append(["random weights", *(Number(self.random[name][0], 3) for name in names)])
        pairs = []
        for pair in self.paths:
            kinds = (self._beside(self.compositions[*pair, kind], kind) for kind in KINDS)
            pairs.append([*map(_named, pair), *kinds, *self._path(pair)])
        direct = [[name, value] for name, value in self.direct.items()]
        title = f"{self.run} at step {self.step:,}"
        found = [table(f"{title}: weights of heads", ["head", *names], rows)]
        if pairs:
            columns = ["earlier", "later", *KINDS, *next(iter(self.paths.values()))]
            found.append(table("composition, and matching by both heads [random weights]", columns, pairs))
        first = [f"first {count}" for count in LEADING]
        shares = [
            [HeadName(*head), name, *(Number(leading_share(values, count), 3) for count in LEADING)]
            for (head, name), values in self.spectra.items()
        ]
        shares += [
            ["random weights", name, *(Number(x, 3) for x in some)] for name, some in self.random_spectra.items()
        ]
        found.append(table("singular spectra: share of the leading directions", ["head", "matrix", *first], shares))
        if direct:
            found.append(table("direct effect on the target's logit minus the mean logit", ["part", "icl"], direct))
        if self.lens:
            found.append(self._lens_table())
        return tuple(found)

    def _lens_table(self) -> Table:
        places, roles = (list(dict.fromkeys(seen[part] for seen in self.lens)) for part in (0, 1))
        rows = [[place, *(self.lens[place, role] for role in roles)] for place in places]
        rows.append(["random weights, last layer", *(self.random_lens.get(role) for role in roles)])
        title = "logit lens: the target's logit minus the mean of the context's other labels, by layer and role"
        return table(title, ["after layer", *roles], rows)

    def _path(self, pair: tuple[Head, Head]) -> list[str]:
        return [f"{value:.2f} [{self.random[f'path {name}'][0]:.2f}]" for name, value in self.paths[pair].items()]

    def _beside(self, value: float, kind: Kind) -> str:
        return f"{value:.3f} [{self.random[kind][0]:.3f}]"

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "run": self.run,
            "step": self.step,
            "heads": {head_name(head): scores for head, scores in self.scores.items()},
            "composition": [
                {"earlier": head_name(one), "later": head_name(other), "kind": kind, "score": value}
                for (one, other, kind), value in self.compositions.items()
            ],
            "paths": [
                {"earlier": head_name(one), "later": head_name(other), **scores}
                for (one, other), scores in self.paths.items()
            ],
            "random": {name: {"mean": mean, "sd": spread} for name, (mean, spread) in self.random.items()},
            "direct": {
                name: {end: value.as_json(DECIMALS)[end] for end in ("low", "mean", "high")}
                for name, value in self.direct.items()
            },
            "spectra": [
                {"head": head_name(head), "matrix": name, "singular_values": values}
                for (head, name), values in self.spectra.items()
            ],
            "lens": [{"layer": place, "role": role, **one.as_json()} for (place, role), one in self.lens.items()],
            "random_spectra": {
                name: {f"first {count}": share for count, share in zip(LEADING, shares, strict=True)}
                for name, shares in self.random_spectra.items()
            },
            "random_lens": self.random_lens,
        }


def _named(head: Head) -> HeadName:
    return HeadName(*head)
