"""What every test may ask for."""

import os

import pytest

#: Where no Ollama is: one that a developer runs must not join in the tests.
NO_OLLAMA = {"UNBROKEN_OLLAMA_BASE_URL": "http://127.0.0.1:1/v1"}
os.environ |= NO_OLLAMA

pytest.register_assert_rewrite("tests.gateway.lane_stage")  # what it compares is told when it differs


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
