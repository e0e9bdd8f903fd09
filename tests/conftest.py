"""What every test may ask for."""

import pytest

pytest.register_assert_rewrite("tests.gateway.lane_stage")  # what it compares is told when it differs


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
