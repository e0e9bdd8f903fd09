"""One choice of an answer on its way through: its chunks mended, its end told from its middle."""

from dataclasses import dataclass, field

import msgspec
from msgspec import Raw

from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.wire.openai_chat.envelope import NULL
from unbroken.wire.openai_chat.tool_calls import ToolCalls

BROKEN_OFF = frozenset({"error", "abort", "insufficient_system_resource"})
"""Words for `finish_reason` by which servers say that they did not finish."""

Members = dict[str, Raw]

_EMPTY_TEXT, _EMPTY_OBJECT = Raw(b'""'), Raw(b"{}")
_SAYS_NOTHING = (NULL, _EMPTY_TEXT, Raw(b"[]"), _EMPTY_OBJECT)
_ROLE: dict[str, object] = {"role": "assistant", "content": ""}

_read_members = msgspec.json.Decoder(Members | None).decode
_read_text = msgspec.json.Decoder(str | None).decode
_write = msgspec.json.Encoder().encode


@dataclass(slots=True)
class MendedChoice:
    """What is to be sent for one choice of one chunk."""

    index: int
    #: The choice as it may be sent (the same object where it keeps the rules), None where nothing is left of it.
    choice: Members | None
    #: Deltas that have to go out first, in chunks of their own.
    before: list[dict[str, object]] = field(default_factory=list)
    #: Whether it carries a piece of the answer.
    says_something: bool = False
    #: Whether it is one more piece of what came before, so that others like it need no look.
    is_plain: bool = False
    #: Whether the choice has ended, with it or before it.
    is_over: bool = False


class ChoiceRelay:
    """Keeps the rules for one choice: one role and first, one finish_reason, tool calls told apart."""

    __slots__ = (
        "_has_role",
        "_stream_id",
        "_tools",
        "finish_reason",
        "index",
    )

    def __init__(self, index: int, stream_id: str) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self._stream_id = stream_id
        self._has_role = False
        self._tools: ToolCalls | None = None

    def feed(self, choice: Members) -> MendedChoice:
        """The choice, mended.

        Raises:
            UpstreamFailed: it is not a choice of this dialect, it goes on after its end, or it was broken off.
            msgspec.DecodeError: it has members of a wrong type.
        """
        delta = _read_members(choice.get("delta", NULL))
        reason = _read_text(choice.get("finish_reason", NULL))
        says_something = any(is_said(name, raw) for name, raw in (delta or {}).items())
        self._check(choice, delta, reason, says_something)
        if self.finish_reason is not None and reason:
            return MendedChoice(self.index, None, is_over=True)
        mended = MendedChoice(self.index, None, says_something=says_something)
        new_delta = self._mend_delta(delta or {}, reason, mended)
        changes: Members = {}
        if new_delta != delta:
            changes["delta"] = Raw(_write(new_delta))
        if "index" not in choice or choice["index"] == NULL:
            changes["index"] = Raw(b"%d" % self.index)
        if reason is not None and (new_reason := self._mend_reason(reason)) != reason:
            changes["finish_reason"] = Raw(_write(new_reason))
        mended.choice = {**choice, **changes} if changes else choice
        mended.is_over = self.finish_reason is not None
        return mended

    def _check(self, choice: Members, delta: Members | None, reason: str | None, says_something: bool) -> None:
        if delta is None and any(choice.get(name, NULL) != NULL for name in ("message", "text")):
            raise self._failed(Fault.MALFORMED, "has a message or text where a delta was expected")
        if self.finish_reason is not None and says_something:
            raise self._failed(Fault.MALFORMED, f'goes on after finish_reason "{self.finish_reason}"')
        if self.finish_reason is None and reason in BROKEN_OFF:
            raise self._failed(Fault.ERROR_EVENT, f'was broken off with finish_reason "{reason}"')

    def _failed(self, fault: Fault, what: str) -> UpstreamFailed:
        return UpstreamFailed(Failure(fault, f"choice {self.index} of the stream {what}"))

    def _mend_delta(self, delta: Members, reason: str | None, mended: MendedChoice) -> Members:
        role = delta.get("role", NULL)
        had_role, self._has_role = self._has_role, True
        if not had_role and role in _SAYS_NOTHING:
            mended.before.append(_ROLE)
        if role != NULL and (had_role or role == _EMPTY_TEXT):
            delta = {name: raw for name, raw in delta.items() if name != "role"}
        mended.is_plain = had_role and mended.says_something and not reason
        calls = delta.get("tool_calls", NULL)
        if is_said("tool_calls", calls):
            if self._tools is None:
                self._tools = ToolCalls(self._stream_id, self.index)
            begun = self._tools.begun
            new_calls = self._tools.mend(calls, is_last=bool(reason))
            if new_calls is not calls:
                delta = {**delta, "tool_calls": new_calls}
            # A piece with an id or a name may begin a call; quotes inside strings are escaped, so this is exact.
            names_a_call = b'"id"' in bytes(calls) or b'"name"' in bytes(calls)
            mended.is_plain = mended.is_plain and not names_a_call and self._tools.begun == begun
        elif reason and self._tools is not None:
            mended.before += [{"tool_calls": calls} for calls in self._tools.without_arguments()]
        return delta

    def _mend_reason(self, reason: str) -> str | None:
        if not reason:
            return None  # some servers send "" until the end
        if reason == "stop" and self._tools is not None:
            reason = "tool_calls"
        self.finish_reason = reason
        return reason


def is_said(name: str, raw: Raw) -> bool:
    """Whether a member of a delta is a piece of the answer; a field that we do not know is, if it is not empty."""
    return name != "role" and raw not in _SAYS_NOTHING
