"""The call that an answer is booked under."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked, how, and when; a takeover is the call of nobody."""

    method: str
    path: str
    request_id: str
    key_name: str
    #: Loop time.
    started_at: float
