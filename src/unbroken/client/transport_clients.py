"""HTTP clients for the SDKs, of httpx2 or of httpx, whose answers arrive whole."""

from collections.abc import Callable
from types import ModuleType
from typing import Any
from urllib.request import getproxies

import httpx2

from unbroken.client.resume import Resumed
from unbroken.client.transport import PATIENCE, ResumingTransport
from unbroken.client.transport_async import AsyncResumingTransport
from unbroken.client.transport_proxies import proxy_mounts

_LIMITS = {"max_connections": 1000, "max_keepalive_connections": 100}  # as the SDKs' own clients


def http_client(
    library: ModuleType = httpx2,
    *,
    transport: Any = None,
    patience: float = PATIENCE,
    on_resume: Callable[[Resumed], None] | None = None,
    **options: Any,
) -> Any:
    """A `Client` for an SDK's `http_client=`, of httpx2 or of the `library` given.

    Args:
        library: `httpx2`, or `httpx` for SDKs that stand on it.
        transport: what sends the requests, with certificates and limits as you like them; by default the library's
            own with the limits of the SDKs, through the proxies that the environment names.
        patience: seconds from a drop to the next progress, after which the SDK sees the drop.
        on_resume: is called for every drop that was got over.
        options: for the client, such as `headers` and `timeout`.
    """

    def resuming(inner: Any) -> ResumingTransport:
        return ResumingTransport(inner, patience=patience, on_resume=on_resume)

    return _client(library, library.Client, library.HTTPTransport, resuming, transport, options)


def async_http_client(
    library: ModuleType = httpx2,
    *,
    transport: Any = None,
    patience: float = PATIENCE,
    on_resume: Callable[[Resumed], None] | None = None,
    **options: Any,
) -> Any:
    """An `AsyncClient` for an asynchronous SDK; else as `http_client`."""

    def resuming(inner: Any) -> AsyncResumingTransport:
        return AsyncResumingTransport(inner, patience=patience, on_resume=on_resume)

    return _client(library, library.AsyncClient, library.AsyncHTTPTransport, resuming, transport, options)


def _client(
    library: ModuleType,
    new_client: Callable[..., Any],
    new_transport: Callable[..., Any],
    resuming: Callable[[Any], Any],
    transport: Any,
    options: dict[str, Any],
) -> Any:
    options = {"follow_redirects": True, **options}
    if transport is not None:
        return new_client(transport=resuming(transport), **options)
    limits = library.Limits(**_LIMITS)
    found = proxy_mounts(getproxies()) if options.get("trust_env", True) else {}
    proxied = {
        pattern: proxy and resuming(new_transport(limits=limits, proxy=proxy)) for pattern, proxy in found.items()
    }
    mounts = proxied | dict(options.pop("mounts", None) or {})
    return new_client(transport=resuming(new_transport(limits=limits)), mounts=mounts, **options)
