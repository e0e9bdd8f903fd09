"""The call that an answer is booked under."""

from msgspec import Struct


class Origin(Struct, frozen=True):
    """Who asked, how, and when; a takeover is the call of nobody."""

    method: str
    path: str
    request_id: str
    key_name: str
    #: Loop time.
    started_at: float
