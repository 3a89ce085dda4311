"""The web page in a browser, in whole flows: from inputs to videos, mistakes, history, keyboard, accessibility."""

from __future__ import annotations

import json
import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, ViewportSize, expect

from humo.server.api_keys import ApiKeys
from tests.lora_files import write_lora
from tests.server.browser import CHROMIUM, chromium, expect_playing, make_short, open_page, watched_page
from tests.server.conftest import EXAMPLES
from tests.server.running import Running
from tests.tiny import save_tiny_model

DESKTOP: ViewportSize = {"width": 1440, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}

FIRST_VIEW_BYTES = 300_000

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; .ci/run installs one")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    opened = Running(tmp_path_factory.mktemp("service"), ["--ui"]).start()
    yield opened
    opened.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, running: Running) -> Iterator[Page]:
    with watched_page(browser, running.address, viewport=DESKTOP, permissions=["microphone"]) as opened:
        yield opened


def choose_example(page: Page, name: str) -> None:
    page.get_by_role("button", name=f"Example “{name}”").click()
    expect(page.locator("#prompt")).not_to_have_value("")
    expect(page.locator(".sound-label")).to_contain_text("1.7 s")


def test_from_an_example_to_variations_then_before_and_after_a_reload(page: Page) -> None:
    choose_example(page, "Woman")
    expect(page.get_by_alt_text("Reference picture 1")).to_be_visible()
    expect(page.locator("#consent")).to_be_checked()
    expect(page.get_by_label("As long as the sound")).to_be_checked()
    make_short(page)
    expect(page.locator("#summary")).to_contain_text("0.2 s of 96 × 96")
    page.locator("#count").select_option("2")
    page.get_by_role("button", name="Make the video").click()
    expect(page.get_by_role("progressbar", name="Progress of the video").first).to_be_visible()
    expect(page.locator(".take video")).to_have_count(2)
    expect(page.locator(".take .label")).to_have_text(["Variation 1", "Variation 2"])
    expect(page.get_by_role("button", name="Play all together")).to_be_visible()
    expect_playing(page)

    first = page.locator(".take").first
    first.get_by_text("Make again with…").click()
    first.get_by_role("button", name="another seed").click()
    expect(page.locator(".take .label")).to_have_text(["Before", "After"])
    expect(page.locator(".take video")).to_have_count(2)

    prompt = page.locator("#prompt").input_value()
    page.reload()
    expect(page.locator(".take .label")).to_have_text(["Before", "After"])
    expect(page.locator("#prompt")).to_have_value(prompt)
    expect(page.locator(".tile img")).to_have_count(1)
    expect(page.locator(".sound-label")).to_contain_text("1.7 s")
    expect(page.get_by_role("radio", name="Draft")).to_be_checked()

    after = page.locator(".take").nth(1)
    after.get_by_text("Settings and marks of origin").click()
    expect(after.locator("dl")).to_contain_text("red hair cut in a bob")
    expect(after.locator(".marks")).to_contain_text("declared AI-generated")
    with page.expect_download() as downloaded:
        after.get_by_role("button", name="Settings as JSON").click()
    assert json.loads(downloaded.value.path().read_text())["steps"] == 3
    with page.expect_download() as downloaded:
        after.get_by_role("button", name="Download", exact=True).click()
    assert downloaded.value.path().read_bytes()[4:8] == b"ftyp"


