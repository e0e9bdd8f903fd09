"""What a client is told when an answer failed: status, and whose words."""

from collections.abc import Mapping
from math import ceil

from unbroken.chat.error import ApiError
from unbroken.chat.fault import Failure, Fault

STATUS: Mapping[Fault, int] = {
    Fault.CONNECT: 502,
    Fault.CONNECT_TIMEOUT: 504,
    Fault.RESET: 502,
    Fault.STALE: 502,
    Fault.HEADERS_TIMEOUT: 504,
    Fault.FIRST_TOKEN_TIMEOUT: 504,
    Fault.BETWEEN_TOKENS_TIMEOUT: 504,
    Fault.WHOLE_TIMEOUT: 504,
    Fault.TOTAL_TIMEOUT: 504,
    Fault.RATE_LIMITED: 429,
    Fault.OVERLOADED: 503,
    Fault.SERVER_ERROR: 502,
    Fault.UNAUTHORIZED: 502,  # not the caller's key: a 401 would send it looking there
    Fault.MODEL_NOT_FOUND: 404,
    Fault.CONTEXT_LENGTH: 400,
    Fault.CONTENT_POLICY: 400,
    Fault.BAD_REQUEST: 400,
    Fault.UNTRANSLATABLE: 400,
    Fault.ERROR_EVENT: 502,
    Fault.CUT: 502,
    Fault.MALFORMED: 502,
    Fault.TOO_LARGE: 502,
    Fault.DIFFERS: 502,
    Fault.NO_UPSTREAM: 503,
    Fault.CLIENT_LEFT: 499,
    Fault.CANCELLED: 499,
    Fault.STORE_UNAVAILABLE: 503,
    Fault.SHUTTING_DOWN: 503,
    Fault.INTERNAL: 500,
}

#: Faults whose status the client gets as the upstream gave it, with the upstream's own words.
CALLERS_OWN = (Fault.BAD_REQUEST, Fault.CONTEXT_LENGTH, Fault.CONTENT_POLICY, Fault.UNTRANSLATABLE)

#: Statuses that would send the caller looking at its own key, or make its SDK try again by itself.
MISLEADING = (401, 407, 408, 409, 429)

#: Faults of the gateway: no upstream is to blame for them.
GATEWAYS_OWN = (
    Fault.NO_UPSTREAM,
    Fault.CLIENT_LEFT,
    Fault.CANCELLED,
    Fault.STORE_UNAVAILABLE,
    Fault.SHUTTING_DOWN,
    Fault.INTERNAL,
)


def api_error(failure: Failure, upstream: str = "") -> ApiError:
    """The error for the client; `upstream` is named where the fault is an upstream's."""
    status = STATUS[failure.fault]
    kept = range(400, 500) if failure.fault in CALLERS_OWN else range(500, 600)
    keeps_status = failure.fault in CALLERS_OWN or failure.fault is Fault.SERVER_ERROR
    if keeps_status and failure.status in kept and failure.status not in MISLEADING:
        status = failure.status
    headers = {}
    if status == 429 or (status == 503 and failure.retry_after is not None):
        headers["retry-after"] = str(ceil(failure.retry_after or 1))
    if failure.fault in CALLERS_OWN:
        kind = failure.type or "invalid_request_error"
        code = failure.code or (failure.fault.value if failure.fault is not Fault.BAD_REQUEST else None)
        return ApiError(status, failure.message, kind, code, failure.param, headers)
    names_it = upstream and failure.fault not in GATEWAYS_OWN
    message = f'upstream "{upstream}": {failure.message}' if names_it else failure.message
    if failure.fault is Fault.UNAUTHORIZED:  # its words are about a key that the caller does not have
        return ApiError(status, message, "server_error", failure.fault.value, None, headers)
    kind = failure.type or ("rate_limit_error" if status == 429 else "server_error")
    return ApiError(status, message, kind, failure.code or failure.fault.value, failure.param, headers)
