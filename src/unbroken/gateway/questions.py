"""What an upstream is asked, and who reads its answer: in the client's own dialect, or through a translation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
from msgspec import Raw

from unbroken.chat.error import ApiError, RequestRefused
from unbroken.chat.events import Event
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.dialects import Answering, Dialect, Relay
from unbroken.wire.llama_cpp.ask import asks_for_tokens
from unbroken.wire.llama_cpp.noting import TOKENS_QUESTION, TokenNotingRelay
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES
from unbroken.wire.rate_limits import Headers, RateLimitWords, rate_limits_in
from unbroken.wire.translate import TranslatingRelay, translate_request

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect for dialect in (OPENAI_CHAT, OPENAI_RESPONSES, ANTHROPIC_MESSAGES)
}

#: Whose words a dialect's clients know rate limits by; of any other dialect than these nothing is told.
RATE_LIMIT_WORDS: Mapping[str, RateLimitWords] = {
    OPENAI_CHAT.name: RateLimitWords.OPENAI,
    OPENAI_RESPONSES.name: RateLimitWords.OPENAI,
    ANTHROPIC_MESSAGES.name: RateLimitWords.ANTHROPIC,
}

MAX_EVENTS = 1_000_000  # of one answer that is gathered whole; a token is one

#: llama.cpp's field that asks for news of the prompt's processing, and the member of the chunks that bring it.
PROGRESS_QUESTION, PROGRESS_ANSWER = "return_progress", "prompt_progress"

_read_members = msgspec.json.Decoder(dict[str, Raw]).decode
_SAID = Block(b"data: {}\n\n")


@dataclass(frozen=True, slots=True)
class Question:
    """A body for an upstream, and the relay of the stream that answers it."""

    body: bytes
    relay: Relay
    #: The blocks that end a stream with an error once it has begun.
    fail: Callable[[ApiError], list[Block]]
    #: Settings of the request that the upstream's dialect has no word for.
    dropped: tuple[str, ...] = ()
    #: Gives what is to be noted beside the blocks that the relay has just given, None where nothing is.
    take_note: Callable[[], bytes] | None = None
    #: Where it is sent, if not to the dialect's own path.
    path: str = ""
    #: Whether its relay gives no blocks for a while though the upstream says something: it is not silent.
    holds_back: bool = False


def rate_limits(headers: Sequence[tuple[bytes, bytes]], client: Dialect, *, now: float) -> Headers:
    """An upstream's rate-limit headers in the words that the client knows; `now` is in seconds since 1970."""
    words = RATE_LIMIT_WORDS.get(client.name)
    return () if words is None else rate_limits_in(words, headers, now=now)


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

    def around_text(self, choice: int) -> None:
        """Every event is wanted."""

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
    more: dict[str, object] = {PROGRESS_QUESTION: True} if is_engine else {}
    relay: Relay
    dropped: tuple[str, ...] = ()
    if upstream is client:
        fields = request.fields
        relay = client.relay(answering, secret=secret, ours=PROGRESS_ANSWER if is_engine else None)
        fail = failing(relay, client)
    else:
        body, dropped = _translated(request, client, upstream, model)
        fields = _read_members(body) if is_engine else {}
        writer = client.event_writer(answering)
        relay = TranslatingRelay(upstream.event_reader(), writer, choices=answering.choices, secret=secret)
        fail = failing(writer, client)
    take_note = None
    if is_engine and asks_for_tokens(fields):
        more |= TOKENS_QUESTION
        relay = TokenNotingRelay(relay)
        take_note = relay.take_note
    if upstream is client:
        body = client.write_request(request, model=model, ask_usage=ask_usage, more=more)
    elif more:
        body = msgspec.json.encode({**fields, **more})
    return Question(body, relay, fail, dropped, take_note)


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
    body, dropped = _translated(request, client, upstream, model)
    if more:
        body = msgspec.json.encode({**_read_members(body), **more})
    relay = TranslatingRelay(upstream.event_reader(), collector, choices=request.choices, secret=secret)
    return Question(body, relay, failing(collector, client), dropped)


def failing(speaker: object, client: Dialect) -> Callable[[ApiError], list[Block]]:
    """What ends a stream with an error that `speaker`, a relay or writer of the client's dialect, has begun.

    One in whose dialect the error depends on what was said before it has a method `fail`.
    """
    fail: Callable[[ApiError], list[Block]] | None = getattr(speaker, "fail", None)
    if fail is not None:
        return fail
    return partial(_error_alone, client)


def _error_alone(client: Dialect, error: ApiError) -> list[Block]:
    return [client.write_error_event(error)]


def _translated(request: ChatRequest, client: Dialect, upstream: Dialect, model: str) -> tuple[bytes, tuple[str, ...]]:
    try:
        written = translate_request(request, client, upstream, model=model, stream=True)
    except RequestRefused as refused:
        error = refused.error
        failure = Failure(Fault.UNTRANSLATABLE, error.message, type=error.type, param=error.param, code=error.code)
        raise UpstreamFailed(failure) from None
    return written.body, written.dropped
