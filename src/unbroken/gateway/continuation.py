"""What an upstream is asked so that it goes on with an answer, and the relay that makes one stream of both (K1-K5)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from msgspec import Raw

from unbroken.chat.error import ApiError, RequestRefused
from unbroken.chat.events import Event, Finished, UsageReported
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.chat.finish import FinishReason
from unbroken.chat.request import ChatRequest
from unbroken.chat.said import Said
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.gateway.questions import Question, ask_for_stream, failing
from unbroken.rules.continuation import Capability, Prefill, Tier, Wishes, wishes_of
from unbroken.wire.continuing import ContinuingRelay, Joint, read_back
from unbroken.wire.continuing_joints import Appended, Matched, Spliced
from unbroken.wire.dialects import Answering, Dialect, EventReader, Relay
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.translate import TranslatingRelay

_write = msgspec.json.Encoder().encode
_read_any = msgspec.json.Decoder().decode
_read_members = msgspec.json.Decoder(dict[str, Raw]).decode
_read_messages = msgspec.json.Decoder(list[dict[str, Raw]]).decode

#: Fields by which vLLM and SGLang are told to go on with the last message; by default they begin a new turn.
_CONTINUE_FINAL_MESSAGE: Mapping[str, bool] = {"add_generation_prompt": False, "continue_final_message": True}


@dataclass(frozen=True, slots=True)
class Ending:
    """All of the answer has been sent but its end: these are the blocks of it, and nobody need be asked."""

    blocks: list[Block]
    usage: Usage | None = None


def read_said(client: Dialect, blocks: Sequence[Block]) -> Said:
    """What the blocks of a client's stream say; raises UpstreamFailed where there is no word of ours for some of it."""
    return read_back(client, blocks).said


def read_wishes(client: Dialect, request: ChatRequest) -> Wishes:
    """What of a request decides how its answer may go on.

    Raises:
        UpstreamFailed: it asks for what only its own dialect has words for, such as tools that the provider runs.
    """
    try:
        return wishes_of(client.read_conversation(request))
    except RequestRefused as refused:
        raise _cannot_be_said(refused) from None


def ask_to_continue(
    request: ChatRequest,
    client: Dialect,
    upstream: Dialect,
    answering: Answering,
    blocks: Sequence[Block],
    *,
    tier: Tier,
    capability: Capability,
    model: str,
    secret: str,
    ask_usage: bool,
    is_engine: bool,
    on_matched: Callable[[], None],
) -> Question | Ending:
    """The question whose answer, spliced or matched, comes as blocks that go on where `blocks` end.

    `on_matched` hears that what was to be spliced turns out to say again what was sent, before anything new is said.

    Raises:
        UpstreamFailed: what was said, or what is asked, cannot be said to this upstream.
    """
    said = read_back(client, blocks).said
    if said.finished is not None:
        return end_with(client, answering, blocks, ())
    left: Mapping[str, int] = {}
    if tier is Tier.SPLICED:
        left = _left(request, client, said)
        if any(limit <= 0 for limit in left.values()):
            return _end_at_limit(client, answering, blocks, said)
        request = _with_partial(request, client, said, left)
    question = ask_for_stream(
        request,
        client,
        upstream,
        answering,
        model=model,
        secret=secret,
        ask_usage=ask_usage,
        is_engine=is_engine,
    )
    joint: Joint = Matched(said)
    if tier is Tier.SPLICED:
        question = replace(question, body=_told_to_go_on(question.body, upstream, capability.prefill))
        joint = Spliced(said, handed_over=said.text.rstrip(), is_limited=bool(left), on_matched=on_matched)
    relay, fail = _behind(client, answering, blocks, question.relay, joint)
    return replace(question, relay=relay, fail=fail)


