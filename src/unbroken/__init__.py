"""Unbroken: a streaming chat gateway whose answers, once begun, arrive whole."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unbroken.client import AsyncResumingTransport, Resumed, ResumingTransport, async_http_client, http_client

__version__ = "0.1.0"
__all__ = ["AsyncResumingTransport", "Resumed", "ResumingTransport", "__version__", "async_http_client", "http_client"]


def __getattr__(name: str) -> Any:
    """What the other end gives, imported when it is asked for: most who import this package do not need it."""
    if name in __all__:
        import unbroken.client

        return getattr(unbroken.client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
