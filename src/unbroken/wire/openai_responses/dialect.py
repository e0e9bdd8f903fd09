"""The dialect as the gateway knows it."""

from collections.abc import Mapping, Sequence

from unbroken.chat.conversation import Conversation
from unbroken.chat.error import ApiError
from unbroken.chat.events import Event
from unbroken.chat.fault import Failure
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.dialects import Answering, Dialect, Written
from unbroken.wire.openai_chat.errors import read_error, write_error
from unbroken.wire.openai_responses.answer import relay_answer, write_answer
from unbroken.wire.openai_responses.ask import write_conversation
from unbroken.wire.openai_responses.continuing import continuing_writer, with_partial
from unbroken.wire.openai_responses.conversation import read_conversation
from unbroken.wire.openai_responses.errors import write_error_event
from unbroken.wire.openai_responses.events import ResponseReader
from unbroken.wire.openai_responses.relay import ResponseRelay
from unbroken.wire.openai_responses.request import read_request, write_request
from unbroken.wire.openai_responses.writer import ResponseWriter


class OpenAiResponses:
    """OpenAI Responses, as client and as upstream."""

    name = "openai-responses"
    path = "/responses"
    id_prefix = "resp_"
    token_limits: tuple[str, ...] = ("max_output_tokens",)

    def read_request(self, body: bytes) -> ChatRequest:
        return read_request(body)

    def read_conversation(self, request: ChatRequest) -> Conversation:
        return read_conversation(request)

    def write_request(self, request: ChatRequest, *, model: str, ask_usage: bool, more: Mapping[str, object]) -> bytes:
        return write_request(request, model=model, more=more)

    def write_conversation(self, conversation: Conversation, *, model: str, stream: bool) -> Written:
        return write_conversation(conversation, model=model, stream=stream)

    def relay(self, answering: Answering, *, secret: str, ours: str | None) -> ResponseRelay:
        return ResponseRelay(answering, secret=secret, ours=ours)

    def relay_answer(self, body: bytes, answering: Answering, *, secret: str) -> tuple[bytes, Usage | None]:
        return relay_answer(body, answering, secret=secret)

    def event_reader(self) -> ResponseReader:
        return ResponseReader()

    def event_writer(self, answering: Answering) -> ResponseWriter:
        return ResponseWriter(answering)

    def continuing_writer(self, answering: Answering, blocks: Sequence[Block]) -> ResponseWriter:
        return continuing_writer(answering, blocks)

    def with_partial(self, request: ChatRequest, text: str) -> ChatRequest:
        return with_partial(request, text)

    def write_answer(self, events: Sequence[Event], answering: Answering) -> bytes:
        return write_answer(events, answering)

    def read_error(self, status: int, content_type: str, body: bytes, *, secret: str) -> Failure:
        return read_error(status, content_type, body, secret=secret)

    def write_error(self, error: ApiError, request_id: str) -> bytes:
        return write_error(error)

    def write_error_event(self, error: ApiError) -> Block:
        return write_error_event(error)


OPENAI_RESPONSES = OpenAiResponses()

_KEEPS_THE_PROMISE: Dialect = OPENAI_RESPONSES
