"""The web page in a browser: examples, uploads, errors, cancelling, reloading, history."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from tests.server.conftest import EXAMPLES
from tests.server.running import TIMEOUT_SECONDS, Running

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PHONE: ViewportSize = {"width": 375, "height": 812}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; .ci/run installs one")

expect.set_options(timeout=TIMEOUT_SECONDS * 1000)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    opened = Running(tmp_path_factory.mktemp("service"), ["--ui"]).start()
    yield opened
    opened.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
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


@pytest.fixture
def page(browser: Browser, running: Running) -> Iterator[Page]:
    """The opened page; it must not contact other hosts or raise script errors."""
    opened = browser.new_page()
    urls: list[str] = []
    opened.on("request", lambda request: urls.append(request.url))
    script_errors: list[str] = []
    opened.on("pageerror", lambda error: script_errors.append(str(error)))
    open_page(opened, running)
    yield opened
    opened.close()
    assert [url for url in urls if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
    assert script_errors == []


def open_page(page: Page, running: Running, query: str = "") -> None:
    page.goto(f"{running.address}/ui/{query}")
    expect(page.locator("#prompt textarea")).to_be_visible()
    expect(page.locator("#history")).not_to_be_empty()


def choose(page: Page, name: str) -> None:
    """Choose an example."""
    page.locator("#example input").click()
    page.get_by_role("option", name=name, exact=True).click()
    expect(page.locator("#prompt textarea")).not_to_have_value("")
    expect(page.locator("#summary")).to_contain_text("frames of")  # the whole form is filled


def fill_short(page: Page, steps: int = 1, seconds: float = 0.2) -> None:
    """Fill in a short video with few steps."""
    page.locator("#seconds textarea, #seconds input").fill(str(seconds))
    page.locator("#steps textarea, #steps input").fill(str(steps))
    page.locator("#steps textarea, #steps input").blur()
    expect(page.locator("#summary")).to_contain_text(f"{steps} steps")


def expect_playing(page: Page) -> None:
    """Wait until the video plays."""
    expect(page.locator("#result video")).to_be_visible()
    page.wait_for_function("() => { const v = document.querySelector('#result video'); return v && v.currentTime > 0 }")


def test_from_an_example_to_a_playing_video(page: Page) -> None:
    choose(page, "woman")
    expect(page.locator("img[alt='image 1']")).to_be_visible()
    expect(page.locator("#consent input")).to_be_checked()
    fill_short(page)
    expect(page.locator("#summary")).to_contain_text("0.2 s: 5 frames of 96 × 96")
    page.locator("#generate").click()
    expect(page.locator("#progress")).not_to_be_empty()
    expect_playing(page)
    page.locator("#result summary").click()
    expect(page.locator("#result table")).to_contain_text("red hair cut in a bob")
    first = page.locator("#result video").get_attribute("src")
    page.locator("#rerun").click()
    expect(page.locator("#result video")).not_to_have_attribute("src", first or "")
    expect_playing(page)
    page.locator("#edit").click()
    expect(page.locator("#prompt textarea")).to_have_value(re.compile("red hair cut in a bob"))
    expect(page.locator("#steps textarea, #steps input")).to_have_value("1")
    expect(page.locator("#summary")).to_contain_text(re.compile(r"about \d+ s"))
    expect(page.locator("#history li")).to_have_count(2)


def test_uploaded_images_require_consent(page: Page) -> None:
    page.locator("#prompt textarea").fill("A woman speaks.")
    page.locator("#images input[type=file]").set_input_files(EXAMPLES / "woman.png")
    expect(page.locator("img[alt='image 1']")).to_be_visible()
    page.locator("#audio input[type=file]").set_input_files(EXAMPLES / "woman.wav")
    expect(page.get_by_text("with audio")).to_be_visible()
    fill_short(page)
    page.locator("#generate").click()
    expect(page.locator("#result [role=alert]")).to_contain_text("consent: is required with images of people")
    page.locator("#consent input").check()
    page.locator("#generate").click()
    expect_playing(page)
    page.locator("#remove-files").click()
    expect(page.locator("img[alt='image 1']")).to_have_count(0)
    expect(page.locator("#consent")).not_to_be_visible()


def test_uploaded_audio_is_played(page: Page) -> None:
    page.locator("#audio input[type=file]").set_input_files(EXAMPLES / "woman.wav")
    expect(page.get_by_text("with audio")).to_be_visible()
    page.locator("#audio").get_by_role("button", name="Play", exact=True).click()
    expect(page.locator("#audio time").first).not_to_have_text("0:00")


def test_audio_is_recorded(browser: Browser, running: Running) -> None:
    page = browser.new_context(permissions=["microphone"]).new_page()
    open_page(page, running)
    page.locator("#audio").get_by_role("button", name="Record audio").click()
    page.locator("#audio").get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1500)  # from the browser's simulated microphone
    page.locator("#audio").get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_text("with audio")).to_be_visible()
    page.context.close()


def test_errors_are_shown(page: Page, tmp_path: Path) -> None:
    five = [tmp_path / f"{number}.png" for number in range(5)]
    for path in five:
        path.write_bytes((EXAMPLES / "woman.png").read_bytes())
    page.locator("#images input[type=file]").set_input_files(five)
    expect(page.locator("[role=alert]")).to_contain_text("images: 5 exceed the limit of 4")
    page.locator("#images").get_by_label("Clear").click()
    lie = tmp_path / "lie.png"
    lie.write_bytes(b"not an image")
    page.locator("#images input[type=file]").set_input_files(lie)
    expect(page.locator("[role=alert]")).to_contain_text("is not an image that can be read")
    page.locator("#prompt textarea").fill("A woman speaks.")
    page.locator("#seconds textarea, #seconds input").fill("99999")
    expect(page.locator("#summary [role=alert]")).to_contain_text("seconds: '99999' is not allowed")
    page.locator("#generate").click()
    expect(page.locator("#result [role=alert]")).to_contain_text("seconds: '99999' is not allowed")


def test_a_job_is_cancelled(page: Page) -> None:
    page.locator("#prompt textarea").fill("A man speaks.")
    fill_short(page, steps=900)
    page.locator("#generate").click()
    expect(page.locator("#progress")).to_contain_text("denoising")
    page.locator("#cancel").click()
    expect(page.locator("#result")).to_contain_text("cancelled")
    expect(page.locator("#generate")).to_be_visible()


def test_a_reloaded_page_follows_the_job_and_finishes_it_early(page: Page, running: Running) -> None:
    page.locator("#prompt textarea").fill("An old man speaks.")
    fill_short(page, steps=900)
    page.locator("#generate").click()
    expect(page.locator("#progress")).to_contain_text("denoising")
    page.reload()
    expect(page.locator("#progress")).to_contain_text("of 900")
    expect(page.locator("#progress img")).to_be_visible()  # preview
    page.locator("#finish").click()
    expect_playing(page)


def test_history_survives_a_restart(page: Page, running: Running) -> None:
    job_id = running.submit(prompt="<b>Somebody</b> & somebody else")
    running.wait(job_id, "completed")
    running.stop()
    running.start()
    open_page(page, running)
    link = page.locator(f"#history a[href$='{job_id}']")
    expect(link).to_contain_text("<b>Somebody</b> & somebody else")
    link.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#result video")).to_have_attribute("src", f"/v1/videos/{job_id}/content")
    expect_playing(page)


def test_history_cards_show_the_state_of_their_videos(page: Page, running: Running) -> None:
    """One job runs on this page; another one, submitted elsewhere, waits behind it."""
    page.locator("#prompt textarea").fill("A man speaks for long.")
    fill_short(page, steps=400)
    page.locator("#generate").click()
    first = page.locator("#history li", has_text="A man speaks for long.")
    expect(first).to_contain_text(re.compile(r"in progress, [1-9]\d*\s%"))
    cards = page.locator("#history li")
    count = cards.count()
    job_id = running.submit(prompt="A woman waits.", steps=400, frames=25)
    expect(cards).to_have_count(count + 1)
    second = page.locator(f"#history li:has(a[href$='{job_id}'])")
    expect(second).to_contain_text("queued")
    second.locator("a").focus()
    page.locator("#cancel").dispatch_event("click")
    expect(first).to_contain_text("cancelled")
    expect(second).to_contain_text(re.compile(r"in progress, [1-9]\d*\s%"))  # though this page does not follow it
    assert page.evaluate("() => document.activeElement.getAttribute('href')") == f"/ui/?video={job_id}"
    httpx.post(f"{running.address}/v1/videos/{job_id}/finish")
    expect(second.locator("img")).to_be_visible()
    expect(second).not_to_contain_text("in progress")


def test_it_fits_a_phone_and_works_by_keyboard_and_in_the_dark(browser: Browser, running: Running) -> None:
    page = browser.new_page(viewport=PHONE, color_scheme="dark", is_mobile=True)
    open_page(page, running, "?__theme=dark")
    width = page.evaluate("() => document.documentElement.scrollWidth")
    assert width <= PHONE["width"]
    assert page.evaluate("() => document.body.classList.contains('dark')")
    page.locator("#prompt textarea").focus()
    page.keyboard.type("A child speaks.")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.id") == "generate":
            break
    assert page.evaluate("() => document.activeElement.id") == "generate"
    page.close()
