"""A failure in words of our own: for the log, and for callers who are told what became of others' requests.

What an upstream says of a failure may repeat what its caller has said: llama.cpp quotes the arguments of a tool call.
"""

from collections.abc import Mapping

from unbroken.chat.fault import Failure, Fault
from unbroken.rules.outcome import GATEWAYS_OWN

#: What an upstream did whose answer failed so.
DEED: Mapping[Fault, str] = {
    Fault.CONNECT: "could not be reached",
    Fault.CONNECT_TIMEOUT: "took too long to connect",
    Fault.RESET: "closed the connection before it answered",
    Fault.STALE: "had closed the connection",
    Fault.HEADERS_TIMEOUT: "took too long to answer",
    Fault.FIRST_TOKEN_TIMEOUT: "took too long for its first token",
    Fault.BETWEEN_TOKENS_TIMEOUT: "fell silent in mid-answer",
    Fault.WHOLE_TIMEOUT: "took too long for its answer while another was left",
    Fault.TOTAL_TIMEOUT: "took too long for its answer",
    Fault.RATE_LIMITED: "was rate limited",
    Fault.OVERLOADED: "was overloaded",
    Fault.SERVER_ERROR: "answered with a server error",
    Fault.UNAUTHORIZED: "refused our key",
    Fault.MODEL_NOT_FOUND: "did not know the model or the address",
    Fault.CONTEXT_LENGTH: "refused the request as too long",
    Fault.CONTENT_POLICY: "refused the request for its content policy",
    Fault.BAD_REQUEST: "refused the request",
    Fault.UNTRANSLATABLE: "cannot be asked for this",
    Fault.ERROR_EVENT: "sent an error in its stream",
    Fault.CUT: "broke off its answer",
    Fault.MALFORMED: "sent what is no valid answer",
    Fault.TOO_LARGE: "found the request, or made an answer, too large",
    Fault.DIFFERS: "gave another answer where it should have gone on with one",
    Fault.NO_UPSTREAM: "was left alone",
    Fault.CLIENT_LEFT: "was no longer needed: the client has gone",
    Fault.CANCELLED: "was no longer needed: the answer was cancelled",
    Fault.STORE_UNAVAILABLE: "could not be heard: the store failed",
    Fault.SHUTTING_DOWN: "was not heard out: the gateway is shutting down",
    Fault.INTERNAL: "was not heard out: the gateway failed",
}

#: Faults whose message is ours wherever it is not marked as quoted: it names addresses, limits and counts. The others
#: hold words that came over the wire, if only the name of an event or of a tool.
TOLD_BY_US = frozenset(
    {
        Fault.CONNECT,
        Fault.CONNECT_TIMEOUT,
        Fault.RESET,
        Fault.STALE,
        Fault.HEADERS_TIMEOUT,
        Fault.FIRST_TOKEN_TIMEOUT,
        Fault.BETWEEN_TOKENS_TIMEOUT,
        Fault.WHOLE_TIMEOUT,
        Fault.TOTAL_TIMEOUT,
        Fault.CUT,
        Fault.TOO_LARGE,
        *GATEWAYS_OWN,
    }
)


def in_our_words(failure: Failure) -> str:
    """What the log may say of a failure: its message where that is ours, else what kind it is, and which status."""
    if failure.fault in TOLD_BY_US and not failure.is_quoted:
        return failure.message
    return deed(failure)


def deed(failure: Failure) -> str:
    """What kind of failure it is, and which status the upstream gave; said behind the upstream's name."""
    return f"{DEED[failure.fault]} ({failure.status})" if failure.status else DEED[failure.fault]
