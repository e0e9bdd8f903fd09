"""OpenAI Chat Completions as a `Dialect`: what the package has, under the names that the gateway asks for."""

from collections.abc import Mapping, Sequence

from unbroken.chat.conversation import Conversation
from unbroken.chat.error import ApiError
from unbroken.chat.events import Event
from unbroken.chat.fault import Failure
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire import dialects
from unbroken.wire.dialects import Answering, Dialect, Written
from unbroken.wire.openai_chat import answer, errors, whole
from unbroken.wire.openai_chat.chunks import ChunkRelay
from unbroken.wire.openai_chat.continuing import continuing_writer, with_partial
from unbroken.wire.openai_chat.events import EventReader
from unbroken.wire.openai_chat.read_conversation import read_conversation
from unbroken.wire.openai_chat.request import read_request, write_request
from unbroken.wire.openai_chat.write_conversation import write_conversation
from unbroken.wire.openai_chat.writer import EventWriter


class OpenAIChat:
    """The dialect of `POST /chat/completions`."""

    name = "openai-chat"
    path = "/chat/completions"
    id_prefix = "chatcmpl-"
    token_limits: tuple[str, ...] = ("max_tokens", "max_completion_tokens", "n_predict")

    def read_request(self, body: bytes) -> ChatRequest:
        return read_request(body)

    def read_conversation(self, request: ChatRequest) -> Conversation:
        return read_conversation(request)

    def write_request(self, request: ChatRequest, *, model: str, ask_usage: bool, more: Mapping[str, object]) -> bytes:
        return write_request(request, model=model, ask_usage=ask_usage, more=more)

    def write_conversation(self, conversation: Conversation, *, model: str, stream: bool) -> Written:
        return write_conversation(conversation, model=model, stream=stream)

    def relay(self, answering: Answering, *, secret: str, ours: str | None) -> ChunkRelay:
        return ChunkRelay(
            answering.stream_id,
            answering.model,
            created=answering.created,
            choices=answering.choices,
            include_usage=answering.include_usage,
            secret=secret,
            ours=ours,
        )

    def relay_answer(self, body: bytes, answering: Answering, *, secret: str) -> tuple[bytes, Usage | None]:
        relayed = answer.relay_answer(
            body, answering.stream_id, answering.model, created=answering.created, secret=secret
        )
        return relayed.body, relayed.usage

    def event_reader(self) -> dialects.EventReader:
        return EventReader(refusals_as_text=False)

    def event_writer(self, answering: Answering) -> dialects.EventWriter:
        return EventWriter(answering)

    def continuing_writer(self, answering: Answering, blocks: Sequence[Block]) -> dialects.EventWriter:
        return continuing_writer(answering, blocks)

    def with_partial(self, request: ChatRequest, text: str) -> ChatRequest:
        return with_partial(request, text)

    def write_answer(self, events: Sequence[Event], answering: Answering) -> bytes:
        return whole.write_answer(events, answering)

    def read_error(self, status: int, content_type: str, body: bytes, *, secret: str) -> Failure:
        return errors.read_error(status, content_type, body, secret=secret)

    def write_error(self, error: ApiError, request_id: str) -> bytes:
        return errors.write_error(error)

    def write_error_event(self, error: ApiError) -> Block:
        return errors.write_error_event(error)


OPENAI_CHAT: Dialect = OpenAIChat()
"""The one of its kind."""
