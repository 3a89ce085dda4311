"""The page's library as a hostile client meets it: no address is fetched, no path is opened, nobody's files are shared.

The service runs in a process of its own that writes down what it connects to and what it opens, so that what is tested
is what it does and not only what it answers.
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
    PICTURE,
    POST,
    SECRET,
    SHUT,
    WATCH,
    Target,
    attacks,
    events,
    file,
    heard,
    join,
    kinds,
    letting_in,
    upload,
)
from tests.server.running import Running, wait_for

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder, watch = tmp_path_factory.mktemp("service"), tmp_path_factory.mktemp("watch")
    secret = watch / "canary-secret.png"
    (watch / "sitecustomize.py").write_text(WATCH.format(log=str(watch / "log"), marker=secret.name))
    secret.write_bytes(SECRET)
    keys = ApiKeys(folder / "keys.json")
    with pytest.MonkeyPatch.context() as patch, socket.socket() as canary:
        canary.bind(("127.0.0.1", 0))
        canary.listen()
        canary.setblocking(False)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(watch), os.environ.get("PYTHONPATH", "")]))
        made = {name: keys.add(name) for name in ("mallory", "victim")}
        running = Running(folder, ["--ui"]).start()
        yield Target(running, made, watch / "log", secret, canary)
        running.stop()


@pytest.fixture(autouse=True)
def _nothing_was_fetched_or_opened(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test that has a target."""
    yield
    if "target" in request.fixturenames:
        found: Target = request.getfixturevalue("target")
        assert found.seen == []
        kept = [path for path in found.running.folder.rglob("*") if path.is_file() and path.suffix != ".sqlite"]
        assert not [path for path in kept if SECRET in path.read_bytes()]


def test_no_event_of_the_page_fetches_an_address_or_opens_a_path(target: Target) -> None:
    with target.client() as client:
        known = kinds(client)
        for number, event in enumerate(events(client)):
            if event["targets"] and event["targets"][0][1] == "load":
                continue
            for name, attack in attacks(target).items():
                for place, component in enumerate(event["inputs"]):
                    if known[component] in ("file", "audio", "state", "textbox", "dropdown"):
                        data: list[Any] = [None] * len(event["inputs"])
                        data[place] = attack
                        session = f"{number}-{place}-{sum(map(ord, name))}"
                        answer = join(client, event, data, session)
                        assert answer.status_code in (200, 400), (name, answer.text)
                        if isinstance(attack, dict):
                            assert answer.status_code == 400, (name, known[component])
                        elif answer.status_code == 200:
                            assert SECRET.decode() not in heard(client, session)


@pytest.mark.parametrize("place", ["path", "url", "orig_name", "mime_type"])
def test_of_a_file_that_was_uploaded_nothing_but_its_name_is_believed(target: Target, place: str) -> None:
    with target.client() as client:
        event = letting_in(client)
        lies = {
            "url": f"http://127.0.0.1:{target.canary.getsockname()[1]}/x",
            "orig_name": "../../" + str(target.secret),
        }
        told = file(upload(client), mime_type="text/html", size=-1, is_stream=True, **lies)
        if place == "path":
            told["path"] = f"{target.running.folder}/uploads/{told['path']}"  # where it lies indeed
            assert join(client, event, [[told], None, None], "lies").status_code == 400
        else:
            assert join(client, event, [[told], None, None], "lies").status_code == 200
            assert "picture 1" in heard(client, "lies")


@pytest.mark.parametrize(("method", "path"), SHUT)
def test_what_the_page_does_not_need_is_not_there(target: Target, method: str, path: str) -> None:
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
        answer = client.request(method, path.format(**places), json=bodies if method == POST else None)
    assert answer.status_code == 404, answer.text
    assert answer.json()["error"]["code"] == "not_found"


