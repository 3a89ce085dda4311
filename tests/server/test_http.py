"""The HTTP API: accepted and rejected requests, authentication."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from humo.errors import RequestError
from humo.files import hash_file
from humo.media.provenance import read_record
from humo.media.video import read_video
from humo.request import GenerateRequest
from humo.server.api_keys import ApiKeys
from humo.server.app import make_app
from humo.server.file_store import FileStore
from humo.server.job_queue import JobQueue
from humo.server.request_fields import CLIENT_FIELDS
from humo.server.service import Service
from humo.server.settings import Settings, is_loopback
from humo.server.upload_sanitizer import UploadLimits
from humo.server.worker import Worker
from tests.lora_files import write_lora
from tests.server.conftest import EXAMPLES
from tests.tiny import save_tiny_model

SMALL = {"prompt": "a person speaks", "frames": 5, "steps": 1}


def submit(client: TestClient, **fields: Any) -> dict[str, Any]:
    response = client.post("/v1/videos", json=SMALL | fields)
    assert response.status_code == 200, response.text
    job: dict[str, Any] = response.json()
    return job


def test_a_request_creates_a_job(client: TestClient) -> None:
    job = submit(client, seed=3, user="me")
    assert (job["object"], job["status"], job["progress"]) == ("video", "queued", 0)
    assert (job["size"], job["seconds"], job["seed"], job["model"]) == ("96x96", "0.2", 3, "humo-nano")
    assert job["humo"]["request"]["mode"] == "T"
    assert client.get(f"/v1/videos/{job['id']}").json() == job
    assert client.get("/v1/videos").json()["data"] == [job]


def test_uploads_are_stored_under_names_that_the_service_chooses(client: TestClient, service: Service) -> None:
    image, audio = (EXAMPLES / "woman.png").read_bytes(), (EXAMPLES / "woman.wav").read_bytes()
    response = client.post(
        "/v1/videos",
        data={"prompt": "she speaks", "consent": "true"},
        files=[("input_reference", ("../../x.png", image)), ("audio", ("/etc/passwd", audio))],
    )
    request = response.json()["humo"]["request"]
    assert request["mode"] == "TIA"
    assert request["consent"] is True
    for name in (*request["images"], request["audio"]):
        assert service.store.input_path(name).is_file()
        assert set(name.partition(".")[0]) <= set("0123456789abcdef")
    second = client.post(
        "/v1/videos",
        json={
            "prompt": "she speaks",
            "consent": True,
            "images": ["data:image/png;base64," + base64.b64encode(image).decode()],
            "audio_reference": {"audio_url": "data:audio/wav;base64," + base64.b64encode(audio).decode()},
        },
    )
    assert second.json()["humo"]["request"] == request


def test_images_of_people_require_consent(client: TestClient) -> None:
    files = [("image", ("a.png", (EXAMPLES / "woman.png").read_bytes()))]
    response = client.post("/v1/videos", data={"prompt": "she speaks"}, files=files)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "consent"
    assert client.get("/v1/videos").json()["data"] == []


TRAVERSALS = [
    "".join(parts)
    for parts in itertools.product(
        ["../", "..\\", "/", "C:\\", "....//", "%2e%2e/", "..%c0%af", "\u2025/", "a\u0000/", "~/"],
        ["etc/passwd", "x.png", "jobs.sqlite", "keys.json", "A" * 4096],
    )
]


@pytest.mark.parametrize("name", TRAVERSALS, ids=range(len(TRAVERSALS)))
def test_a_clients_file_name_never_becomes_a_path(
    name: str, client: TestClient, settings: Settings, tmp_path: Path
) -> None:
    image = (EXAMPLES / "woman.png").read_bytes()
    quoted = name.encode("utf-8", "replace").replace(b'"', b"%22").replace(b"\r", b"").replace(b"\n", b"")
    body = (
        b'--x\r\ncontent-disposition: form-data; name="prompt"\r\n\r\nhello\r\n'
        b'--x\r\ncontent-disposition: form-data; name="consent"\r\n\r\ntrue\r\n'
        b'--x\r\ncontent-disposition: form-data; name="image"; filename="' + quoted + b'"\r\n\r\n' + image + b"\r\n"
        b"--x--\r\n"
    )
    response = client.post("/v1/videos", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert response.status_code in (200, 400)
    written = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()}
    expected = {"jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm", "inputs"}
    assert written <= {("service", name) for name in expected}
    for route in ("/v1/videos/{}", "/v1/videos/{}/content", "/v1/videos/{}/events"):
        if "\x00" not in name:
            assert client.get(route.format(name)).status_code in (400, 404, 405)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": "x", "width": 5}, "width"),
        ({"prompt": "x", "mode": "TIA"}, "mode"),
        ({"prompt": "x", "frames": -1}, "frames"),
        ({"prompt": "x", "seed": True}, "seed"),
        ({"prompt": "x", "scale_audio": "NaN"}, "scale_audio"),
        ({"prompt": "x", "model": "gpt"}, "model"),
        ({"prompt": "x", "width": 8192, "height": 8192, "frames": 97}, "frames"),
        ({"prompt": "x", "image": "https://example.com/a.png"}, "image"),
        ({"prompt": "x", "image": "file:///etc/passwd"}, "image"),
        ({"prompt": "x", "audio": ["data:;base64,", "data:;base64,"]}, "audio"),
        ({"prompt": "x", "images": 5}, "images"),
    ],
)
def test_wrong_fields_are_rejected_by_name(client: TestClient, body: dict[str, Any], field: str) -> None:
    response = client.post("/v1/videos", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["type"]) == (400, field, "invalid_request_error")
    assert "\n" not in error["message"]
    assert client.get("/v1/videos").json()["data"] == []


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"[1]", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"x", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=y", 400),
        (b"x", "text/plain", 415),
        (b"x", "", 415),
    ],
)
def test_unreadable_bodies_are_rejected(client: TestClient, content: bytes, kind: str, status: int) -> None:
    response = client.post("/v1/videos", content=content, headers={"content-type": kind})
    assert response.status_code == status
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("content_length", [b"1001", b"7", None])
def test_a_too_long_body_is_rejected_before_it_is_read(content_length: bytes | None, service: Service) -> None:
    """Whatever length the header states."""
    small = dataclasses.replace(service.settings, limits=UploadLimits(body_bytes=1000))
    app = make_app(Service(small, service.store, service.queue), ApiKeys(small.keys_file))
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    headers += [(b"content-length", content_length)] if content_length else []
    scope = {"type": "http", "method": "POST", "path": "/v1/videos", "query_string": b"", "headers": headers}
    scope |= {"raw_path": b"/v1/videos", "root_path": "", "scheme": "http", "http_version": "1.1"}
    received, sent = [], []

    async def receive() -> dict[str, Any]:
        received.append(1)
        assert len(received) < 20, "the whole body is read"
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 413
    assert json.loads(sent[1]["body"])["error"]["code"] == "request_too_large"


def test_an_idempotency_key_creates_one_job(client: TestClient) -> None:
    headers = {"Idempotency-Key": "abc"}
    first, second = (client.post("/v1/videos", json=SMALL, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    other = client.post("/v1/videos", json=SMALL | {"seed": 1}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert client.post("/v1/videos", json=SMALL, headers={"Idempotency-Key": "x" * 256}).status_code == 400
    assert len(client.get("/v1/videos").json()["data"]) == 1


def test_videos_are_listed_in_pages(client: TestClient) -> None:
    ids = [submit(client, seed=seed)["id"] for seed in range(7)]
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        listed, after = [], ""
        while True:
            page = client.get(f"/v1/videos?limit=3&order={order}{after}").json()
            listed += [one["id"] for one in page["data"]]
            after = f"&after={page['last_id']}"
            if not page["has_more"]:
                break
        assert listed == expected
    for wrong in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"limit": "x"}):
        assert client.get("/v1/videos", params=wrong).status_code == 400
    assert client.get("/v1/videos", params={"after": "video_" + "0" * 32}).status_code == 404


def test_a_queued_job_is_cancelled_or_deleted(client: TestClient) -> None:
    first, second = submit(client), submit(client)
    job = client.post(f"/v1/videos/{first['id']}/cancel").json()
    assert (job["status"], job["error"]["code"], job["humo"]["state"]) == ("failed", "cancelled", "cancelled")
    assert client.delete(f"/v1/videos/{second['id']}").json() == {
        "id": second["id"],
        "object": "video.deleted",
        "deleted": True,
    }
    assert client.get(f"/v1/videos/{second['id']}").status_code == 404
    assert [one["id"] for one in client.get("/v1/videos").json()["data"]] == [first["id"]]


def test_an_unfinished_job_has_no_content(client: TestClient) -> None:
    job = submit(client)
    response = client.get(f"/v1/videos/{job['id']}/content")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    assert client.get(f"/v1/videos/{job['id']}/content?variant=weights").status_code == 400


def test_metrics_count_jobs(client: TestClient) -> None:
    submit(client)
    client.post(f"/v1/videos/{submit(client)['id']}/cancel")
    metrics = client.get("/metrics").text
    assert 'humo_jobs{state="queued"} 1.0' in metrics
    assert 'humo_jobs{state="cancelled"} 1.0' in metrics
    assert 'humo_jobs{state="completed"} 0.0' in metrics
    assert "process_resident_memory_bytes" in metrics


def test_jobs_above_the_queues_limit_are_rejected(service: Service) -> None:
    small = Service(dataclasses.replace(service.settings, max_waiting_jobs=2), service.store, service.queue)
    with TestClient(make_app(small, ApiKeys(small.settings.keys_file)), base_url="http://localhost") as client:
        submit(client)
        submit(client)
        response = client.post("/v1/videos", json=SMALL)
        assert (response.status_code, response.json()["error"]["code"]) == (429, "too_many_jobs")


def test_expired_jobs_are_removed_with_their_files(service: Service, client: TestClient) -> None:
    files = [("image", ("a.png", (EXAMPLES / "woman.png").read_bytes()))]
    job = client.post("/v1/videos", data=SMALL | {"consent": "true"}, files=files).json()
    client.post(f"/v1/videos/{job['id']}/cancel")
    waiting = client.post("/v1/videos", data=SMALL | {"consent": "true"}, files=files).json()
    later = service.settings.retention_seconds + 60
    service.store.output_path(job["id"]).write_bytes(b"x")
    assert service.remove_expired() == 0
    assert service.remove_expired(lambda: time.time() + later) == 1
    assert not service.store.output_path(job["id"]).exists()
    assert service.store.input_path(waiting["humo"]["request"]["images"][0]).is_file()  # another job uses it
    client.delete(f"/v1/videos/{waiting['id']}")
    service.remove_expired(lambda: time.time() + later)
    assert not list((service.store.folder / "inputs").iterdir())


# -- authentication --------------------------------------------------------------------------------------------------


def test_an_api_key_gives_access_to_its_owners_jobs(service: Service) -> None:
    keys = ApiKeys(service.settings.keys_file)
    mine, yours = keys.add("me"), keys.add("you")
    assert mine not in service.settings.keys_file.read_text()
    assert service.settings.keys_file.stat().st_mode & 0o077 == 0
    with TestClient(make_app(service, ApiKeys(service.settings.keys_file)), base_url="http://localhost") as client:

        def get(path: str, key: str | None, scheme: str = "Bearer") -> Any:
            return client.get(path, headers={} if key is None else {"Authorization": f"{scheme} {key}"})

        basic = base64.b64encode(f"anybody:{mine}".encode()).decode()
        assert get("/v1/videos", basic, "Basic").status_code == 200
        html = client.get("/v1/videos", headers={"accept": "text/html"})
        assert html.headers["www-authenticate"] == 'Basic realm="HuMo"'
        for key, scheme in ((None, ""), ("humo-wrong", "Bearer"), (mine, "Basic"), (mine[:-1], "Bearer")):
            response = get("/v1/videos", key, scheme)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
            assert response.headers["www-authenticate"] == "Bearer"
        assert get("/health", None).status_code == 200
        job = client.post("/v1/videos", json=SMALL, headers={"Authorization": f"Bearer {mine}"}).json()
        assert get(f"/v1/videos/{job['id']}", mine).status_code == 200
        assert get(f"/v1/videos/{job['id']}", yours).status_code == 404
        assert get("/v1/videos", yours).json()["data"] == []
        assert client.delete(f"/v1/videos/{job['id']}", headers={"Authorization": f"Bearer {yours}"}).status_code == 404
    keys.remove("me")
    assert ApiKeys(service.settings.keys_file).owner(mine) is None
    with pytest.raises(RequestError, match="'you' has a key already"):
        keys.add("you")


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:8848", 200), ("[::1]:8848", 200), ("evil.com", 403), ("127.0.0.1.evil.com", 403)],
)
def test_a_local_service_answers_to_local_host_names_only(client: TestClient, host: str, status: int) -> None:
    assert client.get("/health", headers={"host": host}).status_code == status


def test_requests_from_other_sites_are_rejected(client: TestClient) -> None:
    own, other = ({"origin": origin} for origin in ("http://127.0.0.1", "http://evil.com"))
    assert client.post("/v1/videos", json=SMALL, headers=own).status_code == 200
    for origin in (other, {"origin": "null"}):
        response = client.post("/v1/videos", data=SMALL, headers=origin)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert client.get("/health", headers={"x": "y" * 20_000}).status_code == 431


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_addresses_are_recognized(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_the_openapi_document_is_complete(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for route in methods.values():
            assert route["summary"], path
            for status, response in route["responses"].items():
                assert response.get("content") or status == "206", (path, status)
    body = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    help_texts = {name: one.description for name, one in GenerateRequest.model_fields.items() if one.description}
    for name, text in help_texts.items():
        if name in body["properties"] and name in CLIENT_FIELDS:
            assert body["properties"][name]["description"] == text
    assert json.dumps(document)


# -- LoRAs and presets -------------------------------------------------------------------------------------------------


@pytest.fixture
def lora_client(settings: Settings, tmp_path: Path) -> Iterator[tuple[TestClient, Service]]:
    """A service of two tiny models with two LoRAs, one for each model."""
    families = ("humo-17b", "humo-1.7b")
    models: dict[str, str | None] = {name: str(save_tiny_model(tmp_path / name, name)) for name in families}
    loras = {
        "lightx2v": str(write_lora(tmp_path / "secret" / "some.safetensors", "humo-17b")),
        "style": str(write_lora(tmp_path / "secret" / "style.safetensors", "humo-1.7b", num_attention_heads=2)),
    }
    served = dataclasses.replace(settings, models=models, loras=loras)
    store = FileStore(served.folder)
    store.prepare()
    queue = JobQueue(store.database)
    service = Service(served, store, queue)
    with TestClient(make_app(service, ApiKeys(served.keys_file)), base_url="http://127.0.0.1") as test_client:
        yield test_client, service
    queue.close()


def test_models_list_the_loras_and_presets_that_fit(lora_client: tuple[TestClient, Service]) -> None:
    models = {one["id"]: one for one in lora_client[0].get("/v1/models").json()["data"]}
    assert models["humo-17b"]["loras"] == ["lightx2v", "style"]
    assert models["humo-17b"]["presets"] == ["lightx2v"]
    assert models["humo-1.7b"]["presets"] == []


def test_a_request_names_served_loras_and_never_sees_a_path(lora_client: tuple[TestClient, Service]) -> None:
    client, service = lora_client
    job = submit(client, model="humo-17b", width=96, height=64, loras=["style:0.5", "lightx2v"])
    assert job["humo"]["request"]["loras"] == ["lightx2v:1", "style:0.5"]
    assert "secret" not in json.dumps(job)
    payload = service.find_job(job["id"], "local").payload
    assert payload["fields"]["loras"] == ["style:0.5", "lightx2v"]
    assert payload["loras"] == service.settings.loras
    form = {"prompt": "x", "frames": "5", "model": "humo-17b", "lora": ["style:0.5", "lightx2v:1"]}
    sent = client.post("/v1/videos", data=form)
    assert sent.json()["humo"]["request"]["loras"] == ["lightx2v:1", "style:0.5"]


def test_a_worker_uses_the_lora_and_records_no_path(lora_client: tuple[TestClient, Service]) -> None:
    client, service = lora_client
    size = {"model": "humo-17b", "width": 96, "height": 64}
    jobs = [submit(client, **size), submit(client, **size, loras=["style:0.5"])]
    worker = Worker(service.store, service.queue, "cpu")
    for job in jobs:
        result = worker.run_job(job["id"], service.find_job(job["id"], "local").payload)
        assert "video" in result, result
    plain, styled = (service.store.output_path(job["id"]) for job in jobs)
    assert not np.array_equal(read_video(plain).frames, read_video(styled).frames)
    record = read_record(styled)
    assert record.request["loras"] == ["style.safetensors:0.5"]
    assert record.inputs == {"style.safetensors": hash_file(service.settings.loras["style"])}


def test_a_lora_that_does_not_fit_the_model_is_refused_at_once(
    lora_client: tuple[TestClient, Service], tmp_path: Path
) -> None:
    client, service = lora_client
    service.settings.loras["large"] = str(write_lora(tmp_path / "secret/l.safetensors", "humo-17b", ffn_dim=96))
    response = client.post("/v1/videos", json=SMALL | {"model": "humo-17b", "loras": ["large"]})
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert "l.safetensors: is for a network of another size" in message
    assert "secret" not in message


def test_a_preset_brings_its_served_lora(lora_client: tuple[TestClient, Service]) -> None:
    job = submit(lora_client[0], model="humo-17b", preset="lightx2v", steps=6)
    request = job["humo"]["request"]
    assert (request["loras"], request["steps"], request["scale_text"]) == (["lightx2v:1"], 6, 1.0)
    other = lora_client[0].post("/v1/videos", json=SMALL | {"model": "humo-1.7b", "preset": "lightx2v"})
    assert other.status_code == 400
    assert other.json()["error"]["param"] == "preset"


def test_a_preset_whose_lora_is_not_served_is_refused(client: TestClient, service: Service, tmp_path: Path) -> None:
    settings = service.settings
    settings.models["large"] = str(save_tiny_model(tmp_path / "large", "humo-17b"))
    response = client.post("/v1/videos", json=SMALL | {"model": "large", "preset": "lightx2v"})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "loras: 'lightx2v' is not served; this service has none"


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "SECRET", "some", "stylee", "style:200", ""])
def test_paths_and_unknown_names_of_loras_are_refused(
    name: str, lora_client: tuple[TestClient, Service], tmp_path: Path
) -> None:
    path = str(tmp_path / "secret" / "style.safetensors") if name == "SECRET" else name
    response = lora_client[0].post("/v1/videos", json=SMALL | {"model": "humo-17b", "loras": [path]})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("loras")
    assert lora_client[0].get("/v1/videos").json()["data"] == []
