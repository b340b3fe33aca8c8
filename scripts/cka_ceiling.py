"""How high can CKA be where a label is all that a pair shares? What perfect projectors give in the world of
arXiv 2601.20796.

    python scripts/cka_ceiling.py

A row is a pair: a class of M2 and a class of M1 with the same label, as `miclab align` takes them. The prototypes of M1
are independent of their labels, 8192 / 32 = 256 classes to each, so a projector can know no more of its pair than the
label. Three that know it perfectly: each item lies at the mean of the 256 prototypes with its label, at one of them, or
has an axis of its own for each label.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from miclab.config.run import RunConfig, two_modalities
from miclab.measures.alignment import debiased_cka, plain_cka
from miclab.seeds import stream
from miclab.worlds.world import draw_world


def main() -> None:
    """Prints debiased and plain CKA and the distance, means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 1024, 8192])
    parser.add_argument("--seeds", type=int, default=5)
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


if __name__ == "__main__":
    main()
