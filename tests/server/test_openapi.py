"""Random requests get documented responses, whether the OpenAPI document allows them or not, and no internal error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from humo.server.api_keys import ApiKeys
from humo.server.app import ROUTERS, make_app
from humo.server.file_store import FileStore
from humo.server.job_queue import JobQueue
from humo.server.service import Service
from humo.server.settings import Settings

CASES = 170
"""Requests of each operation, 2,000 in all."""


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    settings_of_service = Settings(folder=tmp_path_factory.mktemp("service"), max_waiting_jobs=10**6)
    store = FileStore(settings_of_service.folder)
    store.prepare()
    queue = JobQueue(store.database)
    app = make_app(Service(settings_of_service, store, queue), ApiKeys(settings_of_service.keys_file))
    config = schemathesis.Config.from_dict({"base-url": "http://127.0.0.1/"})
    yield schemathesis.openapi.from_asgi("/openapi.json", app, config=config, headers={"Host": "127.0.0.1"})
    queue.close()


OPERATIONS = sorted(
    (method, route.path)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    and route.include_in_schema
    and route.path != "/v1/videos/sync"  # it waits for a worker
    for method in route.methods or ()
)


@pytest.mark.filterwarnings("ignore")  # schemathesis warns about itself
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_response_is_documented(method: str, path: str, schema: schemathesis.BaseSchema) -> None:
    @given(case=schema[path][method].as_strategy())
    @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def check(case: Any) -> None:
        # a schema cannot express rules across fields (a mode and its files) or which models are served
        case.call_and_validate(headers={"Host": "127.0.0.1"}, excluded_checks=[positive_data_acceptance])

    check()