def test_pictures_are_ordered_cropped_and_removed_and_need_consent(page: Page, tmp_path: Path) -> None:
    page.locator("#pictures-input").set_input_files([EXAMPLES / "woman.png", EXAMPLES / "man.png"])
    expect(page.locator(".tile img")).to_have_count(2)
    sources = page.locator(".tile img").evaluate_all("images => images.map(image => image.src)")
    page.get_by_role("button", name="Move picture 2 to the left").click()
    expect(page.locator(".tile img").first).to_have_attribute("src", sources[1])
    page.get_by_role("button", name="Crop picture 1").click()  # word kept: the page speaks to people
    frame = page.get_by_role("slider", name="Part to keep")
    frame.press("Shift+ArrowLeft")
    expect(frame).to_have_attribute("aria-valuetext", "78 by 80 percent of the picture")
    page.get_by_role("button", name="Crop", exact=True).click()
    expect(page.locator(".tile img").first).not_to_have_attribute("src", sources[1])
    width = page.locator(".tile img").first.evaluate("image => image.decode().then(() => image.naturalWidth)")
    assert width == 75  # 78 % of 96
    page.locator("#pictures-input").set_input_files(
        [EXAMPLES / f"{name}.png" for name in ("elder", "beard", "glasses")]
    )
    expect(page.locator("#error-pictures")).to_contain_text("Up to 4 pictures")
    expect(page.locator(".tile img")).to_have_count(4)

    page.locator("#prompt").fill("Four people talk.")
    make_short(page)
    page.locator("#generate").click()
    expect(page.locator("#error-consent")).to_contain_text("need their agreement")
    expect(page.locator("#consent")).to_be_focused()
    for number in (4, 3, 2, 1):
        page.get_by_role("button", name=f"Remove picture {number}").click()
    expect(page.locator("#consent-row")).to_be_hidden()

    lie = tmp_path / "lie.png"
    lie.write_bytes(b"not an image")
    page.locator("#pictures-input").set_input_files(lie)
    expect(page.get_by_role("button", name="Crop picture 1")).to_be_disabled()  # word kept: the page speaks to people
    page.locator("#consent").check()
    page.locator("#generate").click()
    expect(page.locator("#error-pictures")).to_contain_text("It is not an image that can be read")
    page.get_by_role("button", name="Remove picture 1").click()
    expect(page.locator("#error-pictures")).to_be_empty()


def test_the_sound_plays_is_trimmed_recorded_and_taken_from_a_video(page: Page, running: Running) -> None:
    sound, label = page.locator("#sound-file"), page.locator(".sound-label")
    sound.set_input_files(EXAMPLES / "woman.wav")
    expect(label).to_have_text("1.7 s · woman.wav")
    page.get_by_role("button", name="Play the sound").click()
    expect(page.get_by_role("button", name="Pause the sound")).to_be_visible()
    expect(page.get_by_role("button", name="Play the sound")).to_be_visible()  # at its end

    page.get_by_role("slider", name="Start of the sound").press("ArrowRight")
    expect(label).to_contain_text("1.6 of 1.7 s")
    track, end = (
        page.locator(".track").bounding_box(),
        page.get_by_role("slider", name="End of the sound").bounding_box(),
    )
    assert track is not None
    assert end is not None
    page.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] / 2)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"] * 0.5, track["y"] + 20, steps=4)
    page.mouse.up()
    expect(label).to_contain_text("0.7 of 1.7 s")
    page.locator("#prompt").fill("A woman speaks briefly.")
    page.get_by_role("radio", name="Draft").check()
    page.locator("#generate").click()
    expect(page.locator(".take")).to_be_visible()
    newest = httpx.get(f"{running.address}/v1/videos").json()["data"][0]
    assert newest["humo"]["request"]["frames"] == 21  # 0.73 s, rounded up to 4k + 1
    running.wait(newest["id"], "completed")

    page.get_by_role("button", name="Remove the sound").click()
    sound.set_input_files(EXAMPLES / "man.mp4")
    expect(label).to_contain_text("man.mp4")
    page.get_by_role("button", name="Remove the sound").click()
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.get_by_role("button", name="Stop recording (1 s)")).to_be_visible()
    page.get_by_role("button", name=re.compile("Stop recording")).click()
    expect(label).to_contain_text("your recording")
    page.get_by_role("button", name="Remove the sound").click()
    sound.set_input_files(EXAMPLES / "demo.toml")
    expect(page.locator("#error-sound")).to_have_text("This is neither a sound nor a video.")


def test_the_sound_chosen_last_is_used_and_sets_the_length(page: Page, tmp_path: Path) -> None:
    page.locator("#length").fill("3")
    page.evaluate(
        """() => {
            const decode = OfflineAudioContext.prototype.decodeAudioData;
            let calls = 0;
            OfflineAudioContext.prototype.decodeAudioData = async function (data) {
                calls += 1;
                if (calls === 1) await new Promise(done => { window.readTheFirst = done; });
                return decode.call(this, data);
            };
        }"""
    )
    page.locator("#sound-file").set_input_files(EXAMPLES / "woman.wav")
    expect(page.locator("#sound")).to_contain_text("Reading the sound…")
    page.locator("#sound-file").set_input_files(EXAMPLES / "man.wav")
    expect(page.locator(".sound-label")).to_contain_text("man.wav")
    page.evaluate("() => { window.readTheFirst(); return new Promise(done => setTimeout(done, 500)); }")
    expect(page.locator(".sound-label")).to_contain_text("man.wav")
    expect(page.get_by_label("As long as the sound")).to_be_checked()
    expect(page.locator("#length-value")).not_to_have_text("3.0 s")
    page.get_by_role("button", name="Remove the sound").click()

    long = tmp_path / "long.wav"
    with wave.open(str(long), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(61 * 8000 * 2))
    page.locator("#sound-file").set_input_files(long)
    expect(page.locator(".sound-label")).to_contain_text("60.0 of 61.0 s")
    expect(page.locator("#error-sound")).to_contain_text("The first 60 seconds are used")
    page.get_by_role("button", name="Remove the sound").click()
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF" + bytes(500))
    page.locator("#sound-file").set_input_files(broken)
    expect(page.locator("#summary")).to_have_text("As long as the sound, 96 × 96")


