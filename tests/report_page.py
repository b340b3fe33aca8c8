"""A written page as tests read it: its figures' data, its text, and whether it refers to anything outside."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from miclab.report.html import packed_plotly

OUTSIDE = (r"src\s*=", r'href="(?!data:|#)', r"url\(", "@import", r"https?://", r"\bfetch\(", "XMLHttpRequest")


def embedded(path: Path) -> dict[str, Any]:
    """The data that the page's figures are drawn from."""
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', path.read_text(), re.S)
    assert found
    return json.loads(found[1])


def without_plotly(path: Path) -> str:
    """The page's text without the code of the plot engine, which is in it once."""
    text = path.read_text()
    assert text.count(packed_plotly()) == 1
    return text.replace(packed_plotly(), "")


def outside(text: str) -> list[str]:
    """The ways in which a text refers to something outside the page."""
    return [pattern for pattern in OUTSIDE if re.search(pattern, text)]
