"""A headless Chromium, and pages in it that may neither log errors nor ask anybody else for anything."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

playwright_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
SHOTS = os.environ.get("WEFT_SCREENSHOTS")


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def pages(browser: Any, prepare: Callable[[Any], Any] = bool) -> Iterator[Callable[..., Any]]:
    """Opens pages; fails the test when one logs an error or asks anybody else for anything."""
    contexts, problems = [], []

    def start(address: str, ready: str, width: int = 1180, height: int = 800, locale: str = "en-GB") -> Any:
        viewport = {"width": width, "height": height}
        context = browser.new_context(viewport=viewport, locale=locale, accept_downloads=True)
        contexts.append(context)
        prepare(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if _complains(said) else None)
        page.on(
            "request",
            lambda asked: (
                problems.append(asked.url) if not asked.url.startswith((address, "data:", "blob:")) else None
            ),
        )
        page.goto(address)
        page.wait_for_selector(ready, state="attached")
        return page

    yield start
    for context in contexts:
        context.close()
    assert not problems


def _complains(said: Any) -> bool:
    """Not of an answer that is no 200: some are asked for, and the page tells of them."""
    return said.type == "error" and not said.text.startswith("Failed to load resource")


def shot(page: Any, name: str) -> None:
    """A picture in the folder that WEFT_SCREENSHOTS names."""
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))