def test_the_time_is_estimated_from_the_most_similar_video_and_a_state_between_phases_is_not_the_start(
    page: Page,
) -> None:
    def video(name: str, frames: int, seconds: float) -> dict[str, Any]:
        request = {"steps": 6, "frames": frames, "width": 96, "height": 96}
        humo = {"state": "cancelled", "timings": {"denoise": seconds}, "request": request}
        return {"id": name, "prompt": name, "model": "humo-nano", "progress": 0, "humo": humo}

    running = video("video_running", 25, 0)
    running["humo"] |= {"state": "in_progress", "timings": None, "phase": "denoise", "step": 2, "steps": 3}
    running["progress"] = 50
    between = running | {"progress": 99, "humo": running["humo"] | {"phase": None}}
    listed = {"data": [video("short", 5, 9), video("similar", 25, 10), video("tiny", 5, 9), running], "has_more": False}
    events = "".join(f"event: progress\ndata: {json.dumps(one)}\n\n" for one in (running, between))
    page.route("**/v1/videos?limit=100", lambda route: route.fulfill(json=listed))
    page.route("**/v1/videos/video_running", lambda route: route.fulfill(json=running))
    page.route("**/v1/videos/video_running/events", lambda route: route.fulfill(body=events))
    page.reload()
    expect(page.locator("#summary")).to_contain_text("1.0 s of 96 × 96 · ready in about 10 s")
    page.get_by_role("button", name="Show: video_running").click()
    expect(page.get_by_role("progressbar", name="Progress of the video")).to_have_js_property("value", 99)
    expect(page.locator(".status")).to_have_text("Drawing: 2 of 3")


def test_the_button_shows_that_a_request_is_being_sent(page: Page) -> None:
    requests: list[Route] = []
    page.route("**/v1/videos", lambda route: requests.append(route))
    page.locator("#prompt").fill("A man speaks.")
    page.locator("#generate").click()
    expect(page.locator("#generate")).to_have_text("Sending…")
    refusal = {
        "message": "prompt: is not allowed",
        "param": "prompt",
        "type": "invalid_request_error",
        "code": "invalid",
    }
    requests[0].fulfill(status=400, json={"error": refusal})
    expect(page.locator("#error-prompt")).to_have_text("It is not allowed")
    expect(page.locator("#generate")).to_have_text("Make the video")
    expect(page.locator("#generate")).to_be_enabled()


def test_mistakes_are_shown_at_their_fields_without_words_of_the_api(page: Page) -> None:
    page.locator("#generate").click()
    expect(page.locator("#error-prompt")).to_contain_text("Describe the scene first")
    expect(page.locator("#prompt")).to_be_focused()
    page.locator("#prompt").fill("A man speaks.")
    expect(page.locator("#error-prompt")).to_be_empty()
    page.locator("#seed").fill("99999999999999999999999")
    page.locator("#generate").click()
    expect(page.locator("#error-seed")).to_contain_text("is not allowed")
    expect(page.locator("#seed")).to_be_focused()
    words = page.locator("#inputs").inner_text() + page.locator("#result").inner_text()
    assert not re.search(r"scale_|num_|_prompt|guidance|switch_timestep|negative|cfg", words)


