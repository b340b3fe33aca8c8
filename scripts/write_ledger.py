"""Writes what this repository says of its rows: the table in README.md, docs/claims.md, and the figures.

    python -m scripts.write_ledger

Run it after new rows are committed; a test compares the README's table with the rows.
"""

from __future__ import annotations

from pathlib import Path

from miclab.claims import markdown
from miclab.claims.evidence import Evidence
from miclab.claims.figures import NoRowsError, draw
from miclab.claims.ledger import LEDGER, judged

ROOT = Path(__file__).parent.parent
PROFILE = "quick"
HEAD = """# Every claim with its numbers

Profile `quick`, from the rows under `studies/rows/quick`. Written by `python -m scripts.write_ledger`; one claim:
`miclab claims ID --explain`. How a verdict comes about: [ledger.md](ledger.md). Claims that begin with X, D or L are
ours.
"""


def main() -> None:
    """Writes the three."""
    evidence = Evidence(ROOT / "studies", PROFILE)
    lines = judged(evidence, list(LEDGER.values()))
    readme = ROOT / "README.md"
    readme.write_text(markdown.with_table(readme.read_text(), lines))
    figures = ROOT / "studies/figures" / PROFILE
    for line in lines:
        try:
            draw(evidence, line.entry, figures)
        except NoRowsError:
            continue
    decided = [line for line in lines if line.runs]
    (ROOT / "docs/claims.md").write_text(f"{HEAD}\n{markdown.page(decided, f'../studies/figures/{PROFILE}')}\n")


if __name__ == "__main__":
    main()
