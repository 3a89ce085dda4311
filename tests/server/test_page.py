"""The page in a real browser: from an example to a playing video, uploads, refusals, stopping, coming back."""

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
from tests.server.running import PATIENCE, Running

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PHONE: ViewportSize = {"width": 375, "height": 812}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; .ci/run installs one")

expect.set_options(timeout=PATIENCE * 1000)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    found = Running(tmp_path_factory.mktemp("service"), ["--ui"]).start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser, running: Running) -> Iterator[Page]:
    """The page, opened; it asks for nothing elsewhere and complains of nothing."""
    found = browser.new_page()
    asked: list[str] = []
    found.on("request", lambda request: asked.append(request.url))
    faults: list[str] = []
    found.on("pageerror", lambda error: faults.append(str(error)))
    opened(found, running)
    yield found
    found.close()
    assert [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
    assert faults == []


def opened(page: Page, running: Running, query: str = "") -> None:
    page.goto(f"{running.address}/ui/{query}")
    expect(page.locator("#prompt textarea")).to_be_visible()
    expect(page.locator("#history")).not_to_be_empty()


def choose(page: Page, name: str) -> None:
    """An example."""
    page.locator("#example input").click()
    page.get_by_role("option", name=name, exact=True).click()
    expect(page.locator("#prompt textarea")).not_to_have_value("")
    expect(page.locator("#forecast")).to_contain_text("frames of")  # all of the form is filled


def short(page: Page, steps: int = 1, seconds: float = 0.2) -> None:
    """As little work as may be."""
    page.locator("#seconds textarea, #seconds input").fill(str(seconds))
    page.locator("#steps textarea, #steps input").fill(str(steps))
    page.locator("#steps textarea, #steps input").blur()
    expect(page.locator("#forecast")).to_contain_text(f"{steps} steps")


def playing(page: Page) -> None:
    """The video runs."""
    expect(page.locator("#result video")).to_be_visible()
    page.wait_for_function("() => { const v = document.querySelector('#result video'); return v && v.currentTime > 0 }")


def test_from_an_example_to_a_playing_video(page: Page) -> None:
    choose(page, "woman")
    expect(page.locator("img[alt='picture 1']")).to_be_visible()
    expect(page.locator("#consent input")).to_be_checked()
    short(page)
    expect(page.locator("#forecast")).to_contain_text("0.2 s: 5 frames of 96 × 96")
    page.locator("#make").click()
    expect(page.locator("#progress")).not_to_be_empty()
    playing(page)
    page.locator("#result summary").click()
    expect(page.locator("#result table")).to_contain_text("red hair cut in a bob")
    first = page.locator("#result video").get_attribute("src")
    page.locator("#again").click()
    expect(page.locator("#result video")).not_to_have_attribute("src", first or "")
    playing(page)
    page.locator("#change").click()
    expect(page.locator("#prompt textarea")).to_have_value(re.compile("red hair cut in a bob"))
    expect(page.locator("#steps textarea, #steps input")).to_have_value("1")
    expect(page.locator("#forecast")).to_contain_text(re.compile(r"about \d+ s"))
    expect(page.locator("#history li")).to_have_count(2)


def test_files_are_dropped_in_and_need_consent(page: Page) -> None:
    page.locator("#prompt textarea").fill("A woman speaks.")
    page.locator("#pictures input[type=file]").set_input_files(EXAMPLES / "woman.png")
    expect(page.locator("img[alt='picture 1']")).to_be_visible()
    page.locator("#sound input[type=file]").set_input_files(EXAMPLES / "woman.wav")
    expect(page.get_by_text("with the sound")).to_be_visible()
    short(page)
    page.locator("#make").click()
    expect(page.locator("#result [role=alert]")).to_contain_text("consent: is needed for pictures of people")
    page.locator("#consent input").check()
    page.locator("#make").click()
    playing(page)
    page.locator("#empty").click()
    expect(page.locator("img[alt='picture 1']")).to_have_count(0)
    expect(page.locator("#consent")).not_to_be_visible()


def test_a_sound_that_was_dropped_in_is_played(page: Page) -> None:
    page.locator("#sound input[type=file]").set_input_files(EXAMPLES / "woman.wav")
    expect(page.get_by_text("with the sound")).to_be_visible()
    page.locator("#sound").get_by_role("button", name="Play", exact=True).click()
    expect(page.locator("#sound time").first).not_to_have_text("0:00")


def test_a_sound_is_recorded(browser: Browser, running: Running) -> None:
    page = browser.new_context(permissions=["microphone"]).new_page()
    opened(page, running)
    page.locator("#sound").get_by_role("button", name="Record audio").click()
    page.locator("#sound").get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1500)  # of a microphone that the browser makes up
    page.locator("#sound").get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_text("with the sound")).to_be_visible()
    page.context.close()