def test_settings_show_the_models_values_and_only_changes_are_sent(page: Page, running: Running) -> None:
    expect(page.locator("#model-hint")).to_contain_text("Here and ready: 55 MB; runs on any computer")
    expect(page.locator("#model-hint")).to_contain_text("does not recognize the person of a photograph")
    page.get_by_text("Models that can be added").click()
    expect(page.locator("#models-missing")).to_contain_text("humo models get humo-17b")
    page.get_by_text("Likeness and lips").click()
    steered = page.get_by_label("Follow the sound")
    expect(steered).to_have_attribute("aria-valuetext", "3")
    steered.fill("3.5")
    page.get_by_text("How it is drawn").click()
    expect(page.get_by_label("Layout before detail")).to_have_count(0)  # has no effect on this model
    page.locator("#model").select_option("humo-nano-teacher")
    expect(page.get_by_label("Layout before detail")).to_be_visible()
    page.locator("#model").select_option("humo-nano")
    page.get_by_role("radio", name="Wide").check()
    page.get_by_role("button", name="Roll the die").click()
    page.locator("#prompt").fill("A man speaks.")
    make_short(page)
    page.locator("#generate").click()
    expect(page.locator(".take")).to_be_visible()
    newest = httpx.get(f"{running.address}/v1/videos").json()["data"][0]
    request = newest["humo"]["request"]
    assert [request[name] for name in ("scale_audio", "scale_text", "steps", "width", "height")] == [3.5, 2, 3, 144, 80]
    assert str(newest["seed"]) == page.locator("#seed").input_value()
    httpx.delete(f"{running.address}/v1/videos/{newest['id']}")


def test_presets_and_loras_of_the_operator_are_offered(browser: Browser, tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "large", "humo-17b")
    lora = write_lora(tmp_path / "lightx2v.safetensors", "humo-17b")
    service = Running(tmp_path / "service", ["--ui", "--model", str(model), "--lora", str(lora)]).start()
    with watched_page(browser, service.address, viewport=DESKTOP) as page:
        page.get_by_text("Ready-made settings").click()
        page.get_by_label("Start from", exact=True).select_option("lightx2v")
        page.get_by_text("How it is drawn").click()
        expect(page.locator("#hint-steps")).to_contain_text("From “lightx2v”: 6")
        expect(page.get_by_label("Refinement steps")).to_have_value("6")
        page.get_by_text("Styles (LoRA)").click()
        page.get_by_role("checkbox", name="lightx2v").check()
        page.get_by_label("Strength of lightx2v").fill("0.5")
        page.get_by_role("radio", name="Upright").check()
        page.locator("#length").fill("0.2")
        page.locator("#prompt").fill("A man speaks.")
        page.locator("#generate").click()
        expect(page.locator(".take")).to_be_visible()
        request = httpx.get(f"{service.address}/v1/videos").json()["data"][0]["humo"]["request"]
        assert [request[name] for name in ("loras", "steps", "width", "height")] == [["lightx2v:0.5"], 6, 480, 832]
    service.stop()


def test_a_video_is_stopped_or_stopped_and_kept_also_after_a_reload(page: Page) -> None:
    page.locator("#prompt").fill("An old man speaks for long.")
    make_short(page, seconds=0.2)
    page.get_by_text("How it is drawn").click()
    page.get_by_label("Refinement steps").evaluate("slider => { slider.max = 900; }")
    page.get_by_label("Refinement steps").fill("900")
    page.locator("#generate").click()
    expect(page.locator(".status")).to_contain_text(re.compile(r"Drawing: \d+ of 900"))
    expect(page.locator(".left")).to_contain_text("left")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator(".screen")).to_contain_text("Stopped.")
    expect(page.locator(".below")).to_have_text("Try again")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".status")).to_contain_text("Drawing")
    page.reload()
    expect(page.locator(".status")).to_contain_text("of 900")
    expect(page.get_by_alt_text("Preview of the unfinished video")).to_be_visible()
    page.get_by_role("button", name="Stop and keep").click()
    expect_playing(page)


def test_the_history_is_searched_starred_compared_and_deleted_and_shows_markup_as_text(
    page: Page, running: Running
) -> None:
    prompt = "<img src=x onerror=alert(1)><b>Somebody</b> & somebody else"
    for text in (prompt, "Another person."):
        running.wait(running.submit(prompt=text), "completed")
    page.reload()
    cards = page.locator("#history li")
    expect(page.locator("#history img")).not_to_have_count(0)
    hidden = page.locator(".thumbnail img").evaluate_all(
        "images => images.map(one => one.clientHeight - one.parentElement.clientHeight)"
    )
    assert max(hidden) <= 0  # the whole picture is seen
    page.get_by_label("Search your videos").fill("somebody else")
    expect(cards).to_have_count(1)
    expect(cards.first).to_contain_text(prompt)
    cards.first.get_by_role("button", name="Favorite").click()
    page.get_by_label("Search your videos").fill("")
    page.get_by_role("button", name="Favorites", exact=True).click()
    expect(cards).to_have_count(1)
    page.reload()
    page.get_by_role("button", name="Favorites", exact=True).click()
    expect(cards).to_have_count(1)  # kept
    cards.first.get_by_role("button", name="Show:").press("Enter")
    expect_playing(page)
    page.get_by_role("button", name="Favorites", exact=True).click()
    page.locator("#history li", has_text="Another person.").get_by_role("button", name="Put beside").click()
    expect(page.locator(".take video")).to_have_count(2)
    page.locator("#history li", has_text="Another person.").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.locator("#history li", has_text="Another person.")).to_have_count(0)
    expect(page.locator(".take video")).to_have_count(1)


