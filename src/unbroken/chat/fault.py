"""What can go wrong with an upstream, and how we say it."""

from dataclasses import dataclass
from enum import Enum


class Fault(Enum):
    """The kinds of failure that a rule may tell apart; the value is the word for logs and metrics."""

    CONNECT = "connect"  # refused, unreachable, name not found, TLS not verified
    CONNECT_TIMEOUT = "connect_timeout"
    RESET = "reset"  # the connection broke before the response's headers
    STALE = "stale"  # a connection kept from before turned out to be closed: nobody has seen the request
    HEADERS_TIMEOUT = "headers_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"  # noqa: S105 - not a password
    BETWEEN_TOKENS_TIMEOUT = "between_tokens_timeout"
    WHOLE_TIMEOUT = "whole_timeout"  # no whole answer in the time that this upstream had, and another is left
    TOTAL_TIMEOUT = "total_timeout"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    UNAUTHORIZED = "unauthorized"  # the upstream refused *our* key
    MODEL_NOT_FOUND = "model_not_found"
    CONTEXT_LENGTH = "context_length_exceeded"
    CONTENT_POLICY = "content_policy"
    BAD_REQUEST = "bad_request"
    UNTRANSLATABLE = "unsupported"  # the upstream's dialect has no word for what was asked
    ERROR_EVENT = "error_event"  # an error in the stream, with 200 before it
    CUT = "cut"  # the stream ended, or broke, without its terminal event
    MALFORMED = "malformed"  # bytes that are not the dialect
    TOO_LARGE = "too_large"
    DIFFERS = "differs"  # asked to go on with an answer, it gives another one
    NO_UPSTREAM = "no_upstream"  # every candidate's circuit is open, or none is ready
    CLIENT_LEFT = "client_left"
    CANCELLED = "cancelled"  # a durable stream, by its client's wish or because nobody came back for it
    STORE_UNAVAILABLE = "store_unavailable"  # the log of durable streams cannot be written
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure, ready to be told: what happened, where, and what the upstream itself said."""

    fault: Fault
    message: str
    #: HTTP status that the upstream answered with, 0 if none.
    status: int = 0
    #: Seconds that the upstream asked us to wait, None if it did not say.
    retry_after: float | None = None
    #: The upstream's own words for `type`, `param` and `code`, None where it gave none.
    type: str | None = None
    param: str | None = None
    code: str | None = None
    #: Whether `message` is the upstream's own words, or holds them: they may repeat what the caller has said.
    is_quoted: bool = False


class UpstreamFailed(Exception):
    """An attempt at an upstream ended in a `Failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure
