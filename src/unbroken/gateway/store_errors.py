"""What a client is told when the store of durable streams says no."""

from unbroken.chat.error import ApiError
from unbroken.store.log import LogError, OffsetUnknown, StoreUnavailable, StreamTooLong, StreamUnknown


def told(error: LogError) -> ApiError:
    """The error for the client; what the store itself says is for the log, as it may name the machine's files."""
    match error:
        case StreamUnknown():
            return ApiError(404, "There is no such stream (any more).", code="stream_not_found")
        case OffsetUnknown():
            return ApiError(416, "The stream has not come so far.", code="offset_unknown", param="after")
        case StreamTooLong():
            message = "The store of durable streams is full: ask again later, or without durability."
            return ApiError(503, message, "server_error", "store_full", headers={"retry-after": "5"})
        case StoreUnavailable():
            message = (
                "The store of durable streams cannot be reached or written: plain answers are served all the same."
            )
            return ApiError(503, message, "server_error", "store_unavailable", headers={"retry-after": "1"})
        case _:
            return ApiError(500, "The store of durable streams has failed.", "server_error", "internal_error")
