"""THE OTHER END: what a reader of the public protocol runs; imports neither gateway nor store."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unbroken.client.resume import Resumed
    from unbroken.client.transport import ResumingTransport
    from unbroken.client.transport_async import AsyncResumingTransport
    from unbroken.client.transport_clients import async_http_client, http_client

__all__ = ["AsyncResumingTransport", "Resumed", "ResumingTransport", "async_http_client", "http_client"]

_HOME = {
    "AsyncResumingTransport": "transport_async",
    "Resumed": "resume",
    "ResumingTransport": "transport",
    "async_http_client": "transport_clients",
    "http_client": "transport_clients",
}


def __getattr__(name: str) -> Any:
    """The public names, each imported when it is asked for: the chat is to start fast."""
    if name in _HOME:
        return getattr(import_module(f"unbroken.client.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
