"""One server for the tests of a module that leave it as they found it: starting one costs more than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import new_database
from tests.servers import Server, environment


@pytest.fixture(scope="module")
def server(
    postgres_server_url: str, template_database: str, redis_server_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    for database_url in new_database(postgres_server_url, template_database):
        env = environment(database_url, f"{redis_server_url}?db=1", {})
        running = Server(["-m", "realtime"], env, tmp_path_factory.mktemp("server") / "web.log")
        running.wait_for('"event": "serving"')
        yield running
        running.stop()
