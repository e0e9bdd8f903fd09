"""What an upstream is asked, and who reads its answer: in the client's own dialect, or through a translation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import msgspec
from msgspec import Raw

from unbroken.chat.error import ApiError, RequestRefused
from unbroken.chat.events import Event
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.dialects import Answering, Dialect, Relay
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES
from unbroken.wire.translate import TranslatingRelay, translate_request

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect for dialect in (OPENAI_CHAT, OPENAI_RESPONSES, ANTHROPIC_MESSAGES)
}

RATE_LIMIT_PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-")

Headers = tuple[tuple[bytes, bytes], ...]

MAX_EVENTS = 1_000_000  # of one answer that is gathered whole; a token is one

#: llama.cpp's field that asks for news of the prompt's processing, and the member of the chunks that bring it.
PROGRESS_QUESTION, PROGRESS_ANSWER = "return_progress", "prompt_progress"

_read_members = msgspec.json.Decoder(dict[str, Raw]).decode
_SAID = Block(b"data: {}\n\n")


@runtime_checkable
class TellsFailure(Protocol):
    """A relay or writer of a dialect in which the error that ends a stream depends on what was said before it."""

    def fail(self, error: ApiError) -> list[Block]:
        """The blocks that end the stream with an error."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """A body for an upstream, and the relay of the stream that answers it."""

    body: bytes
    relay: Relay
    #: The blocks that end a stream with an error once it has begun.
    fail: Callable[[ApiError], list[Block]]
    #: Settings of the request that the upstream's dialect has no word for.
    dropped: tuple[str, ...] = ()


def rate_limits(headers: Sequence[tuple[bytes, bytes]], client: Dialect, upstream: Dialect) -> Headers:
    """An upstream's rate-limit headers, for a client that knows them by these names; none for any other."""
    if upstream is not client:
        return ()
    return tuple((name, value) for name, value in headers if name.startswith(RATE_LIMIT_PREFIXES))


class EventCollector:
    """An `EventWriter` that keeps the events, for an answer that is written when all of it is there."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event) -> list[Block]:
        """Keeps an event; the block only says that there was one."""
        if len(self.events) >= MAX_EVENTS:
            raise UpstreamFailed(Failure(Fault.TOO_LARGE, f"the answer has more than {MAX_EVENTS} pieces"))
        self.events.append(event)
        return [_SAID]

    def end(self) -> list[Block]:
        """Nothing more is kept."""
        return [_SAID]


def ask_for_stream(
    request: ChatRequest,
    client: Dialect,
    upstream: Dialect,
    answering: Answering,
    *,
    model: str,
    secret: str,
    ask_usage: bool,
    is_engine: bool,
) -> Question:
    """The question whose answer comes as blocks of the client's dialect.

    Raises:
        UpstreamFailed: the upstream's dialect has no word for something in the request.
    """
    more = {PROGRESS_QUESTION: True} if is_engine else {}
    if upstream is client:
        relay = client.relay(answering, secret=secret, ours=PROGRESS_ANSWER if is_engine else None)
        body = client.write_request(request, model=model, ask_usage=ask_usage, more=more)
        return Question(body, relay, _failing(relay, client))
    body, dropped = _translated(request, client, upstream, model, more)
    writer = client.event_writer(answering)
    relay = TranslatingRelay(upstream.event_reader(), writer, choices=answering.choices, secret=secret)
    return Question(body, relay, _failing(writer, client), dropped)


def ask_for_events(
    request: ChatRequest,
    client: Dialect,
    upstream: Dialect,
    collector: EventCollector,
    *,
    model: str,
    secret: str,
    is_engine: bool,
) -> Question:
    """The question whose answer is gathered as events, whichever dialect it comes in."""
    more = {PROGRESS_QUESTION: True} if is_engine else {}
    body, dropped = _translated(request, client, upstream, model, more)
    relay = TranslatingRelay(upstream.event_reader(), collector, choices=request.choices, secret=secret)
    return Question(body, relay, _failing(collector, client), dropped)


def _failing(speaker: object, client: Dialect) -> Callable[[ApiError], list[Block]]:
    if isinstance(speaker, TellsFailure):
        return speaker.fail
    return lambda error: [client.write_error_event(error)]


def _translated(
    request: ChatRequest, client: Dialect, upstream: Dialect, model: str, more: Mapping[str, object]
) -> tuple[bytes, tuple[str, ...]]:
    try:
        written = translate_request(request, client, upstream, model=model, stream=True)
    except RequestRefused as refused:
        error = refused.error
        failure = Failure(Fault.UNTRANSLATABLE, error.message, type=error.type, param=error.param, code=error.code)
        raise UpstreamFailed(failure) from None
    body = msgspec.json.encode({**_read_members(written.body), **more}) if more else written.body
    return body, written.dropped