def test_what_cannot_be_done_is_said(page: Page, tmp_path: Path) -> None:
    five = [tmp_path / f"{number}.png" for number in range(5)]
    for path in five:
        path.write_bytes((EXAMPLES / "woman.png").read_bytes())
    page.locator("#pictures input[type=file]").set_input_files(five)
    expect(page.locator("[role=alert]")).to_contain_text("pictures: are 5; at most 4")
    page.locator("#pictures").get_by_label("Clear").click()
    lie = tmp_path / "lie.png"
    lie.write_bytes(b"this is no picture")
    page.locator("#pictures input[type=file]").set_input_files(lie)
    expect(page.locator("[role=alert]")).to_contain_text("is not a picture that can be read")
    page.locator("#prompt textarea").fill("A woman speaks.")
    page.locator("#seconds textarea, #seconds input").fill("99999")
    expect(page.locator("#forecast [role=alert]")).to_contain_text("seconds: '99999' is not allowed")
    page.locator("#make").click()
    expect(page.locator("#result [role=alert]")).to_contain_text("seconds: '99999' is not allowed")


def test_a_job_is_stopped(page: Page) -> None:
    page.locator("#prompt textarea").fill("A man speaks.")
    short(page, steps=900)
    page.locator("#make").click()
    expect(page.locator("#progress")).to_contain_text("making the picture")
    page.locator("#stop").click()
    expect(page.locator("#result")).to_contain_text("stopped")
    expect(page.locator("#make")).to_be_visible()


def test_a_page_that_is_opened_again_goes_on_and_keeps_what_is_there(page: Page, running: Running) -> None:
    page.locator("#prompt textarea").fill("An old man speaks.")
    short(page, steps=900)
    page.locator("#make").click()
    expect(page.locator("#progress")).to_contain_text("making the picture")
    page.reload()
    expect(page.locator("#progress")).to_contain_text("of 900")
    expect(page.locator("#progress img")).to_be_visible()  # what it looks like by now
    page.locator("#finish").click()
    playing(page)


def test_history_is_there_after_a_restart(page: Page, running: Running) -> None:
    job_id = running.ask(prompt="<b>Somebody</b> & somebody else")
    running.wait(job_id, "completed")
    running.stop()
    running.start()
    opened(page, running)
    link = page.locator(f"#history a[href$='{job_id}']")
    expect(link).to_contain_text("<b>Somebody</b> & somebody else")
    link.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#result video")).to_have_attribute("src", f"/v1/videos/{job_id}/content")
    playing(page)


def test_a_card_of_the_history_tells_how_its_video_is_doing(page: Page, running: Running) -> None:
    """Of one that is made here and of one that waits behind it, asked for elsewhere."""
    page.locator("#prompt textarea").fill("A man speaks for long.")
    short(page, steps=400)
    page.locator("#make").click()
    first = page.locator("#history li", has_text="A man speaks for long.")
    expect(first).to_contain_text(re.compile(r"being made, [1-9]\d*\s%"))
    cards = page.locator("#history li")
    count = cards.count()
    job_id = running.ask(prompt="A woman waits.", steps=400, frames=25)
    expect(cards).to_have_count(count + 1)
    second = page.locator(f"#history li:has(a[href$='{job_id}'])")
    expect(second).to_contain_text("queued")
    second.locator("a").focus()
    page.locator("#stop").dispatch_event("click")
    expect(first).to_contain_text("stopped")
    expect(second).to_contain_text(re.compile(r"being made, [1-9]\d*\s%"))  # though nobody follows it here
    assert page.evaluate("() => document.activeElement.getAttribute('href')") == f"/ui/?video={job_id}"
    httpx.post(f"{running.address}/v1/videos/{job_id}/finish")
    expect(second.locator("img")).to_be_visible()
    expect(second).not_to_contain_text("being made")


def test_it_fits_a_phone_and_works_by_keyboard_and_in_the_dark(browser: Browser, running: Running) -> None:
    page = browser.new_page(viewport=PHONE, color_scheme="dark", is_mobile=True)
    opened(page, running, "?__theme=dark")
    width = page.evaluate("() => document.documentElement.scrollWidth")
    assert width <= PHONE["width"]
    assert page.evaluate("() => document.body.classList.contains('dark')")
    page.locator("#prompt textarea").focus()
    page.keyboard.type("A child speaks.")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.id") == "make":
            break
    assert page.evaluate("() => document.activeElement.id") == "make"
    page.close()
