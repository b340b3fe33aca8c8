"""Fills in the numbers of README and findings from the committed rows.

    python -m scripts.fill_numbers            writes the numbers that have a reference
    python -m scripts.fill_numbers --check    writes nothing; exit status 1 if one of them is stale
    python -m scripts.fill_numbers --adopt    gives a reference to every interval that one claim alone measures so

A reference is a comment right behind a mean, or behind a mean and its interval. Readers of a page do not see it.

    0.983 [0.973, 0.990]<!--M1.0-->     the first measured condition of M1 in the preset `quick`, with its interval
    0.983<!--M1.0-->                    its mean alone
    0.983<!--paper:M1.0-->              in the preset `paper`
    -0.983<!---M1.0-->                  with the sign turned: a lead of the one is a lag of the other
    5<!--M1.runs-->                     how many runs its conditions use; also `missing`, `needed` and `planned`

Conditions of a claim are counted from 0, those that do not bear on its verdict after the others, as
`miclab claims ID --explain` prints them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from miclab.claims.evidence import Evidence
from miclab.claims.ledger import chosen, judged

ROOT = Path(__file__).parent.parent
PRESETS = ("quick", "paper")
NUMBER = r"[-+]?\d+\.\d+"
INTERVAL = re.compile(rf"({NUMBER})(\s+)\[({NUMBER}),(\s+)({NUMBER})\](<!--(\S+?)-->)?")
COUNTS = ("runs", "missing", "needed", "planned")
COUNT = re.compile(rf"(?<![\d.,])(\d+)<!--(\S+?\.(?:{'|'.join(COUNTS)}))-->")
MEAN = re.compile(r"(?<![\d.,])([-+]?\d+(?:\.\d+)?)<!--(\S+?\.\d+)-->")
"""Also a whole number, such as steps."""
REFERENCE = re.compile(rf"<!--(-?(?:\w+:)?[A-Z]\w*\.(?:\d+|{'|'.join(COUNTS)}))-->")
TOLERANCE, ROUNDING = 1.51, 0.51
"""Units of the last digit by which a number may be off in a check, as sums differ between processors, and after it is
filled in."""
Measured = tuple[float, float, float]
"""Mean, lower and upper end."""


def pages() -> list[Path]:
    """README and the pages of findings; the demonstration's runs are not committed rows."""
    findings = sorted((ROOT / "docs/findings").glob("*.md"))
    return [ROOT / "README.md", *(page for page in findings if page.stem != "demonstration")]


def measured(claims: Iterable[Mapping[str, Any]]) -> dict[str, Measured]:
    """What claims measure, by reference.

    Arguments:
        claims: as `miclab claims --json` gives them, of both presets.
    """
    found: dict[str, Measured] = {}
    for claim in claims:
        for place, part in enumerate([*claim["conditions"], *claim["apart"]]):
            if not (one := part["measured"]):
                continue
            mean = float(one["mean"])
            # One seed of one set has no interval.
            low, high = (mean if one[end] is None else float(one[end]) for end in ("low", "high"))
            name = f"{'' if claim['profile'] == 'quick' else claim['profile'] + ':'}{claim['id']}.{place}"
            found[name], found[f"-{name}"] = (mean, low, high), (-mean, -high, -low)
    return found


