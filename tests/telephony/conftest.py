import pytest


@pytest.fixture
def anyio_backend():
    """Coroutine tests run on asyncio, as the server does."""
    return "asyncio"
