"""What types cannot say of settings: names that must exist, values that belong together or exclude each other."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from unbroken.settings.engine import EngineOptions
from unbroken.settings.explain import suggestion
from unbroken.settings.tree import RouteSettings, Settings, StoreSettings, UpstreamSettings

STORES = ("sqlite", "memory", "redis", "rediss", "valkey", "valkeys", "unix")
SHORTEST_KEY = 8  # characters; what is shorter is guessed

_SECONDS = re.compile(r"[0-9]{1,5}(\.[0-9]{1,3})?")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_HEADERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")


def objections(settings: Settings, given: Mapping[str, Any]) -> Iterator[str]:
    """What does not make sense; `given` is what was set at all, for a default is nobody's contradiction."""
    yield from _limits(settings, given)
    yield from _keys(settings.keys)
    yield from _store(settings.store, settings.keys)
    for origin in settings.server.cors_origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            yield (
                f'server.cors_origins has "{origin}", expected `*` or scheme, host and port as a browser sends them,'
                ' such as "https://app.example" (no path, no slash at the end)'
            )
    if settings.server.workers > 1 and settings.store.streams == "memory":
        yield 'server.workers is more than 1, but in store.streams = "memory" each would have its own streams'
    for name in _twice(upstream.name for upstream in settings.upstream):
        yield f'upstream "{name}" is there twice: give each upstream a name of its own'
    for upstream in settings.upstream:
        for objection in _upstream(upstream):
            yield f'upstream "{upstream.name}": {objection}'
    for model in _twice(route.model for route in settings.route):
        yield f'route "{model}" is there twice, and only the first would be used: put all upstreams into one'
    names = [upstream.name for upstream in settings.upstream]
    for route in settings.route:
        for objection in _route(route, names):
            yield f'route "{route.model}": {objection}'


def _store(store: StoreSettings, keys: Mapping[str, str]) -> Iterator[str]:
    for pair in store.orphan_grace_of:
        name, _, seconds = (part.strip() for part in pair.partition("="))
        if name not in keys:
            yield f'store.orphan_grace_of has "{pair}", but no key is named "{name}"; {suggestion(name, keys)}'
        elif not _SECONDS.fullmatch(seconds):
            yield f'store.orphan_grace_of has "{pair}", expected a key\'s name and seconds, such as "{name} = 300"'
    scheme, colon, rest = store.streams.partition(":")
    is_bare = not colon
    if scheme not in STORES or (is_bare and scheme not in ("sqlite", "memory")) or (colon and scheme == "memory"):
        yield (
            "store.streams must be `sqlite`, `sqlite:///PATH`, `memory`, or the address of a server, such as"
            f' `redis://127.0.0.1:6379/0`; it begins with "{scheme[:20]}"'
        )
    elif scheme == "sqlite" and colon and (not rest.startswith("///") or not rest.removeprefix("///")):
        yield "store.streams names no file: write `sqlite:///streams.db`, or from the root `sqlite:////var/streams.db`"


def _limits(settings: Settings, given: Mapping[str, Any]) -> Iterator[str]:
    timeouts, retries = settings.timeouts, settings.retries
    for name in ("connect", "headers", "first_token", "between_tokens", "whole"):
        limit = getattr(timeouts, name)
        if name in given.get("timeouts", ()) and limit > timeouts.total:
            yield (
                f"timeouts.{name} is {limit:g} s, but timeouts.total ends every answer after {timeouts.total:g} s:"
                " lower the one or raise the other"
            )
    if "backoff_first" in given.get("retries", ()) and retries.backoff_first > retries.backoff_most:
        yield (
            f"retries.backoff_first is {retries.backoff_first:g} s, more than retries.backoff_most"
            f" ({retries.backoff_most:g} s): lower the one or raise the other"
        )
    if "retry_after_most" in given.get("retries", ()) and retries.retry_after_most > timeouts.total:
        yield (
            f"retries.retry_after_most is {retries.retry_after_most:g} s, but timeouts.total ends every answer after"
            f" {timeouts.total:g} s: lower the one or raise the other"
        )


def _keys(keys: Mapping[str, str]) -> Iterator[str]:
    for name, key in keys.items():
        if len(key) < SHORTEST_KEY:
            yield (
                f"keys.{name} has {len(key)} characters, expected at least {SHORTEST_KEY}:"
                " `openssl rand -hex 24` makes a good one"
            )
        elif not re.fullmatch(r"[\x21-\x7e]+", key):
            yield f"keys.{name} has a space or a character that is not ASCII, which no client could send"
    for key in _twice(keys.values()):
        names = " and ".join(f"keys.{name}" for name, other in keys.items() if other == key)
        yield f"{names} are the same key: give each caller its own, or the log cannot tell them apart"


def _upstream(upstream: UpstreamSettings) -> Iterator[str]:
    if re.search(r"[:\x00-\x1f]", upstream.name):
        yield "the name has a colon or a control character; routes write `name:model`"
    yield from _engine(upstream) if upstream.engine else _server(upstream)
    for name, value in upstream.headers.items():
        if not _HEADER_NAME.fullmatch(name) or _NOT_IN_HEADERS.search(value):
            yield f'header "{name}" cannot be sent: its name or value has a character that HTTP does not allow'
    for entry in upstream.models:
        ours, is_pair, theirs = (part.strip() for part in entry.partition("="))
        if not ours or (is_pair and not theirs):
            yield f'models has "{entry}", expected a name, a glob, or a pair such as "ours = theirs"'


def _engine(upstream: UpstreamSettings) -> Iterator[str]:
    if not upstream.path:
        yield 'path is missing: name the GGUF file that the engine runs, or "demo"'
    for name in ("base_url", "api_key", "headers", "ca_file"):
        if getattr(upstream, name):
            yield f"{name} is for a server that is called, but engine runs a file: remove one of the two"


def _server(upstream: UpstreamSettings) -> Iterator[str]:
    if upstream.path:
        yield 'path is set, but engine is not: add engine = "llama.cpp" to run the file'
    elif upstream.engine_options != EngineOptions():
        yield 'engine_options are set, but engine is not: add engine = "llama.cpp" and path to run a file'
    yield from base_url_objections(upstream.base_url)
    if _NOT_IN_HEADERS.search(upstream.api_key) or upstream.api_key != upstream.api_key.strip():
        yield "api_key has a line end or another character that no key has"


def base_url_objections(base_url: str) -> Iterator[str]:
    """What speaks against the address of a server."""
    example = 'such as "https://api.openai.com/v1"'
    try:
        url = urlsplit(base_url)
        is_address = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is no number, brackets that do not close
        is_address = False
    if not base_url:
        yield f'base_url is missing: give the server\'s address, {example}, or engine = "llama.cpp" and path'
    elif "@" in base_url.partition("//")[2].partition("/")[0]:
        yield "base_url holds a name or password, which is not sent: use api_key or headers"  # and is not shown
    elif not is_address:
        yield f'base_url is "{base_url}", expected http:// or https:// and a host, {example}'
    elif re.search(r"[?#\s\x00-\x1f\x7f]", base_url):
        yield f"base_url has a query, a fragment or a space, expected an address {example}"
    elif url.path.rstrip("/").endswith(("/chat/completions", "/models")):
        yield f'base_url is "{base_url}", expected what stands before /chat/completions, {example}'


def _route(route: RouteSettings, names: list[str]) -> Iterator[str]:
    for choice in route.upstreams:
        for target in (choice,) if isinstance(choice, str) else choice:
            name = target.partition(":")[0]
            if name not in names:
                yield f'no upstream is named "{name}"; {suggestion(name, names)}'


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
