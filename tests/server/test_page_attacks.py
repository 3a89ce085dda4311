"""Attacks on the page's Gradio routes: no URL is fetched, no path is opened, no file is shared between owners.

The service runs in a process whose audit hook logs connections and opened paths, so that the tests check what it does
and not only what it responds.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute, Mount
from starlette.websockets import WebSocketDisconnect

from humo.server.api_keys import ApiKeys
from humo.server.app import make_app
from humo.server.service import Service
from humo.server.webui.uploads import Uploads
from tests.server.hostile import (
    AUDIT_HOOK,
    CLOSED_ROUTES,
    IMAGE,
    POST,
    SECRET,
    Target,
    attacks,
    component_types,
    event_stream,
    events,
    file,
    join,
    upload,
    upload_event,
)
from tests.server.running import Running, wait_for

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder, watch = tmp_path_factory.mktemp("service"), tmp_path_factory.mktemp("watch")
    secret = watch / "canary-secret.png"
    (watch / "sitecustomize.py").write_text(AUDIT_HOOK.format(log=str(watch / "log"), marker=secret.name))
    secret.write_bytes(SECRET)
    keys = ApiKeys(folder / "keys.json")
    with pytest.MonkeyPatch.context() as patch, socket.socket() as canary:
        canary.bind(("127.0.0.1", 0))
        canary.listen()
        canary.setblocking(False)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(watch), os.environ.get("PYTHONPATH", "")]))
        owner_keys = {name: keys.add(name) for name in ("mallory", "victim")}
        running = Running(folder, ["--ui"]).start()
        yield Target(running, owner_keys, watch / "log", secret, canary)
        running.stop()


@pytest.fixture(autouse=True)
def _nothing_is_fetched_or_opened(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check the audit log after every test."""
    yield
    if "target" in request.fixturenames:
        audited: Target = request.getfixturevalue("target")
        assert audited.violations == []
        files = [path for path in audited.running.folder.rglob("*") if path.is_file() and path.suffix != ".sqlite"]
        assert not [path for path in files if SECRET in path.read_bytes()]


def test_no_event_of_the_page_fetches_an_address_or_opens_a_path(target: Target) -> None:
    with target.client() as client:
        types = component_types(client)
        for number, event in enumerate(events(client)):
            if event["targets"] and event["targets"][0][1] == "load":
                continue
            for name, attack in attacks(target).items():
                for place, component in enumerate(event["inputs"]):
                    if types[component] in ("file", "audio", "state", "textbox", "dropdown"):
                        data: list[Any] = [None] * len(event["inputs"])
                        data[place] = attack
                        session = f"{number}-{place}-{sum(map(ord, name))}"
                        response = join(client, event, data, session)
                        assert response.status_code in (200, 400), (name, response.text)
                        if isinstance(attack, dict):
                            assert response.status_code == 400, (name, types[component])
                        elif response.status_code == 200:
                            assert SECRET.decode() not in event_stream(client, session)


@pytest.mark.parametrize("place", ["path", "url", "orig_name", "mime_type"])
def test_only_the_name_of_an_uploaded_file_is_used(target: Target, place: str) -> None:
    with target.client() as client:
        event = upload_event(client)
        lies = {
            "url": f"http://127.0.0.1:{target.canary.getsockname()[1]}/x",
            "orig_name": "../../" + str(target.secret),
        }
        payload = file(upload(client), mime_type="text/html", size=-1, is_stream=True, **lies)
        if place == "path":
            payload["path"] = f"{target.running.folder}/uploads/{payload['path']}"  # its real path
            assert join(client, event, [[payload], None, None], "lies").status_code == 400
        else:
            assert join(client, event, [[payload], None, None], "lies").status_code == 200
            assert "image 1" in event_stream(client, "lies")


@pytest.mark.parametrize(("method", "path"), CLOSED_ROUTES)
def test_routes_that_the_page_does_not_need_are_closed(target: Target, method: str, path: str) -> None:
    places = {"port": target.canary.getsockname()[1], "secret": target.secret, "folder": target.running.folder}
    bodies = {
        "data": [file(str(target.secret)), None, None],
        "session_hash": "s",
        "event_id": "x",
        "fn_index": 6,
        "component_id": 1,
        "fn_name": "preprocess",
        "bucket_id": "a/b",
        "prompt": "x",
    }
    with target.client() as client:
        response = client.request(method, path.format(**places), json=bodies if method == POST else None)
    assert response.status_code == 404, response.text
    assert response.json()["error"]["code"] == "not_found"


