"""The page offers presets and LoRAs by name, and shows what they make of a request."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from humo.server.file_store import FileStore
from humo.server.job_queue import JobQueue
from humo.server.service import Service
from humo.server.settings import Settings
from humo.server.webui.page import Page
from humo.server.webui.uploads import Uploads
from tests.lora_files import write_lora
from tests.tiny import save_tiny_model


@pytest.fixture
def services(settings: Settings, tmp_path: Path) -> Iterator[tuple[Service, Service]]:
    """A service with a LoRA, and one without."""
    model = str(save_tiny_model(tmp_path / "model", "humo-17b"))
    lora = str(write_lora(tmp_path / "x.safetensors", "humo-17b"))
    opened = []
    for number, loras in enumerate(({"lightx2v": lora}, {})):
        folder = tmp_path / str(number)
        changed = dataclasses.replace(settings, folder=folder, models={"large": model}, loras=loras)
        store = FileStore(folder)
        store.prepare()
        opened.append(Service(changed, store, JobQueue(store.database)))
    yield opened[0], opened[1]
    for service in opened:
        service.queue.close()


def page_of(service: Service) -> Page:
    return Page(service, Uploads(service.store, service.settings.limits))


def summary(page: Page, **values: Any) -> str:
    settings = [values.get(name, component.value) for name, component in page.settings.items()]
    return page._summarize("a man", {"images": [], "audio": None}, False, "large", *settings)


def test_presets_and_loras_are_offered_by_name(services: tuple[Service, Service]) -> None:
    page = page_of(services[0])
    preset, loras = page.settings["preset"], page.settings["loras"]
    assert [value for value, _ in preset.choices] == ["", "lightx2v"]
    assert [value for value, _ in loras.choices] == ["lightx2v"]
    assert preset.visible
    assert loras.visible


def test_without_loras_neither_is_shown(services: tuple[Service, Service]) -> None:
    page = page_of(services[1])
    assert not page.settings["preset"].visible
    assert not page.settings["loras"].visible


def test_the_summary_follows_a_preset_a_strength_and_sigmas(services: tuple[Service, Service]) -> None:
    page = page_of(services[0])
    assert "6 steps, 6 network passes" in summary(page, preset="lightx2v")
    assert "2 steps, 4 network passes" in summary(page, loras=["lightx2v:0.5"], sigmas="1, 0.8")
    assert "is not served; known are lightx2v" in summary(page, loras=["/etc/passwd"])


def test_settings_of_a_job_fill_the_form_again(services: tuple[Service, Service]) -> None:
    page = page_of(services[0])
    fields = {"prompt": "x", "loras": ["lightx2v:0.5"], "sigmas": [1, 0.8], "preset": "lightx2v"}
    updates = page._fill(fields, {"images": [], "audio": None}, "large")
    assert updates[page.settings["loras"]] == ["lightx2v:0.5"]
    assert updates[page.settings["sigmas"]] == "1,0.8"
    assert updates[page.settings["preset"]] == "lightx2v"
