"""Writes what this repository says of its rows: the table in README.md, the pages of claims, and the figures.

    python -m scripts.write_ledger

Run it after new rows are committed; tests compare the README's table and the pages with the rows. A profile without
rows has no page.
"""

from __future__ import annotations

from pathlib import Path

from miclab.claims import markdown
from miclab.claims.evidence import Evidence
from miclab.claims.ledger import LEDGER, Line, judged
from miclab.claims.plots.figures import NoRowsError, draw

ROOT = Path(__file__).parent.parent
PAGES = {"quick": "docs/claims.md", "paper": "docs/claims-paper.md"}
HEAD = """# Every claim with its numbers, profile `{profile}`

From the rows under `studies/rows/{profile}`. Written by `python -m scripts.write_ledger`; one claim:
`miclab claims ID --profile {profile} --explain`. How a verdict comes about: [ledger.md](ledger.md). Claims that begin
with X, D or L are ours.
"""


def page_text(profile: str, lines: list[Line], figures: dict[str, str]) -> str:
    """The page of a profile's claims.

    Arguments:
        lines: claims that have runs.
        figures: where the figure of a claim lies, seen from docs/.
    """
    return f"{HEAD.format(profile=profile)}\n{markdown.page(lines, figures)}\n"


def drawn(evidence: Evidence, lines: list[Line]) -> dict[str, str]:
    """Draws the figures of claims; where each lies, seen from docs/, without those whose rows are too few."""
    folder, found = ROOT / "studies/figures" / evidence.profile, {}
    for line in lines:
        try:
            draw(evidence, line.entry, folder)
        except NoRowsError:
            continue
        name = f"{line.entry.id}-{evidence.profile}.svg"
        found[line.entry.id] = f"../studies/figures/{evidence.profile}/{name}"
    return found


def main() -> None:
    """Writes them."""
    for profile, page in PAGES.items():
        evidence = Evidence(ROOT / "studies", profile)
        lines = judged(evidence, list(LEDGER.values()))
        if profile == "quick":
            readme = ROOT / "README.md"
            readme.write_text(markdown.with_table(readme.read_text(), lines))
        with_runs = [line for line in lines if line.runs]
        if with_runs:
            (ROOT / page).write_text(page_text(profile, with_runs, drawn(evidence, with_runs)))


if __name__ == "__main__":
    main()
