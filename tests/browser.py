"""Pages in a real browser: opened from disk, with every complaint and every request noted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from conftest import browser_path, without_browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

# Where the middle point of the first line of a chart with numbers is on the screen; null: the chart has no line.
_POINT = """(place) => {
  const shown = (t) => t.type === "scatter" && t.hoverinfo !== "skip" && t.y.length && t.name !== "step";
  const trace = place._fullData.find(shown);
  if (!trace) return null;
  const { xaxis, yaxis } = place._fullLayout;
  const known = [...trace.y.keys()].filter((i) => trace.y[i] !== null && trace.x[i] !== null);
  if (!known.length) return null;
  const at = known[Math.floor(known.length / 2)];
  const box = place.getBoundingClientRect();
  const y = Math.min(Math.max(yaxis.d2p(trace.y[at]), 2), yaxis._length - 2);
  return [box.left + xaxis._offset + xaxis.d2p(trace.x[at]), box.top + yaxis._offset + y];
}"""

# Names of the visible charts that are drawn.
_DRAWN = """() => [...document.querySelectorAll(".js-plotly-plot")]
  .filter((place) => place.checkVisibility()).map((place) => place.dataset.figure ?? place.dataset.kind)"""


_BROWSER: list[Any] = []
"""The browser that all tests of a file share: it takes seconds to start."""
_TO_END = ExitStack()


def _shared_browser() -> Any:
    """The browser of this file of tests. Without one the test is skipped, or fails (see `conftest.browser_path`)."""
    path = browser_path()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        without_browser("Playwright is not installed: pip install -e '.[development]'")
    if not _BROWSER:
        tool = _TO_END.enter_context(sync_playwright())
        found = tool.chromium.launch(executable_path=path, args=FLAGS, timeout=120_000)
        _BROWSER.append(_TO_END.enter_context(found))
    return _BROWSER[0]


def end() -> None:
    """Ends the browser, and Playwright, whose event loop would be in the way of tests that have their own."""
    _BROWSER.clear()
    _TO_END.close()


@contextmanager
def opened(page: Path, part: str = "", **options: Any) -> Iterator[Any]:
    """A tab that shows a page, or a part of it, with cookies and storage of its own. At the end the page must have
    complained of nothing and requested nothing.

    Arguments:
        part: id of an element that the address names.
        options: of Playwright's context: `viewport`, `is_mobile` and others.
    """
    complaints, requests = [], []
    context = _shared_browser().new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    try:
        tab = context.new_page()
        tab.set_default_timeout(120_000)
        tab.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning", "trace") else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page.as_uri() + (f"#{part}" if part else ""), timeout=120_000)
        yield tab
    finally:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


def hover_lines(tab: Any) -> dict[str, list[str]]:
    """What each visible line chart of a page shows under the mouse, line by line, by the chart's name.

    A page draws a chart when it comes near the screen, so the charts are listed anew after each.
    """
    found: dict[str, list[str]] = {}
    visited: set[str] = set()
    while left := [name for name in tab.evaluate(_DRAWN) if name not in visited]:
        visited.add(name := left[0])
        chart = (
            tab.locator(f".js-plotly-plot[data-figure='{name}'], .js-plotly-plot[data-kind='{name}']")
            .locator("visible=true")
            .first
        )
        chart.scroll_into_view_if_needed()
        point = chart.evaluate(_POINT)
        if point is None:
            continue
        # The middle of the screen: a tab bar that stays on top must not lie over the point.
        tab.evaluate("(by) => window.scrollBy(0, by)", point[1] - 450)
        x, y = chart.evaluate(_POINT)
        tab.mouse.move(x + 1, y)
        tab.mouse.move(x, y)
        lines = chart.locator(".hoverlayer text")
        for _ in range(100):
            found[name] = [text for text in lines.all_text_contents() if text.strip()]
            if found[name]:
                break
            tab.wait_for_timeout(50)
    return found
