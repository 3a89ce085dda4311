"""Clients of vLLM-Omni and of SGLang: the fields that they send, and the forms that they expect."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from humo.media.provenance import read_record
from humo.media.video import read_video
from humo.server.api_keys import ApiKeys
from humo.server.app import make_app
from humo.server.request_fields import parse_fields
from humo.server.service import Service
from tests.server.conftest import EXAMPLES
from tests.server.running import Running, wait_for

VLLM_OMNI = {
    "text": {"prompt": "A mountain lake", "width": 1280, "height": 720, "num_frames": 80, "fps": 16},
    "steps": {"prompt": "A mountain lake", "num_frames": 80, "fps": 16, "num_inference_steps": 40},
    "side": {"prompt": "A small robot", "width": 854, "height": 480, "num_frames": 80, "fps": 16},
    "two experts": {"prompt": "A lake", "guidance_scale": 2.0, "guidance_scale_2": 3.0, "boundary_ratio": 0.875},
    "shift": {"prompt": "A lake", "flow_shift": 5.0, "seed": 42, "negative_prompt": "blurry"},
    "encoding": {"prompt": "A robot", "extra_params": '{"preencode_mp4": true, "preencode_batch_frames": 33}'},
}
"""Requests of the documentation of vLLM-Omni (docs/serving/videos_api.md)."""

SGLANG = {
    "shortest": {"prompt": "A calico cat", "size": "1280x720"},
    "defaults": {"prompt": "A cat", "seconds": 4, "seed": 1024, "generator_device": "cuda", "enable_teacache": False},
    "both lengths": {"prompt": "A cat", "seconds": 4, "num_frames": 25, "fps": 25, "guidance_scale": None},
}
"""Requests that SGLang's clients send (`VideoGenerationsRequest` with its defaults)."""