def go_on_exactly(
    client: Dialect, answering: Answering, blocks: Sequence[Block], reader: EventReader, *, body: bytes, path: str
) -> Question:
    """The question to an upstream that goes on from token ids; `reader` gives the rest, and usage of the whole.

    Raises:
        UpstreamFailed: there is no word of ours for something in what was said.
    """
    attempt = TranslatingRelay(reader, client.event_writer(answering))
    joint = Appended(read_back(client, blocks).said)
    relay, fail = _behind(client, answering, blocks, attempt, joint)
    return Question(body, relay, fail, path=path)


def end_with(client: Dialect, answering: Answering, blocks: Sequence[Block], events: Sequence[Event]) -> Ending:
    """The end of an answer whose last events are these; none where it is said already why it ended."""
    writer = client.continuing_writer(answering, blocks)
    written = [block for event in events for block in writer.write(event)] + writer.end()
    usage = next((event.usage for event in events if isinstance(event, UsageReported)), None)
    return Ending(written, usage)


def failing_behind(client: Dialect, answering: Answering, blocks: Sequence[Block]) -> Callable[[ApiError], list[Block]]:
    """What gives the blocks that end a stream with an error behind these; for one whose relay is gone."""
    try:
        return failing(client.continuing_writer(answering, blocks), client)
    except UpstreamFailed:
        return failing(None, client)


def _behind(
    client: Dialect, answering: Answering, blocks: Sequence[Block], attempt: Relay, joint: Joint
) -> tuple[Relay, Callable[[ApiError], list[Block]]]:
    writer = client.continuing_writer(answering, blocks)
    return ContinuingRelay(attempt, client.event_reader(), joint, writer), failing(writer, client)


def _end_at_limit(client: Dialect, answering: Answering, blocks: Sequence[Block], said: Said) -> Ending:
    """The end of an answer that has used its limit up, if the upstream itself has counted so many tokens (K5)."""
    if said.usage is None or not said.is_counted:
        problem = "nobody has counted the tokens that were sent, and they may be as many as the answer may have"
        raise UpstreamFailed(Failure(Fault.UNTRANSLATABLE, problem))
    return end_with(client, answering, blocks, (Finished(FinishReason.LENGTH), UsageReported(said.usage)))


def _left(request: ChatRequest, client: Dialect, said: Said) -> Mapping[str, int]:
    """What is left of each limit of tokens that the caller has set (K5)."""
    limits = {name: _read_any(request.fields[name]) for name in client.token_limits if name in request.fields}
    return {name: limit - said.tokens for name, limit in limits.items() if isinstance(limit, int) and limit > 0}


def _with_partial(request: ChatRequest, client: Dialect, said: Said, left: Mapping[str, int]) -> ChatRequest:
    # White space at its end is left out: Anthropic refuses it, and to tokenizers it is part of the next word.
    try:
        asked = client.with_partial(request, said.text.rstrip())
    except RequestRefused as refused:
        raise _cannot_be_said(refused) from None
    limits = {name: Raw(_write(limit)) for name, limit in left.items()}
    return replace(asked, fields={**asked.fields, **limits})


def _told_to_go_on(body: bytes, upstream: Dialect, prefill: Prefill) -> bytes:
    """The body with what makes the server go on with the last message."""
    if prefill is Prefill.LAST_MESSAGE:
        return body
    if upstream is not OPENAI_CHAT or prefill is Prefill.NONE:
        problem = f'an upstream of the dialect "{upstream.name}" has no word for "{prefill.value}"'
        raise UpstreamFailed(Failure(Fault.UNTRANSLATABLE, problem))
    fields: dict[str, Any] = {**_read_members(body)}
    if prefill is Prefill.CONTINUE_FINAL_MESSAGE:
        fields |= _CONTINUE_FINAL_MESSAGE
    else:
        *before, last = _read_messages(fields["messages"])
        fields["messages"] = [*before, {**last, "prefix": True}]
    return _write(fields)


def _cannot_be_said(refused: RequestRefused) -> UpstreamFailed:
    return UpstreamFailed(Failure(Fault.UNTRANSLATABLE, refused.error.message, param=refused.error.param))
