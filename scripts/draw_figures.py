"""Draws the figures of every claim that has rows into studies/figures, or those of some.

    python -m scripts.draw_figures [CLAIM ...]

Run it after new rows are committed. The pages of claims, which are written when the site is built (docs/pages.py), show
these figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from miclab.claims.evidence import Evidence
from miclab.claims.ledger import chosen
from miclab.claims.plots.figures import NoRowsError, draw

ROOT = Path(__file__).parent.parent
PRESETS = ("quick", "paper")


def main() -> None:
    """Draws them; claims whose rows are too few have none."""
    parser = argparse.ArgumentParser(prog="python -m scripts.draw_figures", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help="ids of claims, such as M6; none: all")
    wanted = chosen(tuple(parser.parse_args().claims))
    for preset in PRESETS:
        evidence = Evidence(ROOT / "studies", preset)
        for entry in wanted:
            try:
                draw(evidence, entry, ROOT / "studies/figures" / preset)
            except NoRowsError:
                continue


if __name__ == "__main__":
    main()