@pytest.mark.parametrize("body", [*VLLM_OMNI.values(), *SGLANG.values()], ids=[*VLLM_OMNI, *SGLANG])
def test_the_requests_of_their_documentation_are_accepted(client: TestClient, body: dict[str, Any]) -> None:
    response = client.post("/v1/videos", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["status"] == "queued"
    form = {name: str(value) for name, value in body.items() if value is not None}
    assert client.post("/v1/videos", data=form).status_code == 200


def test_fields_that_cannot_matter_are_noted(client: TestClient) -> None:
    job = client.post("/v1/videos", json=VLLM_OMNI["two experts"]).json()
    notes = job["humo"]["notes"]
    assert "guidance_scale_2 has no effect with this model" in notes
    assert "boundary_ratio has no effect with this model" in notes
    assert job["humo"]["request"]["scale_text"] == 2.0


def test_frames_at_another_rate_last_as_long() -> None:
    parsed = parse_fields([("prompt", "x"), ("num_frames", "80"), ("fps", "16")])
    assert parsed.fields["frames"] == 125
    assert parsed.notes == ["fps: the video has 25 frames per second; 5 s are 125 frames"]


def test_sides_are_rounded_with_a_note() -> None:
    parsed = parse_fields([("prompt", "x"), ("size", "854x480")])
    assert (parsed.fields["width"], parsed.fields["height"]) == (848, 480)
    assert parsed.notes == ["width 854 was rounded to 848, a multiple of 16"]


def test_the_number_of_frames_counts_if_both_lengths_are_sent() -> None:
    parsed = parse_fields([("prompt", "x"), ("seconds", 4), ("num_frames", 25)])
    assert parsed.fields["frames"] == 25
    assert "seconds" not in parsed.fields


def test_the_length_is_returned_as_it_was_sent(client: TestClient) -> None:
    assert client.post("/v1/videos", json={"prompt": "x", "seconds": "4"}).json()["seconds"] == "4"
    assert client.post("/v1/videos", json={"prompt": "x", "frames": 25}).json()["seconds"] == "1"


def test_several_outputs_are_jobs_with_one_seed_after_the_other(client: TestClient) -> None:
    first = client.post("/v1/videos", json={"prompt": "x", "frames": 5, "seed": 7, "num_outputs_per_prompt": 3}).json()
    jobs = [client.get(f"/v1/videos/{job_id}").json() for job_id in first["humo"]["variations"]]
    assert jobs[0]["id"] == first["id"]
    assert [job["seed"] for job in jobs] == [7, 8, 9]


def test_a_lora_is_named_by_an_object() -> None:
    parsed = parse_fields([("prompt", "x"), ("lora", '{"name": "style", "scale": 0.5}'), ("loras", "other:2")])
    assert parsed.fields["loras"] == ["style:0.5", "other:2"]


def test_the_place_in_the_queue_is_returned(client: TestClient) -> None:
    jobs = [client.post("/v1/videos", json={"prompt": "x", "frames": 5}).json() for _ in range(3)]
    assert [job["humo"]["queue_position"] for job in jobs] == [1, 2, 3]
    client.post(f"/v1/videos/{jobs[0]['id']}/cancel")
    listed = client.get("/v1/videos?order=asc").json()["data"]
    assert [job["humo"]["queue_position"] for job in listed] == [None, 1, 2]


def test_one_model_is_retrieved(client: TestClient) -> None:
    listed = client.get("/v1/models").json()["data"]
    assert client.get(f"/v1/models/{listed[0]['id']}").json() == listed[0]
    response = client.get("/v1/models/sora")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_a_remix_changes_the_prompt(client: TestClient) -> None:
    job = client.post("/v1/videos", json={"prompt": "x", "frames": 5, "seed": 3}).json()
    remixed = client.post(f"/v1/videos/{job['id']}/remix", json={"prompt": "y"}).json()
    assert (remixed["prompt"], remixed["seed"]) == ("y", 3)
    assert remixed["remixed_from_video_id"] == job["id"]
    assert client.post(f"/v1/videos/{job['id']}/remix", json={"prompt": ""}).status_code == 400


def test_an_operator_may_declare_the_consent(client: TestClient, service: Service) -> None:
    files = {"input_reference": ("a.png", (EXAMPLES / "woman.png").read_bytes())}
    response = client.post("/v1/videos", data={"prompt": "x"}, files=files)
    assert response.status_code == 400
    assert "send consent=true" in response.json()["error"]["message"]
    assert "--consent-by-operator" in response.json()["error"]["message"]
    assert client.post("/v1/videos", data={"prompt": "x", "consent_by": "operator"}).status_code == 400
    trusting = Service(dataclasses.replace(service.settings, consent_by_operator=True), service.store, service.queue)
    with TestClient(make_app(trusting, ApiKeys(trusting.settings.keys_file)), base_url="http://localhost") as other:
        job = other.post("/v1/videos", data={"prompt": "x"}, files=files).json()
    assert "consent was declared by the operator of the service" in job["humo"]["notes"]
    stored = service.find_job(job["id"], "local").payload["fields"]
    assert (stored["consent"], stored["consent_by"]) == (True, "operator")


def test_the_documentation_is_served_without_other_hosts(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert client.get(f"/swagger/{name}").status_code == 200
    assert client.get("/", follow_redirects=False).headers["location"] == "/docs"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("service")
    service = Running(folder / "data", log=folder / "log.txt").start()
    yield service
    service.stop()


def test_one_request_returns_the_video(running: Running, tmp_path: Path) -> None:
    fields = {"prompt": "hello", "num_frames": "5", "num_inference_steps": "1", "seed": "6"}
    response = httpx.post(f"{running.address}/v1/videos/sync", data=fields, timeout=300)
    assert (response.status_code, response.headers["content-type"]) == (200, "video/mp4")
    path = tmp_path / "out.mp4"
    path.write_bytes(response.content)
    assert len(read_video(path).frames) == 5
    assert read_record(path).request["seed"] == 6
    (job,) = httpx.get(f"{running.address}/v1/videos").json()["data"]
    head = httpx.head(f"{running.address}/v1/videos/{job['id']}/content")
    assert head.status_code == 200
    assert int(head.headers["content-length"]) == len(response.content)


def test_a_cancelled_job_ends_inside_a_step(running: Running) -> None:
    """One step of this video, and its decoding, would take minutes."""
    large = running.submit(width=1024, height=1024, frames=49, steps=2)
    running.wait(large, "in_progress")
    wait_for(lambda: running.retrieve(large)["humo"]["phase"] == "denoise")
    assert httpx.delete(f"{running.address}/v1/videos/{large}").status_code == 200
    other = running.submit(seed=3)
    assert running.wait(other, "completed", "failed")["status"] == "completed"
    assert running.log is not None
    assert "Traceback" not in running.log.read_text()
