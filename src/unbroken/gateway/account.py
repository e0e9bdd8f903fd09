"""What is known of one answer when it is over: for the client, the log line and the metrics."""

from dataclasses import dataclass

from unbroken.chat.fault import Failure
from unbroken.chat.usage import Usage


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
    #: The upstream's rate-limit headers, where the client's dialect is the same.
    limits: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: the body to send, and the tokens that it took."""

    body: bytes
    usage: Usage | None