def all_routes(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Yield routes, also those of nested routers."""
    for route in routes:
        yield route
        yield from all_routes(getattr(getattr(route, "original_router", None), "routes", ()))


def test_no_gradio_route_is_open_except_the_listed_ones(service: Service) -> None:
    """Also none that a later version of Gradio adds."""
    from humo.server.webui.page import mount

    async def mounted() -> FastAPI:  # within an event loop, or Gradio leaves its own open
        return mount(make_app(service, ApiKeys(service.settings.keys_file)), service)

    app = asyncio.run(mounted())
    library = next(route for route in app.routes if isinstance(route, Mount) and route.path == "/ui")
    open_routes = {"/", "/theme.css", "/config", "/favicon.ico", "/gradio_api/app_id", "/gradio_api/queue/data"}
    open_routes |= {"/gradio_api/upload_progress", "/gradio_api/upload", "/gradio_api/queue/join"}
    tried = 0
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for route in all_routes(library.routes):
            path, methods = getattr(route, "path", ""), getattr(route, "methods", None) or set()
            if path in open_routes or path.startswith(("/assets/", "/static/", "/gradio_api/heartbeat/")):
                continue
            for method in methods:
                tried += 1
                response = client.request(method, f"/ui{path}")
                assert response.status_code == 404, (method, path)
    assert tried > 50


@pytest.mark.parametrize("name", ["../../keys.json", "/etc/cron.d/x", "..\\x.png", "a\x00.png", ".", "", "x" * 5000])
def test_uploads_are_stored_under_random_names(target: Target, name: str) -> None:
    quoted = name.encode().replace(b"\x00", b"%00")
    body = b'--x\r\ncontent-disposition: form-data; name="files"; filename="' + quoted + b'"\r\n\r\n' + IMAGE
    with target.client() as client:
        response = client.post(
            "/ui/gradio_api/upload",
            content=body + b"\r\n--x--\r\n",
            headers={"content-type": "multipart/form-data; boundary=x"},
        )
        assert response.status_code in (200, 400)
        for served in response.json() if response.status_code == 200 else []:
            assert set(served) <= set("0123456789abcdef")
            assert client.get(f"/ui/gradio_api/file={served}").content == IMAGE
    stored = list((target.running.folder / "uploads").iterdir())
    assert all(set(path.name) <= set("0123456789abcdef") for path in stored if path.is_file())
    assert not (target.running.folder.parent / "keys.json").exists()


def test_an_uploaded_page_is_served_as_plain_bytes(target: Target) -> None:
    with target.client() as client:
        response = client.get(f"/ui/gradio_api/file={upload(client, b'<script>alert(1)</script>', 'x.html')}")
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"] == "attachment"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]


def test_a_session_and_its_files_belong_to_one_owner(target: Target) -> None:
    """Name another owner's session and files exactly."""
    with target.client("victim") as victim, target.client() as mallory:
        event, name = upload_event(victim), upload(victim)
        assert join(victim, event, [[file(name)], None, None], "private").status_code == 200
        assert "image 1" in event_stream(victim, "private")

        assert mallory.get(f"/ui/gradio_api/file={name}").status_code == 404
        assert join(mallory, event, [[file(name)], None, None]).status_code == 400
        # an event without files shows those of the session: here none
        assert join(mallory, event, [None, None, None], "private").status_code == 200
        assert "image 1" not in event_stream(mallory, "private")
        # nor are its messages readable
        assert join(victim, event, [[file(name)], None, None], "messages").status_code == 200
        assert "session_not_found" in event_stream(mallory, "messages")
        assert "image 1" in event_stream(victim, "messages")


def test_the_pages_state_cannot_be_set_by_a_client(target: Target) -> None:
    """Name another owner's job and images where the page has its own."""
    fields = {"prompt": "the victim's words", "frames": "5", "steps": "1", "consent": "true"}
    with target.client("victim") as victim, target.client() as mallory:
        job = victim.post("/v1/videos", data=fields, files=[("image", ("a.png", IMAGE))]).json()
        image = job["humo"]["request"]["images"][0]
        types = component_types(mallory)
        for number, event in enumerate(events(mallory)):
            states = [place for place, one in enumerate(event["inputs"]) if types[one] == "state"]
            if not states or event["targets"][0][1] == "load":
                continue
            for stolen in (job["id"], json.dumps({"images": [image], "audio": None}), [image]):
                data: list[Any] = [None] * len(event["inputs"])
                for place in states:
                    data[place] = stolen
                assert join(mallory, event, data, f"stolen{number}").status_code == 200
                stream = event_stream(mallory, f"stolen{number}")
                assert "victim's words" not in stream
                assert "image 1" not in stream
        wait_for(lambda: victim.get(f"/v1/videos/{job['id']}").json()["status"] == "completed")
        # and by URL, as a history card links to it
        load = next(one for one in events(mallory) if one["targets"][0][1] == "load")
        body = {"data": [], "fn_index": load["id"], "session_hash": "look"}
        mallory.post("/ui/gradio_api/queue/join", params={"video": job["id"]}, json=body)
        stream = event_stream(mallory, "look")
        assert "there is no video" in stream
        assert "victim's words" not in stream


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"data": []}',
        b'{"data": [], "session_hash": "../x", "fn_index": 0}',
        b'{"data": [], "session_hash": ["s"], "fn_index": 0}',
        b'{"data": [], "session_hash": "s", "fn_index": "_make"}',
        b'{"data": [], "session_hash": "s", "fn_index": true}',
        b'{"data": {"0": 1}, "session_hash": "s", "fn_index": 0}',
        b"[" * 100_000,
        b'{"data": ["' + b"x" * 2**20 + b'"], "session_hash": "s", "fn_index": 0}',
    ],
    ids=range(11),
)
def test_malformed_events_are_rejected_with_a_message(target: Target, body: bytes) -> None:
    with target.client() as client:
        response = client.post("/ui/gradio_api/queue/join", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_request"
    assert str(target.running.folder) not in response.text


def test_other_sites_and_websockets_are_rejected(target: Target) -> None:
    host = target.running.address.removeprefix("http://")
    with target.client() as client:
        event = upload_event(client)
        for headers in (
            {"origin": "http://evil.com"},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
            {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
        ):
            for method, path in (
                ("POST", "/ui/gradio_api/queue/join"),
                ("POST", "/ui/gradio_api/upload"),
                ("GET", "/ui/"),
            ):
                response = client.request(method, path, headers=headers)
                assert (response.status_code, response.json()["error"]["code"]) == (403, "origin_not_allowed")
        by_link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
        page = client.get("/ui/", headers=by_link)
        assert page.status_code == 200
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert client.post("/ui/gradio_api/queue/join", headers=by_link).status_code == 403
        assert join(client, event, [None, None, None], "own").status_code == 200
        event_stream(client, "own")
    with httpx.Client(base_url=target.running.address) as nobody:
        for path in ("/ui/", "/ui/config", "/ui/gradio_api/queue/data?session_hash=s", "/ui/assets/x.js"):
            assert nobody.get(path).status_code == 401
    upgrade = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13"}
    upgrade |= {"sec-websocket-key": base64.b64encode(b"x" * 16).decode(), "host": host}
    with target.client() as client:
        assert client.get("/ui/gradio_api/queue/join", headers=upgrade).status_code in (403, 404)


def test_a_websocket_is_closed_at_once(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ui/queue/join"):
        pass


# -- limits ---------------------------------------------------------------------------------------------------------


def test_uploads_above_the_limits_are_rejected_and_leave_no_file(target: Target) -> None:
    def stored_uploads() -> set[Path]:
        return set((target.running.folder / "uploads").iterdir())

    before = stored_uploads()
    with target.client() as client:
        many = [("files", (f"{number}.png", IMAGE)) for number in range(17)]
        response = client.post("/ui/gradio_api/upload", files=many)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "files")
        response = client.post("/ui/gradio_api/upload", files=[("files", ("a.wav", bytes(26 * 2**20)))])
        assert (response.status_code, response.json()["error"]["message"]) == (
            400,
            "files: one is larger than 25 MiB; send a smaller file",
        )
        three = [("files", (f"{number}.wav", bytes(24 * 2**20))) for number in range(3)]
        assert client.post("/ui/gradio_api/upload", files=three).status_code == 413
        assert client.post("/ui/gradio_api/upload", content=b"x").status_code == 400
    assert stored_uploads() == before


def test_an_owners_oldest_uploads_are_removed_first(service: Service) -> None:
    uploads = Uploads(service.store, service.settings.limits, max_files=3, max_bytes=1000)

    async def save(size: int, owner: str) -> str:
        return await uploads._save(bytes(size), "a.png", owner)

    async def scenario() -> None:
        other = await save(900, "victim")
        first, second, third, fourth = [await save(10, "mallory") for _ in range(4)]
        assert uploads.find(first, "mallory") is None
        assert uploads.find(second, "mallory") is not None
        large = await save(990, "mallory")
        assert [name for name in (second, third, fourth) if uploads.find(name, "mallory")] == [fourth]
        assert uploads.find(large, "mallory") is not None
        assert uploads.find(other, "victim") is not None
        assert uploads.find(other, "mallory") is None

    asyncio.run(scenario())
    assert len(list((service.store.folder / "uploads").iterdir())) == 3


def test_unused_uploads_are_removed_after_an_hour(service: Service) -> None:
    uploads = service.store.folder / "uploads"
    (uploads / ("0" * 32)).write_bytes(IMAGE)
    service.remove_expired(lambda: time.time() + 1800)
    assert list(uploads.iterdir())
    service.remove_expired(lambda: time.time() + 3700)
    assert not list(uploads.iterdir())