def test_on_a_phone_the_view_goes_to_what_has_changed(browser: Browser, running: Running) -> None:
    with watched_page(
        browser, running.address, viewport=PHONE, color_scheme="dark", is_mobile=True, has_touch=True
    ) as page:
        assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
        page.locator("#prompt").fill("A child speaks.")
        make_short(page)
        page.locator("#generate").tap()
        expect(page.locator(".take")).to_be_in_viewport()
        expect(page.locator(".take video")).to_be_in_viewport()


def test_everything_is_reached_by_keyboard(page: Page) -> None:
    page.locator("body").press("Tab")
    expect(page.get_by_text("To the result")).to_be_focused()
    reached: set[str] = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id || document.activeElement.name"))
        if "generate" in reached:
            break
    wanted = {"theme", "prompt", "shape", "quality", "length", "seed", "die", "count", "model", "generate"}
    assert reached >= wanted | {"pictures-input", "sound-file"}  # word kept: the page speaks to people
    page.locator("#prompt").fill("")
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("#error-prompt")).not_to_be_empty()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(page: Page, running: Running, scheme: str) -> None:
    running.wait(running.submit(prompt="A woman talks."), "completed")
    choose_example(page, "Woman")
    page.get_by_role("button", name="Colors: the system").click()
    if scheme == "dark":
        page.get_by_role("button", name="Colors: light").click()
    page.reload()
    page.locator("#history .open").first.click()
    page.locator(".take .details summary").click()
    expect(page.locator(".marks")).to_be_visible()
    for group in page.locator(".group summary").all():
        group.click()
    page.locator("#prompt").fill("")
    page.locator("#generate").click()  # with a mistake shown
    results = Axe().run(page).response["violations"]
    assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in results] == []
    page.get_by_text("Make again with…").first.click()
    assert Axe().run(page, context=".menu").violations_count == 0
    page.get_by_role("button", name="Crop picture 1").click()  # word kept: the page speaks to people
    assert Axe().run(page, context="dialog").violations_count == 0


def test_the_first_view_is_small_and_comes_from_this_service_alone(browser: Browser, running: Running) -> None:
    page = browser.new_context(viewport=DESKTOP).new_page()
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    open_page(page, running.address)
    page.wait_for_load_state("networkidle")
    page.context.close()
    assert 20_000 < sum(sizes) < FIRST_VIEW_BYTES


def test_the_page_asks_once_for_the_key_of_a_service_that_demands_one(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("keyed")
    key = ApiKeys(folder / "keys.json").add("me")
    service = Running(folder, ["--ui"]).start()
    page = browser.new_context(viewport=DESKTOP).new_page()
    page.goto(f"{service.address}/ui/")
    for attempt in ("wrong", key):
        page.get_by_label("Key", exact=True).fill(attempt)
        page.get_by_role("button", name="Open the studio").click()
    expect(page.locator("html[data-ready]")).to_be_attached()
    choose_example(page, "Woman")
    make_short(page)
    page.locator("#generate").click()
    expect_playing(page)
    page.reload()
    expect(page.locator("#history img")).to_have_count(1)
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect_playing(page)
    page.context.close()
    service.stop()


def test_four_videos_stand_above_their_buttons(page: Page, running: Running) -> None:
    ids = [running.submit(prompt=f"Person {number} talks.") for number in range(4)]
    for one in ids:
        running.wait(one, "completed")
    page.evaluate("ids => localStorage.setItem('humo.stage', JSON.stringify({ ids, labels: {} }))", ids)
    page.reload()
    expect(page.locator(".take video")).to_have_count(4)
    expect(page.get_by_role("button", name="Play all together")).to_be_visible()
    overlaps = page.locator(".take").evaluate_all(
        "takes => takes.map(take => take.querySelector('video').getBoundingClientRect().bottom"
        " - take.querySelector('.actions').getBoundingClientRect().top)"
    )
    assert max(overlaps) <= 0
