"""The models of a server, by name."""

from unbroken.client.api import ChatApi
from unbroken.client.failure import ChatFailed


async def list_models(base_url: str, api_key: str | None = None) -> list[str]:
    """The names of the server's models, in its order; raises ConnectionError that says what is wrong."""
    try:
        async with ChatApi(base_url, api_key) as api:
            return [model.name for model in await api.models()]
    except ChatFailed as failed:
        raise ConnectionError(str(failed)) from None
