"""How high can CKA be where a label is all that a pair shares? What perfect projectors give in the world of
arXiv 2601.20796.

    python scripts/cka_ceiling.py

A row is a pair: a class of M2 and a class of M1 with the same label, as `miclab align` takes them. The prototypes of M1
are independent of their labels, 8192 / 32 = 256 classes to each, so a projector can know no more of its pair than the
label. Three that know it perfectly: each item lies at the mean of the 256 prototypes with its label, at one of them, or
has an axis of its own for each label.

The second table is of the world of study `aligned_prototypes`: prototypes of M2 (512 dimensions, K2 = 256) that are
correlated by rho with those of their partners. One projector knows the map P and turns it back. The other is the
least-squares map of items to their partners, of training classes alone. Novel classes are of 64 sets, 16 each.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor

from miclab.config.parts import ModalityConfig, SequenceConfig
from miclab.config.run import RunConfig, two_modalities
from miclab.measures.cka import debiased_cka, plain_cka
from miclab.seeds import stream
from miclab.worlds.world import World, draw_world, novel_world


def main() -> None:
    """Prints debiased and plain CKA and the distance, means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 1024, 8192])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--correlations", type=float, nargs="+", default=[0.0, 0.3, 0.6, 0.9])
    options = parser.parse_args()
    print(f"{'rows':>6} {'items lie at':>22} {'debiased':>9} {'plain':>7} {'L2':>6}")
    for rows in options.rows:
        found: dict[str, list[tuple[float, float, float]]] = {}
        for seed in range(options.seeds):
            config = RunConfig(modalities=two_modalities(), seed=seed)
            world, generator = draw_world(config), stream(seed, "scripts", "cka ceiling", rows)
            host, labels = world.sources["m1"].prototypes, config.modalities["m2"].labels
            table = world.tables["m1"]
            drawn = torch.randint(labels, (rows,), generator=generator)
            partners = host[table.draw_with_label(drawn, generator)]
            means = torch.stack([host[table.label_of == label].mean(0) for label in range(labels)])
            for name, points in (
                ("the mean of their label", means),
                ("one of their label", host[:labels]),
                ("an axis of their label", torch.eye(labels, host.shape[1])),
            ):
                items = points[drawn]
                distance = float((items - partners).norm(dim=1).mean())
                values = debiased_cka(items, partners), plain_cka(items, partners), distance
                found.setdefault(name, []).append(values)
        for name, values in found.items():
            debiased, plain, distance = np.mean(values, 0)
            print(f"{rows:>6} {name:>22} {debiased:>9.4f} {plain:>7.3f} {distance:>6.3f}")
    print(f"\n{'rho':>6} {'classes':>9} {'P turned back':>14} {'least squares':>14}")
    for correlation in options.correlations:
        values = [correlated(correlation, seed) for seed in range(options.seeds)]
        for place, classes in enumerate(("training", "novel")):
            known, learnt = np.mean([value[place] for value in values], 0)
            print(f"{correlation:>6g} {classes:>9} {known:>14.3f} {learnt:>14.3f}")


def correlated(correlation: float, seed: int) -> list[tuple[float, float]]:
    """Debiased CKA of items with the prototypes of their partners, by the two projectors: of training classes and of
    novel ones, 1,024 pairs each."""
    m2 = ModalityConfig(classes=256, dimension=512, labels=16, prototype_correlation=correlation)
    paired = SequenceConfig(pairing="class")
    config = RunConfig(modalities={**two_modalities(), "m2": m2}, sequence=paired, seed=seed)
    world, generator = draw_world(config), stream(seed, "scripts", "cka ceiling", "pairs")

    def drawn(here: World, classes: Tensor) -> tuple[Tensor, Tensor]:
        partners = here.sources["m1"].prototypes[here.partners["m1"][classes]]
        return here.sources["m2"].draw(classes, generator), partners

    training = drawn(world, torch.arange(1024) % m2.classes)
    novel = [drawn(novel_world(config, world, "evaluation", index), torch.arange(16)) for index in range(64)]
    along = world.maps["m2"].T if correlation else torch.linalg.qr(torch.randn(512, 64, generator=generator)).Q
    learnt = torch.linalg.lstsq(training[0], training[1], driver="gelsd").solution
    found = []
    for items, partners in (training, tuple(torch.cat(part) for part in zip(*novel, strict=True))):
        found.append((debiased_cka(items @ along, partners), debiased_cka(items @ learnt, partners)))
    return found


if __name__ == "__main__":
    main()
