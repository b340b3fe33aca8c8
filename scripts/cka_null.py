"""Does a plain CKA of so many rows say anything? What unrelated rows give, at the sizes of arXiv 2601.20796.

    python scripts/cka_null.py

A row is a pair of classes with the same label: an M2 item through a projector that was never trained, and a prototype
of M1 drawn independently of it. There is nothing to align, so what plain linear CKA shows is the number of rows alone.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from miclab.config.run import RunConfig, two_modalities
from miclab.measures.alignment import alignment
from miclab.model.decoder import Decoder
from miclab.worlds.world import draw_world

PAPER = {"M2 of 32 dimensions": 0.16, "M2 of 512 dimensions": 0.07, "512 dimensions, pretrained encoder": 0.10}


def config_of(dimension: int, seed: int) -> RunConfig:
    """The paper's world with M2 of so many dimensions."""
    config = RunConfig(modalities=two_modalities(), seed=seed)
    modalities = config.modalities
    return replace(config, modalities=modalities | {"m2": replace(modalities["m2"], dimension=dimension)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64, 128, 256, 512, 1000, 2000, 8192])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for dimension in (32, 512):
        print(f"\nM2 of {dimension} dimensions, untrained projector, K1 = 8192, K2 = 256")
        print(
            f"{'rows':>6} {'plain CKA, unrelated':>24} {'64/(rows+64)':>13} {'debiased':>9}   paper's figures above it"
        )
        for rows in options.rows:
            plain, debiased = [], []
            for seed in range(options.seeds):
                config = config_of(dimension, seed)
                world, parameters = draw_world(config), Decoder(config).initial_parameters(seed)
                found = alignment(config, world, parameters, "m2", rows=rows, shuffles=2, draws=5)
                plain.append(found.null_plain)
                debiased.append(found.cka.mean)
            level = float(np.mean(plain))
            above = [f"{v} ({name})" for name, v in PAPER.items() if v > level]
            spread = f"{level:.3f} ({min(plain):.3f} to {max(plain):.3f})"
            text = "; ".join(above) or "none"
            print(f"{rows:>6} {spread:>24} {64 / (rows + 64):>13.3f} {np.mean(debiased):>9.3f}   {text}")


if __name__ == "__main__":
    main()
