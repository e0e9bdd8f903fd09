"""Anthropic Messages as client and as upstream, behind the contract that all dialects keep."""

from collections.abc import Mapping, Sequence

from unbroken.chat.conversation import Conversation
from unbroken.chat.error import ApiError
from unbroken.chat.events import Event
from unbroken.chat.fault import Failure
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.anthropic_messages import answer, errors
from unbroken.wire.anthropic_messages import request as requests
from unbroken.wire.anthropic_messages.continuing import continuing_writer, with_partial
from unbroken.wire.anthropic_messages.events import MessageEventReader
from unbroken.wire.anthropic_messages.read_conversation import read_conversation
from unbroken.wire.anthropic_messages.relay import MessageRelay
from unbroken.wire.anthropic_messages.write_conversation import write_conversation
from unbroken.wire.anthropic_messages.writer import MessageEventWriter
from unbroken.wire.dialects import Answering, Dialect, EventReader, EventWriter, Relay, Written


class AnthropicMessages:
    """The dialect of `POST /v1/messages`."""

    name = "anthropic-messages"
    path = "/messages"
    id_prefix = "msg_"
    token_limits: tuple[str, ...] = ("max_tokens",)

    def read_request(self, body: bytes) -> ChatRequest:
        return requests.read_request(body)

    def read_conversation(self, request: ChatRequest) -> Conversation:
        return read_conversation(request)

    def write_request(self, request: ChatRequest, *, model: str, ask_usage: bool, more: Mapping[str, object]) -> bytes:
        return requests.write_request(request, model=model, more=more)

    def write_conversation(self, conversation: Conversation, *, model: str, stream: bool) -> Written:
        return write_conversation(conversation, model=model, stream=stream)

    def relay(self, answering: Answering, *, secret: str, ours: str | None) -> Relay:
        return MessageRelay(answering.stream_id, answering.model, secret=secret, ours=ours)

    def relay_answer(self, body: bytes, answering: Answering, *, secret: str) -> tuple[bytes, Usage | None]:
        return answer.relay_answer(body, answering.stream_id, answering.model, secret=secret)

    def event_reader(self) -> EventReader:
        return MessageEventReader()

    def event_writer(self, answering: Answering) -> EventWriter:
        return MessageEventWriter(answering)

    def continuing_writer(self, answering: Answering, blocks: Sequence[Block]) -> EventWriter:
        return continuing_writer(answering, blocks)

    def with_partial(self, request: ChatRequest, text: str) -> ChatRequest:
        return with_partial(request, text)

    def write_answer(self, events: Sequence[Event], answering: Answering) -> bytes:
        return answer.write_answer(events, answering)

    def read_error(self, status: int, content_type: str, body: bytes, *, secret: str) -> Failure:
        return errors.read_error(status, content_type, body, secret=secret)

    def write_error(self, error: ApiError, request_id: str) -> bytes:
        return errors.write_error(error, request_id)

    def write_error_event(self, error: ApiError) -> Block:
        return errors.write_error_event(error)


ANTHROPIC_MESSAGES: Dialect = AnthropicMessages()
"""The dialect, as client and as upstream."""
