"""The door: what is taken, what is refused, who may come in."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from humo.errors import RequestError
from humo.request import GenerateRequest
from humo.server.api_keys import ApiKeys
from humo.server.app import make_app
from humo.server.schemas import CLIENT_FIELDS
from humo.server.service import Service
from humo.server.settings import Settings, is_loopback
from humo.server.upload_sanitizer import UploadLimits
from tests.server.conftest import EXAMPLES

SMALL = {"prompt": "a person speaks", "frames": 5, "steps": 1}


def ask(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/videos", json=SMALL | fields)
    assert answer.status_code == 202, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_request_becomes_a_job(client: TestClient) -> None:
    told = ask(client, seed=3, user="me")
    assert (told["object"], told["status"], told["progress"]) == ("video", "queued", 0)
    assert (told["size"], told["seconds"], told["seed"], told["model"]) == ("96x96", "0.2", 3, "humo-nano")
    assert told["humo"]["request"]["mode"] == "T"
    assert client.get(f"/v1/videos/{told['id']}").json() == told
    assert client.get("/v1/videos").json()["data"] == [told]


def test_files_are_uploaded_and_kept_under_names_of_ours(client: TestClient, service: Service) -> None:
    picture, sound = (EXAMPLES / "woman.png").read_bytes(), (EXAMPLES / "woman.wav").read_bytes()
    answer = client.post(
        "/v1/videos",
        data={"prompt": "she speaks", "consent": "true"},
        files=[("input_reference", ("../../x.png", picture)), ("audio", ("/etc/passwd", sound))],
    )
    request = answer.json()["humo"]["request"]
    assert request["mode"] == "TIA"
    assert request["consent"] is True
    for name in (*request["images"], request["audio"]):
        assert service.store.input_path(name).is_file()
        assert set(name.partition(".")[0]) <= set("0123456789abcdef")
    again = client.post(
        "/v1/videos",
        json={
            "prompt": "she speaks",
            "consent": True,
            "images": ["data:image/png;base64," + base64.b64encode(picture).decode()],
            "audio_reference": {"audio_url": "data:audio/wav;base64," + base64.b64encode(sound).decode()},
        },
    )
    assert again.json()["humo"]["request"] == request


def test_pictures_of_people_need_their_consent(client: TestClient) -> None:
    files = [("image", ("a.png", (EXAMPLES / "woman.png").read_bytes()))]
    answer = client.post("/v1/videos", data={"prompt": "she speaks"}, files=files)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "consent"
    assert client.get("/v1/videos").json()["data"] == []


TRAVERSALS = [
    "".join(parts)
    for parts in itertools.product(
        ["../", "..\\", "/", "C:\\", "....//", "%2e%2e/", "..%c0%af", "\u2025/", "a\u0000/", "~/"],
        ["etc/passwd", "x.png", "jobs.sqlite", "keys.json", "A" * 4096],
    )
]


@pytest.mark.parametrize("name", TRAVERSALS, ids=range(len(TRAVERSALS)))
def test_no_name_of_a_client_becomes_a_path(name: str, client: TestClient, settings: Settings, tmp_path: Path) -> None:
    picture = (EXAMPLES / "woman.png").read_bytes()
    quoted = name.encode("utf-8", "replace").replace(b'"', b"%22").replace(b"\r", b"").replace(b"\n", b"")
    body = (
        b'--x\r\ncontent-disposition: form-data; name="prompt"\r\n\r\nhello\r\n'
        b'--x\r\ncontent-disposition: form-data; name="consent"\r\n\r\ntrue\r\n'
        b'--x\r\ncontent-disposition: form-data; name="image"; filename="' + quoted + b'"\r\n\r\n' + picture + b"\r\n"
        b"--x--\r\n"
    )
    answer = client.post("/v1/videos", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code in (202, 400)
    there = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()}
    known = {"jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm", "inputs"}
    assert there <= {("service", part) for part in known}
    for way in ("/v1/videos/{}", "/v1/videos/{}/content", "/v1/videos/{}/events"):
        if "\x00" not in name:
            assert client.get(way.format(name)).status_code in (400, 404, 405)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": "x", "width": 97}, "width"),
        ({"prompt": "x", "mode": "TIA"}, "mode"),
        ({"prompt": "x", "frames": -1}, "frames"),
        ({"prompt": "x", "frames": 5, "seconds": 1}, "frames and seconds"),
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
def test_bad_fields_are_refused_by_name(client: TestClient, body: dict[str, Any], field: str) -> None:
    answer = client.post("/v1/videos", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, field, "invalid_request_error")
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
def test_bodies_that_cannot_be_read(client: TestClient, content: bytes, kind: str, status: int) -> None:
    answer = client.post("/v1/videos", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("told", [b"1001", b"7", None])
def test_too_much_is_refused_before_it_is_read(told: bytes | None, service: Service) -> None:
    """Whatever the header says of the length."""
    small = dataclasses.replace(service.settings, limits=UploadLimits(body_bytes=1000))
    app = make_app(Service(small, service.store, service.queue), ApiKeys(small.keys_file))
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    headers += [(b"content-length", told)] if told else []
    scope = {"type": "http", "method": "POST", "path": "/v1/videos", "query_string": b"", "headers": headers}
    scope |= {"raw_path": b"/v1/videos", "root_path": "", "scheme": "http", "http_version": "1.1"}
    read, said = [], []

    async def receive() -> dict[str, Any]:
        read.append(1)
        assert len(read) < 20, "all of it is read"
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    async def send(message: Any) -> None:
        said.append(message)

    asyncio.run(app(scope, receive, send))
    assert said[0]["status"] == 413
    assert json.loads(said[1]["body"])["error"]["code"] == "request_too_large"


def test_one_key_is_one_job(client: TestClient) -> None:
    headers = {"Idempotency-Key": "abc"}
    first, second = (client.post("/v1/videos", json=SMALL, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    other = client.post("/v1/videos", json=SMALL | {"seed": 1}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert client.post("/v1/videos", json=SMALL, headers={"Idempotency-Key": "x" * 256}).status_code == 400
    assert len(client.get("/v1/videos").json()["data"]) == 1


def test_the_list_is_read_page_by_page(client: TestClient) -> None:
    made = [ask(client, seed=seed)["id"] for seed in range(7)]
    for order, expected in (("asc", made), ("desc", made[::-1])):
        found, after = [], ""
        while True:
            told = client.get(f"/v1/videos?limit=3&order={order}{after}").json()
            found += [one["id"] for one in told["data"]]
            after = f"&after={told['last_id']}"
            if not told["has_more"]:
                break
        assert found == expected
    for wrong in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"limit": "x"}):
        assert client.get("/v1/videos", params=wrong).status_code == 400
    assert client.get("/v1/videos", params={"after": "video_" + "0" * 32}).status_code == 404


def test_a_waiting_job_is_cancelled_or_removed(client: TestClient) -> None:
    first, second = ask(client), ask(client)
    told = client.post(f"/v1/videos/{first['id']}/cancel").json()
    assert (told["status"], told["error"]["code"], told["humo"]["state"]) == ("failed", "cancelled", "cancelled")
    assert client.delete(f"/v1/videos/{second['id']}").json() == {
        "id": second["id"],
        "object": "video.deleted",
        "deleted": True,
    }
    assert client.get(f"/v1/videos/{second['id']}").status_code == 404
    assert [one["id"] for one in client.get("/v1/videos").json()["data"]] == [first["id"]]


def test_a_job_that_is_not_finished_has_no_content(client: TestClient) -> None:
    told = ask(client)
    answer = client.get(f"/v1/videos/{told['id']}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert client.get(f"/v1/videos/{told['id']}/content?variant=weights").status_code == 400


def test_figures_are_counted(client: TestClient) -> None:
    ask(client)
    client.post(f"/v1/videos/{ask(client)['id']}/cancel")
    told = client.get("/metrics").text
    assert 'humo_jobs{state="queued"} 1.0' in told
    assert 'humo_jobs{state="cancelled"} 1.0' in told
    assert 'humo_jobs{state="completed"} 0.0' in told
    assert "process_resident_memory_bytes" in told


def test_more_than_may_wait_are_refused(service: Service) -> None:
    few = Service(dataclasses.replace(service.settings, max_waiting_jobs=2), service.store, service.queue)
    with TestClient(make_app(few, ApiKeys(few.settings.keys_file)), base_url="http://localhost") as client:
        ask(client)
        ask(client)
        answer = client.post("/v1/videos", json=SMALL)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_jobs")


def test_old_jobs_go_with_their_files(service: Service, client: TestClient) -> None:
    files = [("image", ("a.png", (EXAMPLES / "woman.png").read_bytes()))]
    told = client.post("/v1/videos", data=SMALL | {"consent": "true"}, files=files).json()
    client.post(f"/v1/videos/{told['id']}/cancel")
    waiting = client.post("/v1/videos", data=SMALL | {"consent": "true"}, files=files).json()
    later = service.settings.retention_seconds + 60
    service.store.output_path(told["id"]).write_bytes(b"x")
    assert service.sweep() == 0
    assert service.sweep(lambda: time.time() + later) == 1
    assert not service.store.output_path(told["id"]).exists()
    assert service.store.input_path(waiting["humo"]["request"]["images"][0]).is_file()  # another job waits for it
    client.delete(f"/v1/videos/{waiting['id']}")
    service.sweep(lambda: time.time() + later)
    assert not list((service.store.folder / "inputs").iterdir())


# -- who may come in --------------------------------------------------------------------------------------------------


def test_keys_open_the_door_each_to_its_own(service: Service) -> None:
    keys = ApiKeys(service.settings.keys_file)
    mine, yours = keys.add("me"), keys.add("you")
    assert mine not in service.settings.keys_file.read_text()
    assert service.settings.keys_file.stat().st_mode & 0o077 == 0
    with TestClient(make_app(service, ApiKeys(service.settings.keys_file)), base_url="http://localhost") as client:

        def get(path: str, key: str | None, word: str = "Bearer") -> Any:
            return client.get(path, headers={} if key is None else {"Authorization": f"{word} {key}"})

        as_browsers = base64.b64encode(f"anybody:{mine}".encode()).decode()
        assert get("/v1/videos", as_browsers, "Basic").status_code == 200
        html = client.get("/v1/videos", headers={"accept": "text/html"})
        assert html.headers["www-authenticate"] == 'Basic realm="HuMo"'
        for key, word in ((None, ""), ("humo-wrong", "Bearer"), (mine, "Basic"), (mine[:-1], "Bearer")):
            answer = get("/v1/videos", key, word)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert get("/health", None).status_code == 200
        told = client.post("/v1/videos", json=SMALL, headers={"Authorization": f"Bearer {mine}"}).json()
        assert get(f"/v1/videos/{told['id']}", mine).status_code == 200
        assert get(f"/v1/videos/{told['id']}", yours).status_code == 404
        assert get("/v1/videos", yours).json()["data"] == []
        assert (
            client.delete(f"/v1/videos/{told['id']}", headers={"Authorization": f"Bearer {yours}"}).status_code == 404
        )
    keys.remove("me")
    assert ApiKeys(service.settings.keys_file).owner(mine) is None
    with pytest.raises(RequestError, match="'you' has a key already"):
        keys.add("you")


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:8848", 200), ("[::1]:8848", 200), ("evil.com", 403), ("127.0.0.1.evil.com", 403)],
)
def test_a_local_service_answers_to_local_names_alone(client: TestClient, host: str, status: int) -> None:
    assert client.get("/health", headers={"host": host}).status_code == status


def test_pages_of_other_sites_are_kept_out(client: TestClient) -> None:
    own, other = ({"origin": origin} for origin in ("http://127.0.0.1", "http://evil.com"))
    assert client.post("/v1/videos", json=SMALL, headers=own).status_code == 202
    for origin in (other, {"origin": "null"}):
        answer = client.post("/v1/videos", data=SMALL, headers=origin)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert client.get("/health", headers={"x": "y" * 20_000}).status_code == 431


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_is_known(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_the_description_is_complete(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    for path, ways in told["paths"].items():
        for way in ways.values():
            assert way["summary"], path
            for status, answer in way["responses"].items():
                assert answer.get("content") or status == "206", (path, status)
    body = told["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    help_texts = {name: one.description for name, one in GenerateRequest.model_fields.items() if one.description}
    for name, text in help_texts.items():
        if name in body["properties"] and name in CLIENT_FIELDS:
            assert body["properties"][name]["description"] == text
    assert json.dumps(told)
