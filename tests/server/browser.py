"""A headless Chromium on the web page of a running service, with everything that it must never do recorded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

OWN_ADDRESSES = ("http://127.0.0.1:", "data:", "blob:")

PAGE_SECONDS = 120
"""Time limit of every wait for the page."""

REFUSED = "Failed to load resource: the server responded with a status of 400"
"""Text that the browser writes to the console about a refused request; the page shows the mistake at its field."""

expect.set_options(timeout=PAGE_SECONDS * 1000)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser with a simulated microphone."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield opened
        opened.close()


@contextmanager
def watched_page(browser: Browser, address: str, **context: Any) -> Iterator[Page]:
    """Open the page. It must contact no other host, raise no script error and write no error to the console."""
    opened = browser.new_context(**context).new_page()
    opened.set_default_timeout(PAGE_SECONDS * 1000)
    faults: list[str] = []
    opened.on("request", lambda request: None if request.url.startswith(OWN_ADDRESSES) else faults.append(request.url))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    open_page(opened, address)
    yield opened
    opened.context.close()
    assert [fault for fault in faults if not fault.startswith(REFUSED)] == []


def open_page(page: Page, address: str) -> None:
    """Open the page, and wait until it is filled."""
    page.goto(f"{address}/ui/")
    expect(page.locator("html[data-ready]")).to_be_attached()


def make_short(page: Page, seconds: float = 0.2) -> None:
    """Choose a short draft."""
    if page.locator("#length-auto").is_visible():
        page.locator("#length-auto").uncheck()
    page.locator("#length").fill(str(seconds))
    page.get_by_role("radio", name="Draft").check()


def expect_playing(page: Page) -> None:
    """Wait until a video on the stage plays."""
    expect(page.locator(".take video").first).to_be_visible()
    page.locator(".take video").first.evaluate(
        "video => video.play().then(() => new Promise(done => {"
        " const look = () => video.currentTime > 0 ? done() : setTimeout(look, 50); look(); }))"
    )
