"""A scripted provider, and a client of it."""

from collections.abc import AsyncIterator

import pytest

from unbroken.client.api import ChatApi
from unbroken.upstream.scripted import ScriptedUpstream


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(models=["small", "large"]) as upstream:
        yield upstream


@pytest.fixture
async def api(upstream: ScriptedUpstream) -> AsyncIterator[ChatApi]:
    async with ChatApi(upstream.base_url, "sk-mine-123456") as api:
        yield api