def counted(claims: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many runs claims have, lack, need and plan, by reference.

    Arguments:
        claims: as `miclab claims --json` gives them, of both presets.
    """
    return {
        f"{'' if claim['profile'] == 'quick' else claim['profile'] + ':'}{claim['id']}.{name}": claim[name]
        for claim in claims for name in COUNTS
    }  # fmt: skip


def is_near(text: str, value: float, tolerance: float = TOLERANCE) -> bool:
    """Whether a written number is a value, up to `tolerance` units of its last digit."""
    return abs(float(text) - value) < tolerance * 10.0 ** -len(text.partition(".")[2])


def written(text: str, value: float, tolerance: float = TOLERANCE) -> str:
    """A value with the digits and the explicit sign of an old text; the text itself where that is near enough."""
    if is_near(text, value, tolerance):
        return text
    new = f"{value:.{len(text.partition('.')[2])}f}"
    return f"+{new}" if text.startswith("+") and value > 0 else new


def filled(text: str, numbers: Mapping[str, Measured], counts: Mapping[str, int], tolerance: float = TOLERANCE) -> str:
    """A page with the numbers of its references.

    Arguments:
        tolerance: units of the last digit by which a number may be off and stays. Counts are exact.

    Raises:
        KeyError: no claim measures what a reference names.
    """

    def interval(match: re.Match[str]) -> str:
        mean, space, low, gap, high, comment, name = match.groups()
        if not comment:
            return match[0]
        texts = zip((mean, low, high), numbers[name], strict=True)
        mean, low, high = (written(old, value, tolerance) for old, value in texts)
        return f"{mean}{space}[{low},{gap}{high}]{comment}"

    text = INTERVAL.sub(interval, text)
    text = COUNT.sub(lambda match: f"{counts[match[2]]}<!--{match[2]}-->", text)
    return MEAN.sub(lambda match: f"{written(match[1], numbers[match[2]][0], tolerance)}<!--{match[2]}-->", text)


def bare(text: str) -> Iterator[re.Match[str]]:
    """The intervals of a page that have no reference."""
    return (match for match in INTERVAL.finditer(text) if not match[6])


def idle(text: str) -> list[str]:
    """References of a page that stand behind no number, or behind one that is not understood, such as 1,500."""
    places = {match.end() for pattern in (INTERVAL, COUNT, MEAN) for match in pattern.finditer(text)}
    return [match[1] for match in REFERENCE.finditer(text) if match.end() not in places]


def adopted(text: str, numbers: Mapping[str, Measured]) -> str:
    """A page in which every interval has a reference that one claim alone measures, or that the nearest claim named
    before it does."""
    for match in reversed(list(bare(text))):
        texts = match[1], match[3], match[5]
        fits = [n for n, values in numbers.items() if all(map(is_near, texts, values))]
        straight = [name for name in fits if not name.startswith("-")] or fits
        named = [name for name in straight if re.search(rf"\b{claim_of(name)}\b", text[: match.end()])]
        best = max(named or straight, key=lambda name: text.rfind(claim_of(name), 0, match.end()), default=None)
        if best:
            text = f"{text[: match.end()]}<!--{best}-->{text[match.end() :]}"
    return text


def claim_of(name: str) -> str:
    """The claim of a reference."""
    return name.lstrip("-").partition(":")[2].partition(".")[0] or name.lstrip("-").partition(".")[0]


def main(arguments: list[str]) -> int:
    """Fills in, checks or adopts. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.fill_numbers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a number is stale")
    parser.add_argument("--adopt", action="store_true", help="give references to intervals that have none")
    options = parser.parse_args(arguments)
    entries = chosen(())
    lines = [line for preset in PRESETS for line in judged(Evidence(ROOT / "studies", preset), entries)]
    claims, status = [line.as_json() for line in lines], 0
    numbers, counts = measured(claims), counted(claims)
    tolerance = TOLERANCE if options.check else ROUNDING
    for page in pages():
        text = page.read_text()
        new = adopted(text, numbers) if options.adopt else filled(text, numbers, counts, tolerance)
        for match in bare(new):
            print(f"{page.relative_to(ROOT)}: no reference: {' '.join(match[0].split())}")
            status = 1
        for name in idle(new):
            print(f"{page.relative_to(ROOT)}: no number that can be filled in stands before <!--{name}-->")
            status = 1
        if new != text:
            print(f"{page.relative_to(ROOT)}: {'stale' if options.check else 'written'}")
            status = max(status, int(options.check))
            if not options.check:
                page.write_text(new)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
