"""Pages that are written at build: one for each claim, the command line, the configuration.

Each follows from the code or from the committed rows, so that none can be out of date. `write` is called by `conf.py`.
"""

from __future__ import annotations

import contextlib
import io
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import reference

from miclab.claims import markdown
from miclab.claims.evidence import Evidence
from miclab.claims.ledger import Line, judged
from miclab.claims.registry import THEMES, all_claims
from miclab.claims.tables import verdict_mark
from miclab.tables import Link, table

ROOT = Path(__file__).parent.parent
PRESETS = ("quick", "paper")


def version() -> str:
    """The version in pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def command_output(arguments: Sequence[str]) -> str:
    """What a `miclab` command prints, 100 columns wide. It runs in this process.

    Raises:
        RuntimeError: it ends with another status than 0.
    """
    from miclab.cli import main

    text, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    status: Any = 0
    try:
        with contextlib.redirect_stdout(text):
            status = main(list(arguments))
    except SystemExit as exit_:
        status = exit_.code or 0
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    if status:
        raise RuntimeError(f"miclab {' '.join(arguments)} ended with status {status}: {text.getvalue()[-2000:]}")
    return text.getvalue()


def ledger(preset: str) -> list[Line]:
    """Every claim as the committed rows of a preset judge it."""
    return judged(Evidence(ROOT / "studies", preset), all_claims())


def claim_page(lines: Mapping[str, Line], here: Path) -> str:
    """The page of one claim: verdict, criterion, figure, command.

    Arguments:
        lines: the claim as judged under each preset that has rows, by preset, the first one first.
        here: the folder of the page.
    """
    claim = next(iter(lines.values())).entry
    name = claim.id

    def parts_of(preset: str) -> list[str]:
        figure = ROOT / "studies" / "figures" / preset / f"{name}-{preset}.svg"
        return markdown.judged(lines[preset], os.path.relpath(figure, here) if figure.exists() else "")

    first, *others = lines
    verdict, sentence, *rest = parts_of(first)
    parts = [f"# {name}", f"*{claim.statement}*", verdict, sentence, f"**Criterion.** {claim.criterion}",
             f"**In the paper:** {claim.paper}.", *rest]  # fmt: skip
    for other in others:
        parts += [f"## With preset `{other}`", *parts_of(other)]
    commands = [f"miclab claims {name} --explain", f"miclab reproduce {name}", f"miclab figure {name} --output figures"]
    return "\n\n".join([*parts, "## Commands", "```bash\n" + "\n".join(commands) + "\n```"]) + "\n"


def claims_index(lines: Sequence[Line]) -> str:
    """The table of all claims."""
    rows = [
        [Link(line.entry.id, f"{line.entry.id}.md"), line.entry.statement,
         verdict_mark(line.findings.verdict, "" if line.runs else line.verdict), line.entry.theme.about, line.runs,
         line.missing]
        for line in lines
    ]  # fmt: skip
    toctree = "\n".join(["```{toctree}", ":hidden:", "", *[line.entry.id for line in lines], "```"])
    *most, last = [letter for letter, theme in THEMES.items() if theme.own]
    single = [line.entry.id for line in lines if line.entry.own and not line.entry.theme.own]
    those = f", and so {'is' if len(single) == 1 else 'are'} {', '.join(single)}" if single else ""
    intro = f"""# Claims

Each claim is judged from the rows that are committed under `studies/rows`, by a criterion with fixed numbers.
{{doc}}`../concepts/verdicts-and-intervals` explains the verdicts. Names that begin with {", ".join(most)} or {last} are
our own questions{those}. The others are claims of the paper. This table and the pages behind it are written when the
site is built.

Click a heading to sort the table. Type into the field above it to filter the rows."""
    body = table("", ("claim", "statement", "verdict", "about", "runs", "runs missing"), rows).markdown()
    return "\n\n".join([intro, f"::::{{container}} ledger\n\n{body}\n\n::::", toctree]) + "\n"


def claims_pages(here: Path) -> dict[str, str]:
    """Every page that the ledger fills in, by its path below `docs`, from the committed rows.

    Arguments:
        here: the folder `docs`.
    """
    by_preset = {preset: {line.entry.id: line for line in ledger(preset)} for preset in PRESETS}
    first = by_preset[PRESETS[0]]
    lines = list(first.values())
    pages = {"claims/index.md": claims_index(lines), "findings/claims-of-the-paper.md": paper_table(lines)}
    for name, line in first.items():
        found = {preset: lines[name] for preset, lines in by_preset.items() if name in lines and lines[name].runs}
        pages[f"claims/{name}.md"] = claim_page(found or {PRESETS[0]: line}, here / "claims")
    return pages


def paper_table(lines: Sequence[Line]) -> str:
    """The claims of the paper that have rows: what it says, what we find, how sure that is, and the command."""
    rows = []
    for line in lines:
        if line.entry.own or not line.runs:
            continue
        name, seeds = line.entry.id, line.findings.seeds
        sure = f"{seeds} seed{'s' * (seeds > 1)}" if seeds else f"{line.runs} runs"
        if text := line.deciding_text:
            sure += f"; {text}"
        rows.append([
            Link(name, f"../claims/{name}.md"), f"{line.entry.statement} ({line.entry.paper})", line.verdict, sure,
            f"miclab claims {name} --explain",
        ])  # fmt: skip
    intro = """# What the paper says, and what we find

Every claim of the paper that has rows, judged in the preset `quick`. *How sure* has the number of seeds, and the
condition of the claim that lies nearest to its bound, with its 95 % interval. The words in parentheses are
the paper's own figure or table. This table is written when the site is built."""
    body = table("", ("claim", "the paper says", "we find", "how sure", "command"), rows).markdown()
    return f"{intro}\n\n::::{{container}} ledger\n\n{body}\n\n::::\n"


def write(docs: Path) -> None:
    """Writes all generated pages below `docs`; files whose text stays the same are not touched."""
    pages = {docs / name: text for name, text in claims_pages(docs).items()}
    pages[docs / "reference" / "cli.md"] = reference.command_line(command_output)
    pages[docs / "reference" / "config.md"] = reference.configuration(ROOT / "miclab")
    for old in set((docs / "claims").glob("*.md")) - set(pages):
        old.unlink()
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


docstring_lines = reference.docstring_lines
