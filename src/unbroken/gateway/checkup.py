"""What `unbroken doctor` looks at: versions, the address, and each upstream in turn."""

import asyncio
import importlib.metadata
import platform
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

from unbroken.chat.fault import UpstreamFailed
from unbroken.gateway.journal import Journal
from unbroken.gateway.serve import check_address, listen
from unbroken.gateway.upstreams import Upstream, Upstreams
from unbroken.settings.read import SettingsInvalid
from unbroken.settings.tree import Settings

PACKAGES = ("unbroken", "uvicorn", "uvloop", "httptools", "msgspec", "xllamacpp")
LOAD_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what it is, what was found, and what to do if that is not well."""

    what: str
    is_well: bool
    found: str
    advice: str = ""


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Everything worth knowing before serving, one finding at a time."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    yield Finding("versions", True, f"Python {platform.python_version()}, {versions}")
    yield _address(settings)
    yield Finding("keys", True, f"{len(settings.keys)} configured" if settings.keys else "none: loopback only")
    journal = Journal(file="/dev/null")
    upstreams = Upstreams(journal, random.random)
    upstreams.apply(settings)
    try:
        await upstreams.start()
        for upstream in upstreams:
            yield await _upstream(upstream)
        names = upstreams.table.names()
        yield Finding("models", bool(names) or upstreams.table.has_globs(), ", ".join(names) or "by glob only")
    finally:
        await upstreams.close()
        journal.close()


def _address(settings: Settings) -> Finding:
    server = settings.server
    what = f"address {server.host}:{server.port}"
    try:
        check_address(settings)
        listen(server).close()
    except SettingsInvalid as error:
        return Finding(what, False, str(error), "stop the other server, or take another address")
    return Finding(what, True, "free")


async def _upstream(upstream: Upstream) -> Finding:
    what = f'upstream "{upstream.name}"'
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            client = await upstream.client()
            status, _ = await client.get("/models")
    except UpstreamFailed as failed:
        return Finding(what, False, failed.failure.message, "is it running, and is base_url (or path) right?")
    except TimeoutError:
        return Finding(what, False, f"not ready within {LOAD_SECONDS:g} s", "is the model too large for this machine?")
    if status in (401, 403):
        return Finding(what, False, f"{client.address} refuses the key ({status})", "set api_key to a valid key")
    if status >= 500:
        return Finding(what, False, f"{client.address} answers {status}", "see the log of that server")
    return Finding(what, True, f"{client.address} answers")
