"""What a durable stream's producer writes down about it, for its status and for whoever takes it over."""

import msgspec
from msgspec import Struct

from unbroken.chat.error import ApiError
from unbroken.chat.stream import StreamStatus
from unbroken.chat.usage import Usage


class Continued(Struct, frozen=True):
    """One continuation: by which tier, behind which offset, on which upstream."""

    tier: str
    after: int
    upstream: str


class ToldError(Struct, frozen=True):
    """The error that a stream ended with, as its client was told."""

    status: int
    message: str
    type: str
    code: str | None = None
    param: str | None = None


class _Asked(Struct, frozen=True):
    model: str = ""


class StreamAccount(Struct, frozen=True, kw_only=True):
    """How the answer of a stream came about so far."""

    state: str = "running"
    #: The one that answers, empty while none has begun to.
    model: str = ""
    upstream: str = ""
    attempts: int = 0
    usage: Usage | None = None
    continuations: tuple[Continued, ...] = ()
    error: ToldError | None = None

    @property
    def api_error(self) -> ApiError | None:
        """The error that it ended with, ready to be told again."""
        told = self.error
        return None if told is None else ApiError(told.status, told.message, told.type, told.code, told.param)


#: From the one that is surest to be what an uninterrupted answer would have said, to the least sure.
TIERS = ("exact", "spliced", "matched")

_read = msgspec.json.Decoder(StreamAccount).decode
_read_asked = msgspec.json.Decoder(_Asked).decode
_write = msgspec.json.Encoder().encode


def read_account(status: StreamStatus) -> StreamAccount:
    """What the store has of a stream's account; that of one that has just been accepted where there is none."""
    return _read(status.account) if status.account else StreamAccount()


def write_account(account: StreamAccount) -> bytes:
    """The account as JSON for the store."""
    return _write(account)


def write_status(status: StreamStatus, account: StreamAccount) -> bytes:
    """The status object that a client sees (D4)."""
    lowest = max((TIERS.index(one.tier) for one in account.continuations), default=None)
    return _write(
        {
            "id": status.record.id,
            "object": "stream",
            "state": account.state,
            "model": account.model or _read_asked(status.record.body).model,
            "created": status.record.created,
            "offset": status.last,
            "usage": account.usage,
            "upstream": account.upstream or None,
            "attempts": account.attempts,
            "tier": None if lowest is None else TIERS[lowest],
            "continuations": account.continuations,
            "orphan_grace": status.record.orphan_grace,
            "error": account.error,
        }
    )
