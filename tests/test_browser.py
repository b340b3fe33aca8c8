"""A browser that is lacking is a skipped test, or a failed one where a browser is required."""

from __future__ import annotations

import pytest
from conftest import REQUIRE_BROWSER, browser_path


def test_a_lacking_browser_skips_and_fails_where_one_is_required(monkeypatch, tmp_path):
    """Fails if CI would pass without its browser tests, or a machine without a browser could not run the others."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(REQUIRE_BROWSER, raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        browser_path()
    monkeypatch.setenv(REQUIRE_BROWSER, "1")
    with pytest.raises(pytest.fail.Exception, match="no browser is on the PATH"):
        browser_path()
    (tmp_path / "chromium").touch(0o755)
    assert browser_path() == str(tmp_path / "chromium")
