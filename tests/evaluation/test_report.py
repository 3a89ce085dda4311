"""The page in a browser: it loads nothing from elsewhere, sorts, plays, fits a phone, and shows texts as texts."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from humo.cli.main import main
from humo.evaluation.cases import Case
from humo.media.audio import AudioTrack
from humo.media.video import VideoFormat, write_video
from tests.evaluation.evaluations import write_evaluation

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; .ci/run installs one")

ATTACK = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
COUNT = 14


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on fourteen cases with small videos; one case has a hostile prompt."""
    folder = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(0)
    videos, cases = [], []
    for number in range(COUNT):
        path = folder / f"c{number:02}.mp4"
        frames = np.full((25, 48, 64, 3), 10 * number, np.uint8) + random.integers(0, 40, (25, 48, 64, 3), np.uint8)
        track = AudioTrack(0.3 * np.sin(np.arange(16_000) / 9).astype(np.float32)[None], 16_000)
        write_video(path, frames, VideoFormat(64, 48), metadata={}, track=track)
        prompt = ATTACK if number == 3 else f"Person number {number} talks."
        category = ("edit", "long")[number % 2]
        cases.append(Case(f"c{number:02}", category, prompt, audio=path, person=f"p{number // 2}", license="CC0-1.0"))
        videos.append(path)
    levels = np.linspace(0.2, 0.8, COUNT)
    first = {"mouth_jaw_corr": list(levels), "id_dlib": list(1 - levels)}
    second = {"mouth_jaw_corr": [None, *(levels[1:] + 0.15)], "id_dlib": list(1 - levels)}
    folders = [
        write_evaluation(folder / name, values, cases=cases, videos=list(videos), label=f"model {name}")
        for name, values in (("a", first), ("b", second))
    ]
    page = folder / "page.html"
    assert main(["evaluate", "compare", *map(str, folders), "--report", str(page)]) == 0
    return page


def test_the_page_is_one_file_that_names_no_address(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["']?https?:""", text)
    assert ATTACK not in text
    (embedded,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    data = json.loads(embedded)
    assert data["cases"]["c03"]["prompt"] == ATTACK
    assert [model["label"] for model in data["models"]] == ["model a", "model b"]
    verdicts = {one["metric"]: one["verdict"] for one in data["comparisons"][0]["metrics"]}
    assert verdicts == {"mouth_jaw_corr": "better", "id_dlib": "not distinguishable"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        yield opened
        opened.close()


@pytest.fixture(params=[(1280, 900), (375, 812)], ids=["desktop", "phone"])
def page(browser: Browser, page_file: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The opened page; it must not load anything or raise script errors."""
    width, height = request.param
    opened = browser.new_page(viewport={"width": width, "height": height})
    urls: list[str] = []
    errors: list[str] = []
    opened.on("request", lambda one: urls.append(one.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.goto(page_file.as_uri())
    expect(opened.locator(".case").first).to_be_visible()
    yield opened
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert errors == []
    assert opened.evaluate("window.broken") is None
    opened.close()


@in_browser
def test_the_summary_shows_means_and_words(page: Page) -> None:
    expect(page.locator("#title")).to_have_text("model a and model b")
    summary = page.locator("#summary-table")
    expect(summary).to_contain_text("mouth_jaw_corr")
    expect(summary).to_contain_text("13 of 14")
    comparison = page.locator("#comparison")
    expect(comparison).to_contain_text("model b minus model a")
    expect(comparison.locator(".verdict-better")).to_have_text("better")
    expect(comparison.locator(".verdict-none")).to_have_text("not distinguishable")
    expect(page.locator("#invalid-table")).to_contain_text("no face is detected")
    expect(page.locator("#protocol-table")).to_contain_text("dlib_face_recognition_resnet_model_v1")


@in_browser
def test_ten_cases_come_first_and_can_be_sorted_and_filtered(page: Page) -> None:
    expect(page.locator(".case")).to_have_count(10)
    page.locator("#more").click()
    expect(page.locator(".case")).to_have_count(14)
    page.locator("#metric").select_option("mouth_jaw_corr")
    page.locator("#order").select_option("worst")
    expect(page.locator(".case h3").first).to_have_text("c00")
    page.locator("#order").select_option("best")
    expect(page.locator(".case h3").first).to_have_text("c13")
    page.locator("#category").select_option("long")
    expect(page.locator(".case")).to_have_count(7)
    page.locator("#category").select_option("")
    page.locator("#search").fill("number 12")
    expect(page.locator(".case h3")).to_have_text(["c12"])


@in_browser
def test_a_clip_plays_and_all_its_values_are_there(page: Page) -> None:
    case = page.locator(".case").first
    case.get_by_role("button", name="Play").first.click()
    expect(case.locator("video")).to_be_visible()
    page.wait_for_function("() => { const v = document.querySelector('video'); return v && v.currentTime > 0 }")
    case.locator("summary").first.click()
    expect(case.locator("details table").first).to_contain_text("id_dlib")
    expect(case.locator(".chart path").first).to_be_attached()


@in_browser
def test_hostile_texts_are_texts(page: Page) -> None:
    page.locator("#search").fill("onerror")
    expect(page.locator(".case p").first).to_contain_text("window.broken = 1")


@in_browser
def test_nothing_is_wider_than_the_window(page: Page) -> None:
    page.locator("details summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
