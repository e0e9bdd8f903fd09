"""Workers share an engine's threads, of which each open connection takes one."""

import pytest

from unbroken.gateway.worker import with_fair_pools
from unbroken.settings.tree import Settings, UpstreamSettings
from unbroken.upstream.engine_child import HTTP_THREADS

SERVER = UpstreamSettings(name="server", base_url="http://127.0.0.1:1/v1", idle_connections=1000)
ENGINE = UpstreamSettings(name="engine", engine="llama.cpp", path="demo", idle_connections=1000)


@pytest.mark.parametrize("workers", [2, 3, 16, 128])
def test_the_idle_connections_of_all_workers_leave_half_of_an_engine_free(workers: int) -> None:
    server, engine = with_fair_pools(Settings(upstream=(SERVER, ENGINE)), workers).upstream
    assert 1 <= engine.idle_connections * workers <= HTTP_THREADS / 2
    assert server == SERVER


def test_who_wants_fewer_has_fewer() -> None:
    few = UpstreamSettings(name="engine", engine="llama.cpp", path="demo", idle_connections=3)
    assert with_fair_pools(Settings(upstream=(few,)), 2).upstream == (few,)
