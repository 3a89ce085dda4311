"""Whatever a client sends, within the description or not: an answer that is described, and never a fault of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from humo.server.api_keys import ApiKeys
from humo.server.app import make_app, router
from humo.server.file_store import FileStore
from humo.server.job_queue import JobQueue
from humo.server.service import Service
from humo.server.settings import Settings

CASES = 170
"""Of each operation: 2,000 in all."""


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    ours = Settings(folder=tmp_path_factory.mktemp("service"), max_waiting_jobs=10**6)
    store = FileStore(ours.folder)
    store.prepare()
    queue = JobQueue(store.database)
    app = make_app(Service(ours, store, queue), ApiKeys(ours.keys_file))
    config = schemathesis.Config.from_dict({"base-url": "http://127.0.0.1/"})
    yield schemathesis.openapi.from_asgi("/openapi.json", app, config=config, headers={"Host": "127.0.0.1"})
    queue.close()


OPERATIONS = sorted(
    (method, route.path) for route in router.routes if isinstance(route, APIRoute) for method in route.methods or ()
)


@pytest.mark.filterwarnings("ignore")  # of the tester about itself
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_described(method: str, path: str, described: schemathesis.BaseSchema) -> None:
    @given(case=described[path][method].as_strategy())
    @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def ask(case: Any) -> None:
        # what fields mean together (a mode and its files, a model that is served) no description can say
        case.call_and_validate(headers={"Host": "127.0.0.1"}, excluded_checks=[positive_data_acceptance])

    ask()
