"""Attacks on the page: what its files allow, who may open and embed it, and whose material its routes return."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from humo.server.api_keys import ApiKeys, VisitorKeys
from humo.server.app import make_app
from humo.server.file_store import FileStore
from humo.server.job_queue import JobQueue
from humo.server.service import Service
from humo.server.settings import Settings
from humo.server.webui.page import STATIC_FOLDER, mount
from tests.server.conftest import EXAMPLES

IMAGE = (EXAMPLES / "woman.png").read_bytes()

EMBEDDER = "https://huggingface.co"

IN_A_FRAME = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}


def client_of(service: Service, keys: ApiKeys) -> TestClient:
    app = make_app(service, keys)
    mount(app, service.settings.embedders)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture
def pages(service: Service) -> Iterator[tuple[TestClient, dict[str, str]]]:
    """A client of a service with two keys, and the header with the key of each owner."""
    keys = ApiKeys(service.settings.keys_file)
    bearers = {name: f"Bearer {keys.add(name)}" for name in ("mallory", "victim")}
    with client_of(service, keys) as client:
        yield client, bearers


def test_the_policy_forbids_inline_code_other_hosts_and_frames(pages: tuple[TestClient, dict[str, str]]) -> None:
    client, _ = pages
    for path in ("/ui/", "/ui/main.js"):
        response = client.get(path)
        policy = response.headers["content-security-policy"]
        for rule in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"):
            assert f"{rule};" in policy
        assert policy.endswith("frame-ancestors 'none'")
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"


def test_the_pages_files_have_no_inline_code_no_markup_from_text_and_no_other_host() -> None:
    page = (STATIC_FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", page)
    for path in STATIC_FOLDER.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn", text), path.name
        markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
        assert not re.search(markup, text), path.name


@pytest.mark.parametrize(
    "path",
    [
        "/ui/../keys.json",
        "/ui/..%2fkeys.json",
        "/ui/%2e%2e/keys.json",
        "/ui/..%5ckeys.json",
        "/ui//etc/passwd",
        "/ui/%2fetc%2fpasswd",
        "/ui/../page.py",
        "/ui/..%2fpage.py",
        "/ui/static/../../page.py",
        "/ui/index.html%00.js",
        "/ui/.git/config",
        "/v1/examples/..%2f..%2fpyproject.toml/image",
        "/v1/examples/../woman/image",
        "/v1/examples/woman/..%2f..%2fREADME.md",
    ],
)
def test_no_path_leads_out_of_the_pages_folder(pages: tuple[TestClient, dict[str, str]], path: str) -> None:
    client, bearers = pages
    response = client.get(path, headers={"authorization": bearers["mallory"]})
    assert response.status_code in (400, 404)
    assert b"humo" not in response.content.replace(b"humo.request", b"")
    assert b"root:" not in response.content


@pytest.mark.parametrize(("method", "status"), [("POST", 405), ("PUT", 405), ("DELETE", 405), ("OPTIONS", 405)])
def test_the_page_only_reads(pages: tuple[TestClient, dict[str, str]], method: str, status: int) -> None:
    client, _ = pages
    assert client.request(method, "/ui/main.js").status_code == status


def test_only_the_pages_files_need_no_key(pages: tuple[TestClient, dict[str, str]]) -> None:
    client, _ = pages
    assert client.get("/ui/").status_code == 200
    assert client.get("/ui/main.js").status_code == 200
    closed = ("/v1/models", "/v1/videos", "/v1/examples", "/v1/examples/woman/image", "/uix", "/ui/../v1/videos")
    for path in closed:
        assert client.get(path).status_code in (401, 404), path
        assert b"data" not in client.get(path).content, path


def test_inputs_and_provenance_belong_to_one_owner(pages: tuple[TestClient, dict[str, str]]) -> None:
    client, bearers = pages
    victim, mallory = ({"authorization": bearers[name]} for name in ("victim", "mallory"))
    fields = {"prompt": "the victim's words", "frames": "5", "consent": "true"}
    job = client.post("/v1/videos", data=fields, files=[("image", ("a.png", IMAGE))], headers=victim).json()
    image = job["humo"]["request"]["images"][0]
    own = client.post("/v1/videos", json={"prompt": "mallory's", "frames": 5}, headers=mallory).json()
    assert client.get(f"/v1/videos/{job['id']}/inputs/{image}", headers=victim).status_code == 200
    for stolen in (f"{job['id']}/inputs/{image}", f"{own['id']}/inputs/{image}", f"{job['id']}/provenance"):
        response = client.get(f"/v1/videos/{stolen}", headers=mallory)
        assert response.status_code == 404
        assert b"victim" not in response.content
    for name in ("..%2f..%2fkeys.json", "keys.json", "0" * 64 + ".png", "%00"):
        assert client.get(f"/v1/videos/{job['id']}/inputs/{name}", headers=victim).status_code == 404


def test_other_sites_and_websockets_are_rejected(pages: tuple[TestClient, dict[str, str]]) -> None:
    client, bearers = pages
    for headers in (
        {"origin": "http://evil.com"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
        IN_A_FRAME,
    ):
        for method, path in (
            ("POST", "/v1/videos"),
            ("DELETE", "/v1/videos/x"),
            ("GET", "/ui/"),
            ("GET", "/ui/main.js"),
        ):
            response = client.request(method, path, headers=headers | {"authorization": bearers["mallory"]})
            assert (response.status_code, response.json()["error"]["code"]) == (403, "origin_not_allowed")
    by_link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client.get("/ui/", headers=by_link).status_code == 200
    assert client.post("/v1/videos", headers=by_link).status_code == 403
    assert client.get("/ui/", headers={"host": "evil.com"}).status_code == 403
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ui/"):
        pass


@pytest.fixture
def space(tmp_path: Path) -> Iterator[TestClient]:
    """A client of a service for visitors, whose page may be embedded."""
    settings = Settings(folder=tmp_path / "space", host="0.0.0.0", embedders=(EMBEDDER,))
    store = FileStore(settings.folder)
    store.prepare()
    queue = JobQueue(store.database)
    with client_of(Service(settings, store, queue), VisitorKeys()) as client:
        yield client
    queue.close()


def test_a_page_that_may_be_embedded_opens_in_a_frame_and_nothing_else_does(space: TestClient) -> None:
    page = space.get("/ui/", headers=IN_A_FRAME)
    assert page.status_code == 200
    assert page.headers["content-security-policy"].endswith(f"frame-ancestors {EMBEDDER}")
    for method, path in (("GET", "/v1/videos"), ("POST", "/v1/videos"), ("POST", "/ui/")):
        assert space.request(method, path, headers=IN_A_FRAME).status_code == 403


def test_visitors_see_their_own_videos_alone(space: TestClient) -> None:
    victim, mallory = ({"authorization": f"Bearer {letter * 64}"} for letter in "vm")
    missing = space.get("/v1/videos")
    assert (missing.status_code, missing.json()["error"]["code"]) == (401, "visitor_key_required")
    assert space.get("/v1/videos", headers={"authorization": "Bearer short"}).status_code == 401
    job = space.post("/v1/videos", json={"prompt": "mine", "frames": 5}, headers=victim).json()
    assert [one["id"] for one in space.get("/v1/videos", headers=victim).json()["data"]] == [job["id"]]
    assert space.get("/v1/videos", headers=mallory).json()["data"] == []
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/events")):
        assert space.request(method, f"/v1/videos/{job['id']}{path}", headers=mallory).status_code == 404
