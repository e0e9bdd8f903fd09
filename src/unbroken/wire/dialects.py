"""What a dialect is: everything that the gateway needs of one, so that N dialects are N packages and not N × N.

On the diagonal (client and upstream speak the same) a `Relay` passes blocks byte for byte. Off it, the upstream's
events are read into words (`EventReader`) and written in the client's (`EventWriter`); `wire/translate.py` makes a
`Relay` of the two.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Raw, Struct

from unbroken.chat.conversation import Conversation
from unbroken.chat.error import ApiError
from unbroken.chat.events import Event
from unbroken.chat.fault import Failure
from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.wire.progress import Progress
from unbroken.wire.sse import SseEvent
from unbroken.wire.template import Shortcut


class Relay(Protocol):
    """Turns the events of one upstream answer into the blocks that the client sees; sans-I/O, one per attempt."""

    progress: Progress
    usage: Usage | None
    #: Chunks that carried a piece of the answer.
    deltas: int
    ignored: int

    @property
    def shortcut(self) -> Shortcut | None:
        """Gives the block for a read that holds just one event which only adds text.

        It must be given only what comes between two events; who uses it adds to `deltas`.
        """
        ...

    def feed(self, event: SseEvent) -> list[Block]:
        """The blocks of one event; raises UpstreamFailed for an error, for what is not the dialect, for a cut."""
        ...

    def finish(self) -> list[Block]:
        """The blocks that end the stream; raises UpstreamFailed where the upstream's answer is not whole."""
        ...


class EventReader(Protocol):
    """Reads an upstream's (or our own) stream of one dialect."""

    #: Whether the dialect's own terminal event has been seen.
    is_complete: bool
    #: Names of the members whose string is the text of a `TextDelta`; none if the reader remembers what was said.
    text_names: Collection[bytes]

    def feed(self, event: SseEvent) -> list[Event]:
        """The events in one SSE event; an error is a `Failed`; raises UpstreamFailed for what is no chunk."""
        ...


class EventWriter(Protocol):
    """Writes a client's stream of one dialect.

    Given any sequence of events that a reader gives, its blocks keep the dialect's grammar: envelope, order, one end.
    """

    def write(self, event: Event) -> list[Block]:
        """The blocks of one event. Blocks that close what is open come with the event that ends it."""
        ...

    def around_text(self, choice: int) -> tuple[bytes, bytes] | None:
        """What stands around the JSON string in the block of a `TextDelta`, until there is another event.

        None where it has to be written: nothing was said yet, or blocks differ in more than their text.
        """
        ...

    def end(self) -> list[Block]:
        """The blocks of a good end (`[DONE]`, `message_stop`, `response.completed`), after `Finished` and usage."""
        ...


class ErrorReader(Protocol):
    """Reads an upstream's error response; `Dialect.read_error` is one."""

    def __call__(self, status: int, content_type: str, body: bytes, *, secret: str) -> Failure:
        """What the response says."""
        ...


@dataclass(frozen=True, slots=True)
class Written:
    """A request's body for an upstream, and the settings that it could not say (told to the client in a header)."""

    body: bytes
    dropped: tuple[str, ...] = ()


class Answering(Struct, frozen=True):
    """What a writer of answers has to know."""

    stream_id: str
    model: str
    created: int
    choices: int = 1
    include_usage: bool = False
    #: The request's own fields, which some dialects repeat in the answer.
    request: Mapping[str, Raw] = {}


class Dialect(Protocol):
    """One dialect, as client and as upstream."""

    name: str
    #: Path of the upstream's route below its base URL.
    path: str
    #: Prefix of the ids of its answers, such as `chatcmpl-`, `msg_`, `resp_`.
    id_prefix: str
    #: Fields of a request that limit how many tokens are answered.
    token_limits: tuple[str, ...]

    def read_request(self, body: bytes) -> ChatRequest:
        """The request, as far as routing needs it; raises RequestRefused naming what is wrong."""
        ...

    def read_conversation(self, request: ChatRequest) -> Conversation:
        """The same request in words; raises RequestRefused naming a field that is wrong."""
        ...

    def write_request(self, request: ChatRequest, *, model: str, ask_usage: bool, more: Mapping[str, object]) -> bytes:
        """The diagonal: the caller's fields untouched, the upstream's name of the model."""
        ...

    def write_conversation(self, conversation: Conversation, *, model: str, stream: bool) -> Written:
        """The body for an upstream of this dialect; raises RequestRefused (400) naming what it has no word for."""
        ...

    def relay(self, answering: Answering, *, secret: str, ours: str | None) -> Relay:
        """The diagonal of streams."""
        ...

    def relay_answer(self, body: bytes, answering: Answering, *, secret: str) -> tuple[bytes, Usage | None]:
        """The diagonal of whole answers; raises UpstreamFailed."""
        ...

    def event_reader(self) -> EventReader:
        """A reader of one stream."""
        ...

    def event_writer(self, answering: Answering) -> EventWriter:
        """A writer of one stream."""
        ...

    def continuing_writer(self, answering: Answering, blocks: Sequence[Block]) -> EventWriter:
        """A writer that goes on where the `blocks` of a stream of this dialect end, in the same envelope (K5).

        Raises:
            UpstreamFailed: something in them is in no word of ours, so that nobody can tell how it goes on.
        """
        ...

    def with_partial(self, request: ChatRequest, text: str) -> ChatRequest:
        """The same request with `text` as the last words of the assistant; raises RequestRefused where it cannot be."""
        ...

    def write_answer(self, events: Sequence[Event], answering: Answering) -> bytes:
        """A whole answer from all the events of one."""
        ...

    def read_error(self, status: int, content_type: str, body: bytes, *, secret: str) -> Failure:
        """What an upstream's error response says."""
        ...

    def write_error(self, error: ApiError, request_id: str) -> bytes:
        """The body of an error response, in the dialect's envelope."""
        ...

    def write_error_event(self, error: ApiError) -> Block:
        """The block that ends a stream with an error."""
        ...
