"""A service without workers, called in this process."""

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
def no_service_left_running() -> Iterator[None]:
    """Kill the services that a failed test left running, which would disturb later tests."""
    before = list(Running.started)
    yield
    for service in [one for one in Running.started if one not in before]:
        service.kill()


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
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as test_client:
        yield test_client
