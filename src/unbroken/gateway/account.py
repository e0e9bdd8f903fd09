"""What is known of one answer when it is over: for the client, the log line and the metrics."""

from dataclasses import dataclass, field

from msgspec import Struct

from unbroken.chat.fault import Failure
from unbroken.chat.usage import Usage
from unbroken.gateway.stream_account import Continued


@dataclass(slots=True)
class Account:
    """What the log line and the metrics say of one answer."""

    upstream: str = ""
    model: str = ""
    attempts: int = 0
    usage: Usage | None = None
    #: Loop time of the first piece of the answer; 0.0 if there was none.
    first_token_at: float = 0.0
    failure: Failure | None = None
    #: Settings of the request that the upstream's dialect has no word for.
    dropped: tuple[str, ...] = ()
    #: The upstream's rate-limit headers, in the words of the client's dialect.
    limits: tuple[tuple[bytes, bytes], ...] = ()
    #: How it was gone on with, each time that its upstream failed in the middle.
    continuations: list[Continued] = field(default_factory=list)
    #: Why nobody went on with it when its upstream had failed in the middle for the last time, in words of ours.
    not_continued: str = ""


class Answer(Struct, frozen=True):
    """A whole answer: the body to send, and the tokens that it took."""

    body: bytes
    usage: Usage | None
