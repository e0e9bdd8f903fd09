"""What `unbroken doctor` looks at: versions, the address, and each upstream in turn."""

import asyncio
import importlib.metadata
import platform
import random
import time
from collections.abc import AsyncIterator, Sequence, Set
from dataclasses import dataclass

from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.gateway.health import HEALTHY
from unbroken.gateway.journal import Journal
from unbroken.gateway.listening import check_address, listen, open_journal
from unbroken.gateway.running import root_of
from unbroken.gateway.stores import Stores, sqlite_path
from unbroken.gateway.upstreams import Upstream, Upstreams
from unbroken.settings.read import SettingsInvalid
from unbroken.settings.tree import Settings
from unbroken.store.log import StoreUnavailable
from unbroken.upstream.http import HttpClient

PACKAGES = ("unbroken", "uvicorn", "uvloop", "httptools", "msgspec", "xllamacpp")
LOAD_SECONDS = 120.0
PROBE_SECONDS = 1.0  # that a gateway of this machine may take to say that it is one

_ADVICE = {
    Fault.CONNECT: "is it running, and is base_url right?",
    Fault.CONNECT_TIMEOUT: "is its address right, and does a firewall let you through?",
    Fault.HEADERS_TIMEOUT: "it takes connections and does not answer: see the log of that server",
}
# OpenSSL's words for what is wrong with a certificate; whatever else it is, its authority is not known here.
_CERTIFICATE_ADVICE = (
    ("mismatch", "name the server in base_url as its certificate does"),
    ("expired", "renew the certificate, or set the clock of this machine"),
    ("not yet valid", "set the clock of this machine"),
    ("", "set ca_file to the authority that signed it"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what it is, what was found, and what to do if that is not well."""

    what: str
    is_well: bool
    found: str
    advice: str = ""


async def examine(settings: Settings, strangers: Sequence[str] = ()) -> AsyncIterator[Finding]:
    """Everything worth knowing before serving, one finding at a time.

    `strangers` are sentences on variables of the environment that change nothing.
    """
    yield Finding("versions", True, f"Python {platform.python_version()}, {', '.join(map(_version, PACKAGES))}")
    for stranger in strangers:
        yield Finding("environment", False, stranger, "correct its name, or unset it: see docs/configuration.md")
    yield await _address(settings)
    yield _keys(settings)
    yield _log(settings)
    yield await _store(settings)
    journal = Journal(file="/dev/null")
    upstreams = Upstreams(journal, random.random)
    try:
        try:
            upstreams.apply(settings)
        except SettingsInvalid as error:
            yield Finding("upstreams", False, str(error), "correct the configuration")
            return
        await upstreams.start()
        well: set[str] = set()
        for upstream in upstreams:
            yield (finding := await _upstream(upstream))
            if finding.is_well:
                well.add(upstream.name)
        yield _models(upstreams, well)
    finally:
        await upstreams.close()
        journal.close()


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} (not installed)"


async def _address(settings: Settings) -> Finding:
    server = settings.server
    what = f"address {server.host}:{server.port}"
    try:
        check_address(settings)
    except SettingsInvalid as error:
        return Finding(what, False, str(error))
    try:
        listen(server).close()
    except SettingsInvalid as error:
        if await _is_gateway(root_of(server.host, server.port)):
            return Finding(what, True, "a gateway runs here")
        return Finding(what, False, str(error), "stop what runs there, or set another port or host in [server]")
    return Finding(what, True, "free")


async def _is_gateway(root: str) -> bool:
    client = HttpClient(root, connect_timeout=PROBE_SECONDS)
    try:
        return await client.get("/healthz", timeout=PROBE_SECONDS) == (200, HEALTHY)
    except UpstreamFailed:
        return False


def _keys(settings: Settings) -> Finding:
    if settings.keys:
        return Finding("keys", True, ", ".join(settings.keys))
    try:
        check_address(settings)
    except SettingsInvalid:
        return Finding("keys", False, "none", "make one, or serve only this machine: see the address above")
    return Finding("keys", True, "none: only this machine is served")


def _log(settings: Settings) -> Finding:
    try:
        open_journal(settings).close()
    except SettingsInvalid as error:
        return Finding("log", False, str(error), "make its folder, or let this user write there")
    return Finding("log", True, settings.log.file or "standard error")


async def _store(settings: Settings) -> Finding:
    what = "store of durable streams"
    try:
        log = Stores.of(settings, now=time.time).log
        await log.start()
        running = len(await log.live())
        await log.close()
    except (SettingsInvalid, StoreUnavailable) as error:
        return Finding(what, False, str(error), "see [store] in docs/configuration.md")
    place = "a server" if "://" in settings.store.streams and "sqlite" not in settings.store.streams else ""
    return Finding(what, True, f"{place or sqlite_path(settings)} ({running} streams have not ended)")


def _models(upstreams: Upstreams, well: Set[str]) -> Finding:
    """The models by name; one is well if an upstream that serves it is."""
    table = upstreams.table
    names, lists_more = table.names(), table.has_globs()
    if not names and not lists_more:
        return Finding("models", False, "none", "configure an upstream: see docs/configuration.md")
    lost = [name for name in names if not any(target.upstream in well for tier in table.tiers(name) for target in tier)]
    found = ", ".join(name for name in names if name not in lost) or "none"
    if lost:
        said = f"{found}; without an upstream that is well: {', '.join(lost)}"
        return Finding("models", False, said, "mend their upstreams, or give them others: see [[route]]")
    if not well:
        return Finding("models", False, "none: no upstream is well", "mend the upstreams")
    return Finding("models", True, found if names else "whatever the upstreams list")


async def _upstream(upstream: Upstream) -> Finding:
    what = f'upstream "{upstream.name}"'
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            client = await upstream.client()
            if upstream.engine is not None:
                return Finding(what, True, upstream.engine.state.sentence)
            status, _ = await client.get("/models", more_headers=upstream.headers_for({}))
    except UpstreamFailed as failed:
        return Finding(what, False, failed.failure.message, _advice(upstream, failed.failure))
    except TimeoutError:
        return Finding(what, False, f"not ready within {LOAD_SECONDS:g} s", "is the model too large for this machine?")
    if status in (401, 403):
        key = "refuses the key" if upstream.secret else "wants a key"
        return Finding(what, False, f"{client.address} {key} ({status})", "set api_key to a valid key")
    if status == 404:
        return Finding(what, False, f"{client.address} answers 404 at /models", "does base_url end in /v1?")
    if status >= 500:
        return Finding(what, False, f"{client.address} answers {status}", "see the log of that server")
    return Finding(what, True, f"{client.address} answers")


def _advice(upstream: Upstream, failure: Failure) -> str:
    if upstream.engine is not None:
        return "set path to a GGUF file that this user can read"
    if "certificate" in failure.message:
        said = failure.message.rpartition(": ")[2]  # without the name of the server
        return next(advice for words, advice in _CERTIFICATE_ADVICE if words in said)
    return _ADVICE.get(failure.fault, "is it an OpenAI-compatible server?")