def every(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Routes, and those of routers among them."""
    for route in routes:
        yield route
        yield from every(getattr(getattr(route, "original_router", None), "routes", ()))


def test_no_route_of_the_library_is_open_that_is_not_on_the_list(service: Service) -> None:
    """Whatever a later version of it brings."""
    from humo.server.webui.page import mount

    async def mounted() -> FastAPI:  # within a loop: otherwise the library leaves one of its own behind
        return mount(make_app(service, ApiKeys(service.settings.keys_file)), service)

    app = asyncio.run(mounted())
    library = next(route for route in app.routes if isinstance(route, Mount) and route.path == "/ui")
    open_to_us = {"/", "/theme.css", "/config", "/favicon.ico", "/gradio_api/app_id", "/gradio_api/queue/data"}
    open_to_us |= {"/gradio_api/upload_progress", "/gradio_api/upload", "/gradio_api/queue/join"}
    tried = 0
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for route in every(library.routes):
            path, methods = getattr(route, "path", ""), getattr(route, "methods", None) or set()
            if path in open_to_us or path.startswith(("/assets/", "/static/", "/gradio_api/heartbeat/")):
                continue
            for method in methods:
                tried += 1
                answer = client.request(method, f"/ui{path}")
                assert answer.status_code == 404, (method, path)
    assert tried > 50


@pytest.mark.parametrize("name", ["../../keys.json", "/etc/cron.d/x", "..\\x.png", "a\x00.png", ".", "", "x" * 5000])
def test_uploads_lie_under_names_of_ours(target: Target, name: str) -> None:
    quoted = name.encode().replace(b"\x00", b"%00")
    body = b'--x\r\ncontent-disposition: form-data; name="files"; filename="' + quoted + b'"\r\n\r\n' + PICTURE
    with target.client() as client:
        answer = client.post(
            "/ui/gradio_api/upload",
            content=body + b"\r\n--x--\r\n",
            headers={"content-type": "multipart/form-data; boundary=x"},
        )
        assert answer.status_code in (200, 400)
        for found in answer.json() if answer.status_code == 200 else []:
            assert set(found) <= set("0123456789abcdef")
            assert client.get(f"/ui/gradio_api/file={found}").content == PICTURE
    lying = list((target.running.folder / "uploads").iterdir())
    assert all(set(path.name) <= set("0123456789abcdef") for path in lying if path.is_file())
    assert not (target.running.folder.parent / "keys.json").exists()


def test_what_is_served_back_is_no_page(target: Target) -> None:
    with target.client() as client:
        found = client.get(f"/ui/gradio_api/file={upload(client, b'<script>alert(1)</script>', 'x.html')}")
    assert found.headers["content-type"] == "application/octet-stream"
    assert found.headers["content-disposition"] == "attachment"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in found.headers["content-security-policy"]


def test_a_session_and_its_files_are_its_owners_alone(target: Target) -> None:
    """Another's session is called by its very name, and so are his files."""
    with target.client("victim") as victim, target.client() as mallory:
        event, name = letting_in(victim), upload(victim)
        assert join(victim, event, [[file(name)], None, None], "private").status_code == 200
        assert "picture 1" in heard(victim, "private")

        assert mallory.get(f"/ui/gradio_api/file={name}").status_code == 404
        assert join(mallory, event, [[file(name)], None, None]).status_code == 400
        # an event without files shows what the session has: here, nothing
        assert join(mallory, event, [None, None, None], "private").status_code == 200
        assert "picture 1" not in heard(mallory, "private")
        # nor is what is told in it
        assert join(victim, event, [[file(name)], None, None], "told").status_code == 200
        assert "session_not_found" in heard(mallory, "told")
        assert "picture 1" in heard(victim, "told")


def test_what_the_page_remembers_is_not_set_from_outside(target: Target) -> None:
    """Another's job and another's pictures are named where the page keeps its own."""
    fields = {"prompt": "the victim's words", "frames": "5", "steps": "1", "consent": "true"}
    with target.client("victim") as victim, target.client() as mallory:
        told = victim.post("/v1/videos", data=fields, files=[("image", ("a.png", PICTURE))]).json()
        picture = told["humo"]["request"]["images"][0]
        known = kinds(mallory)
        for number, event in enumerate(events(mallory)):
            states = [place for place, one in enumerate(event["inputs"]) if known[one] == "state"]
            if not states or event["targets"][0][1] == "load":
                continue
            for stolen in (told["id"], json.dumps({"images": [picture], "audio": None}), [picture]):
                data: list[Any] = [None] * len(event["inputs"])
                for place in states:
                    data[place] = stolen
                assert join(mallory, event, data, f"stolen{number}").status_code == 200
                said = heard(mallory, f"stolen{number}")
                assert "victim's words" not in said
                assert "picture 1" not in said
        wait_for(lambda: victim.get(f"/v1/videos/{told['id']}").json()["status"] == "completed")
        # and by address, as a card of the history links to it
        load = next(one for one in events(mallory) if one["targets"][0][1] == "load")
        body = {"data": [], "fn_index": load["id"], "session_hash": "look"}
        mallory.post("/ui/gradio_api/queue/join", params={"video": told["id"]}, json=body)
        said = heard(mallory, "look")
        assert "there is no video" in said
        assert "victim's words" not in said


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
def test_nonsense_is_refused_in_words(target: Target, body: bytes) -> None:
    with target.client() as client:
        answer = client.post("/ui/gradio_api/queue/join", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"
    assert str(target.running.folder) not in answer.text


def test_other_sites_and_other_lines_are_kept_out(target: Target) -> None:
    host = target.running.address.removeprefix("http://")
    with target.client() as client:
        event = letting_in(client)
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
                answer = client.request(method, path, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
        by_link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
        shown = client.get("/ui/", headers=by_link)
        assert shown.status_code == 200
        assert "frame-ancestors 'none'" in shown.headers["content-security-policy"]
        assert client.post("/ui/gradio_api/queue/join", headers=by_link).status_code == 403
        assert join(client, event, [None, None, None], "own").status_code == 200
        heard(client, "own")
    with httpx.Client(base_url=target.running.address) as nobody:
        for path in ("/ui/", "/ui/config", "/ui/gradio_api/queue/data?session_hash=s", "/ui/assets/x.js"):
            assert nobody.get(path).status_code == 401
    upgrade = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13"}
    upgrade |= {"sec-websocket-key": base64.b64encode(b"x" * 16).decode(), "host": host}
    with target.client() as client:
        assert client.get("/ui/gradio_api/queue/join", headers=upgrade).status_code in (403, 404)


def test_a_websocket_is_closed_before_anything_is_said(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ui/queue/join"):
        pass


# -- how much ---------------------------------------------------------------------------------------------------------


def test_too_much_at_once_is_refused_and_leaves_nothing(target: Target) -> None:
    def waiting() -> set[Path]:
        return set((target.running.folder / "uploads").iterdir())

    before = waiting()
    with target.client() as client:
        many = [("files", (f"{number}.png", PICTURE)) for number in range(17)]
        answer = client.post("/ui/gradio_api/upload", files=many)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "files")
        answer = client.post("/ui/gradio_api/upload", files=[("files", ("a.wav", bytes(26 * 2**20)))])
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            400,
            "files: one is larger than 25 MiB; give a smaller file",
        )
        three = [("files", (f"{number}.wav", bytes(24 * 2**20))) for number in range(3)]
        assert client.post("/ui/gradio_api/upload", files=three).status_code == 413
        assert client.post("/ui/gradio_api/upload", content=b"x").status_code == 400
    assert waiting() == before


def test_an_owners_oldest_files_make_room_for_his_newest(service: Service) -> None:
    uploads = Uploads(service.store, service.settings.limits, max_files=3, max_bytes=1000)

    async def keep(size: int, owner: str) -> str:
        return await uploads._keep(bytes(size), "a.png", owner)

    async def scene() -> None:
        other = await keep(900, "victim")
        first, second, third, fourth = [await keep(10, "mallory") for _ in range(4)]
        assert uploads.find(first, "mallory") is None
        assert uploads.find(second, "mallory") is not None
        large = await keep(990, "mallory")
        assert [name for name in (second, third, fourth) if uploads.find(name, "mallory")] == [fourth]
        assert uploads.find(large, "mallory") is not None
        assert uploads.find(other, "victim") is not None
        assert uploads.find(other, "mallory") is None

    asyncio.run(scene())
    assert len(list((service.store.folder / "uploads").iterdir())) == 3


def test_what_nobody_came_back_for_is_swept(service: Service) -> None:
    uploads = service.store.folder / "uploads"
    (uploads / ("0" * 32)).write_bytes(PICTURE)
    service.sweep(lambda: time.time() + 1800)
    assert list(uploads.iterdir())
    service.sweep(lambda: time.time() + 3700)
    assert not list(uploads.iterdir())
