"""Every setting: its name, type, default, bounds and meaning. `docs/configuration.md` is written from this file."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field
from msgspec.structs import fields

from unbroken.settings.engine import EngineOptions

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Patience = Annotated[float, Meta(ge=0.05, le=86_400)]
"""Seconds that cannot be none: a limit of nothing would fail every answer."""

_HIDDEN = "***"


def _says(description: str, *, is_secret: bool = False, restart: bool = False, **bounds: Any) -> Meta:
    extra = {"secret": is_secret, "restart": restart}
    return Meta(description=description, extra={name: True for name, holds in extra.items() if holds} or None, **bounds)


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file. Its text form hides what is secret, so that no log line or traceback can show it."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        values = ((setting, getattr(self, setting.name)) for setting in fields(self))
        return [(setting.name, _hidden(value) if _is_secret(setting.type) else value) for setting, value in values]


def _is_secret(annotation: Any) -> bool:
    return any((getattr(meta, "extra", None) or {}).get("secret") for meta in getattr(annotation, "__metadata__", ()))


def _hidden(value: Any) -> Any:
    return dict.fromkeys(value, _HIDDEN) if isinstance(value, dict) else value and _HIDDEN


class ServerSettings(Section, frozen=True, kw_only=True):
    """Where and how the gateway listens."""

    host: Annotated[
        str, _says("address to bind; beyond loopback only with at least one key", restart=True, min_length=1)
    ] = "127.0.0.1"
    port: Annotated[int, _says("TCP port; 0 takes a free one", restart=True, ge=0, le=65535)] = 8080
    workers: Annotated[
        int,
        _says(
            "processes that serve; more than one use more than one core, and share the engines",
            restart=True,
            ge=1,
            le=256,
        ),
    ] = 1
    body_limit: Annotated[int, _says("largest request body in bytes; more is a 413", ge=1, le=1 << 30)] = 32 << 20
    header_limit: Annotated[
        int, _says("largest request line and headers in bytes; more is a 431", ge=256, le=1 << 20)
    ] = 64 << 10
    header_timeout: Annotated[Patience, _says("seconds in which a request's headers must have come")] = 10.0
    body_timeout: Annotated[Patience, _says("seconds in which a request's body must have come")] = 60.0
    idle_timeout: Annotated[Seconds, _says("seconds that a connection is kept open between requests")] = 75.0
    connections: Annotated[
        int, _says("open client connections of each worker; more are answered 503", ge=1, le=1_000_000)
    ] = 20_000
    cors_origins: Annotated[
        tuple[str, ...],
        _says("web origins that may call from a browser, such as `https://app.example`; `*` is any"),
    ] = ()
    drain: Annotated[Seconds, _says("seconds that running answers get to finish after SIGTERM")] = 30.0


class KeepAliveSettings(Section, frozen=True, kw_only=True):
    """Comments sent into a silent stream, so that no proxy takes it for dead."""

    first: Annotated[Seconds, _says("seconds of silence before the first comment")] = 1.0
    every: Annotated[Patience, _says("seconds of silence between further comments")] = 10.0


class TimeoutSettings(Section, frozen=True, kw_only=True):
    """How long an upstream may take; each limit is a fault of its own."""

    connect: Annotated[Patience, _says("seconds to connect, TLS included")] = 5.0
    headers: Annotated[Patience, _says("seconds from the request to the response's headers, on streams")] = 30.0
    first_token: Annotated[Patience, _says("seconds from the headers to the first token")] = 60.0
    between_tokens: Annotated[Patience, _says("seconds between two pieces of an answer")] = 30.0
    whole: Annotated[
        Patience,
        _says(
            "seconds that an upstream has for an answer that is not streamed, of which nothing is heard while it is"
            " made, as long as another could be asked; never more than its share of what is left of `total`"
        ),
    ] = 180.0
    total: Annotated[Patience, _says("seconds for the whole answer, all attempts included")] = 600.0
    after_finish: Annotated[Seconds, _says("seconds to wait for usage and `[DONE]` after finish_reason")] = 1.0


class RetrySettings(Section, frozen=True, kw_only=True):
    """What is tried before the first token, and when an upstream is left alone for a while."""

    attempts: Annotated[int, _says("attempts in all for one answer, over all upstreams", ge=1, le=20)] = 4
    backoff_first: Annotated[Seconds, _says("seconds before the first retry on the same upstream, ± half")] = 0.25
    backoff_most: Annotated[Seconds, _says("seconds that the doubling backoff grows to at the most, ± half")] = 4.0
    retry_after_most: Annotated[
        Seconds, _says("longest `Retry-After` that is waited out; a longer one is handed to the client")
    ] = 10.0
    breaker_failures: Annotated[
        int, _says("consecutive failures after which an upstream is left alone", ge=1, le=1000)
    ] = 5
    breaker_cooldown: Annotated[Seconds, _says("seconds before one request probes it again")] = 10.0


class StoreSettings(Section, frozen=True, kw_only=True):
    """Where durable streams are kept, and for how long."""

    streams: Annotated[
        str,
        _says(
            "`sqlite` keeps them in a file of the user's own; `sqlite:///PATH` in this one; `redis://…`, `rediss://…`"
            " or `valkey://…` in a server that many hosts share; `memory` in this process only",
            is_secret=True,
            restart=True,
            min_length=1,
        ),
    ] = "sqlite"
    retention: Annotated[Seconds, _says("seconds that a stream is kept after its end", restart=True)] = 3600.0
    orphan_grace: Annotated[
        Seconds, _says("seconds that a durable stream goes on without a reader; work in the background has no limit")
    ] = 60.0
    orphan_grace_of: Annotated[
        tuple[str, ...], _says("the same for single keys, as `name = seconds` pairs, such as `app = 300`")
    ] = ()
    orphan_grace_most: Annotated[Seconds, _says("longest time that a request may ask for instead")] = 3600.0
    lease: Annotated[
        float,
        _says(
            "seconds after which a process that does not say that it lives loses its streams",
            restart=True,
            ge=0.5,
            le=600,
        ),
    ] = 4.0
    patience: Annotated[
        Seconds, _says("seconds that a commit is tried again before the store is taken for lost", restart=True)
    ] = 5.0
    synchronous: Annotated[
        Literal["normal", "full"],
        _says(
            "SQLite only: `full` waits for the disk at each commit, so that a loss of power loses nothing either",
            restart=True,
        ),
    ] = "normal"
    live_bytes: Annotated[
        int,
        _says(
            "bytes of streams that have not ended, in all; beyond it new ones are refused",
            restart=True,
            ge=1 << 20,
            le=1 << 50,
        ),
    ] = 1 << 30


class LogSettings(Section, frozen=True, kw_only=True):
    """The log: one line a request, never content or secrets."""

    format: Annotated[Literal["auto", "human", "json"], _says("`auto` is human on a terminal and JSON otherwise")] = (
        "auto"
    )
    file: Annotated[str, _says("file to append to; empty is standard error")] = ""


class UpstreamSettings(Section, frozen=True, kw_only=True):
    """A model server that we call, or a GGUF file that we run."""

    name: Annotated[str, _says("unique name for routes, logs and metrics", min_length=1, max_length=100)]
    dialect: Annotated[
        Literal["openai-chat", "openai-responses", "anthropic-messages"],
        _says("what the server speaks; clients of every dialect are served whatever it is"),
    ] = "openai-chat"
    base_url: Annotated[str, _says("`http://` or `https://` address up to and with `/v1`")] = ""
    api_key: Annotated[
        str, _says("key sent as bearer token; `env:NAME` reads it from the environment", is_secret=True)
    ] = ""
    models: Annotated[
        tuple[str, ...],
        _says(
            "names, globs (`gpt-*`) or `ours = theirs` pairs that it serves; without any a server is asked for its"
            " list, and a file is called as it is without `.gguf` (`demo`: `unbroken-demo`)"
        ),
    ] = ()
    weight: Annotated[
        float, _says("share of the requests among equals; 0 asks it only when the others fail", ge=0, le=1e6)
    ] = 1.0
    headers: Annotated[dict[str, str], _says("extra request headers; values may be `env:NAME`", is_secret=True)] = (
        field(default_factory=dict)
    )
    ca_file: Annotated[str, _says("PEM file of the certificate authorities to trust instead of the usual")] = ""
    ask_usage: Annotated[bool, _says("ask for usage on every stream, for the log and metrics")] = True
    continuation: Annotated[
        Literal["auto", "none", "match", "last_message", "continue_final_message", "prefix"],
        _says(
            "how it may go on with an answer that broke off: `none` never; `match` asked again from the start; else how"
            " it is told to go on with the last message: by itself (llama.cpp, Ollama), by fields (vLLM, SGLang), by a"
            " mark (Mistral, DeepSeek's beta); `auto` is what is known of its address. Say so only of a server"
            " that does: one that begins a new turn there cannot always be told from one that goes on"
        ),
    ] = "auto"
    idle_connections: Annotated[int, _says("idle connections kept open to it", ge=0, le=100_000)] = 100
    engine: Annotated[Literal["", "llama.cpp"], _says("`llama.cpp` runs the GGUF file at `path`")] = ""
    path: Annotated[
        str, _says("GGUF file, of a split model its first part; `demo` is the model that comes with Unbroken")
    ] = ""
    engine_options: Annotated[EngineOptions, _says("how the engine runs the file")] = EngineOptions()


class RouteSettings(Section, frozen=True, kw_only=True):
    """Which upstreams serve a model, in order; without a route all that list it are equals."""

    model: Annotated[str, _says("name or glob that clients ask for", min_length=1)]
    upstreams: Annotated[
        tuple[str | Annotated[tuple[str, ...], Meta(min_length=1)], ...],
        _says(
            "names in the order to try; a list within the list is of equals; `name:model` asks for another model",
            min_length=1,
        ),
    ]


class Settings(Section, frozen=True, kw_only=True):
    """All settings, by section of the file."""

    server: ServerSettings = ServerSettings()
    keep_alive: KeepAliveSettings = KeepAliveSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    retries: RetrySettings = RetrySettings()
    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()
    keys: Annotated[
        dict[str, str],
        _says(
            "who may call: `name = key`, or `env:NAME`; names appear in the log, keys never; without any key only"
            " this machine is served",
            is_secret=True,
        ),
    ] = field(default_factory=dict)
    upstream: tuple[UpstreamSettings, ...] = ()
    route: tuple[RouteSettings, ...] = ()
