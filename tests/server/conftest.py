"""A service in a folder of its own, asked in this process; workers are started by the tests that need them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from humo.server.api_keys import ApiKeys
from humo.server.app import make_app
from humo.server.file_store import FileStore
from humo.server.job_queue import JobQueue
from humo.server.service import Service
from humo.server.settings import Settings
from tests.server.running import Running

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def nothing_goes_on_running() -> Iterator[None]:
    """A test that fails leaves no service of its own behind, which would disturb those after it."""
    shared = list(Running.started)
    yield
    for running in [one for one in Running.started if one not in shared]:
        running.kill()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(folder=tmp_path / "service")


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    store = FileStore(settings.folder)
    store.prepare()
    queue = JobQueue(settings.database or store.database)
    yield Service(settings, store, queue)
    queue.close()


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    app = make_app(service, ApiKeys(service.settings.keys_file))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as found:
        yield found
