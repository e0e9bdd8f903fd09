"""Tool calls in pieces: which call a piece belongs to, where the upstream does not say it well (FAULTS.md 22)."""

from collections.abc import Iterator
from hashlib import blake2b

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.wire.openai_chat.envelope import NULL

MAX_CALLS = 512  # in one choice, far above what a model asks for at once

_EMPTY = (NULL, Raw(b'""'))
_FUNCTION_TYPE = Raw(b'"function"')
_NO_ARGUMENTS = Raw(b'{"arguments":"{}"}')


class _Function(Struct):
    name: str | None = None
    arguments: str | dict[str, Raw] | None = None


class _Piece(Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


_read_pieces = msgspec.json.Decoder(list[_Piece]).decode
_read_optional_pieces = msgspec.json.Decoder(list[_Piece] | None).decode
_read_members = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_read_object = msgspec.json.Decoder(dict[str, Raw]).decode
_write = msgspec.json.Encoder().encode


class _Call:
    """One call: its place and id as the client sees them, and what the upstream said of it."""

    def __init__(self, index: int, id: str, piece: _Piece) -> None:
        self.index, self.id = index, id
        self.upstream_index, self.upstream_id = piece.index, piece.id
        self.name = ""
        self.is_function = False
        self.has_arguments = False

    def take(self, function: _Function | None) -> None:
        if function is not None:
            self.is_function = True
            self.name = self.name or function.name or ""
            self.has_arguments = self.has_arguments or function.arguments not in (None, "")

    @property
    def lacks_arguments(self) -> bool:
        return self.is_function and not self.has_arguments


class ToolCalls:
    """The calls of one choice, numbered 0, 1, 2 … in the order in which they began."""

    def __init__(self, stream_id: str, choice: int = 0) -> None:
        self._seed = f"{stream_id}/{choice}"
        self._calls: list[_Call] = []

    @property
    def begun(self) -> int:
        """How many calls have begun."""
        return len(self._calls)

    def mend(self, raw: Raw, *, is_last: bool = False) -> Raw:
        """The pieces in `raw` with a right index each, and an id on each first one; the same object if they had them.

        With `is_last`, a call among them that got no arguments at all gets `{}`.

        Raises:
            UpstreamFailed: they are not pieces of tool calls.
        """
        try:
            pieces, members = _read_pieces(raw), _read_members(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _malformed(f"is not valid: {error}") from None
        mended = [self._mend_piece(piece, old) for piece, old in zip(pieces, members, strict=True)]
        if is_last:
            mended += [_no_arguments(call) for call in self._calls if call.lacks_arguments]
        return raw if mended == members else Raw(_write(mended))

    def without_arguments(self) -> Iterator[Raw]:
        """For each call that got no arguments at all, the pieces that make them `{}`."""
        for call in self._calls:
            if call.lacks_arguments:
                yield Raw(_write([_no_arguments(call)]))

    def _mend_piece(self, piece: _Piece, members: dict[str, Raw]) -> dict[str, Raw]:
        call = self._find(piece)
        if is_new := call is None:
            call = self._begin(piece)
        mended = dict(members)
        if piece.index != call.index:
            mended.pop("index", None)
            mended = {"index": Raw(b"%d" % call.index), **mended}
        if piece.function is not None:
            mended["function"] = _mend_function(call, piece.function, members["function"], is_new=is_new)
        if is_new and call.id != piece.id:
            mended["id"] = Raw(_write(call.id))
        if is_new and piece.function is not None and mended.get("type", NULL) in _EMPTY:
            mended["type"] = _FUNCTION_TYPE
        if not is_new and piece.id:
            del mended["id"]  # said already; a client that joins strings would join this one too
        call.take(piece.function)
        return mended

    def _find(self, piece: _Piece) -> _Call | None:
        """The call that a piece goes on with, None if it begins one."""
        if not piece.id:
            call = self._latest(piece.index)
            return None if call is None or _begins_another(call, piece.function) else call
        for call in self._calls:
            if call.upstream_id == piece.id and (piece.index is None or call.upstream_index in (None, piece.index)):
                return call
        # An id not seen before. Nothing but arguments cannot begin a call: this server makes up an id for every piece.
        has_only_arguments = bool(piece.function and piece.function.arguments and not piece.function.name)
        return self._latest(piece.index) if has_only_arguments else None

    def _latest(self, upstream_index: int | None) -> _Call | None:
        for call in reversed(self._calls):
            if upstream_index is None or call.upstream_index == upstream_index:
                return call
        return None

    def _begin(self, piece: _Piece) -> _Call:
        index = len(self._calls)
        if index >= MAX_CALLS:
            raise _malformed(f"is one of more than {MAX_CALLS}")
        is_taken = not piece.id or any(call.id == piece.id for call in self._calls)
        call = _Call(index, made_id(self._seed, index) if is_taken or not piece.id else piece.id, piece)
        self._calls.append(call)
        return call


def mend_whole_calls(raw: Raw, seed: str) -> Raw | None:
    """The calls of a whole answer, each with an id, a type and arguments; the same object if they were right.

    None where there are none. `seed` is what missing ids are made of, as in a stream.

    Raises:
        msgspec.DecodeError: they are not tool calls.
    """
    pieces = _read_optional_pieces(raw)
    if not pieces:
        return None
    members = _read_members(raw)
    seen: set[str] = set()
    mended = []
    for at, (piece, old) in enumerate(zip(pieces, members, strict=True)):
        new = dict(old)
        if not piece.id or piece.id in seen:
            new["id"] = Raw(_write(made_id(seed, at)))
        seen.add(piece.id or "")
        if piece.function is not None:
            new["function"] = _whole_function(piece.function, old["function"])
            if old.get("type", NULL) in _EMPTY:
                new["type"] = _FUNCTION_TYPE
        mended.append(new)
    return raw if mended == members else Raw(_write(mended))


def made_id(seed: str, index: int) -> str:
    """An id for a call that the upstream gave none: the same for the same stream and place."""
    return f"call_{blake2b(f'{seed}/{index}'.encode(), digest_size=12).hexdigest()}"


def _begins_another(call: _Call, function: _Function | None) -> bool:
    """Whether a piece without an id, at the index of `call`, begins another call: servers that give all index 0."""
    if function is None or not function.name or not call.name:
        return False
    return function.name != call.name or (call.has_arguments and _is_whole(function.arguments))


def _is_whole(arguments: str | dict[str, Raw] | None) -> bool:
    """Whether these are all the arguments of a call and not a piece of them."""
    if not isinstance(arguments, str):
        return arguments is not None
    try:
        _read_object(arguments)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _mend_function(call: _Call, function: _Function, raw: Raw, *, is_new: bool) -> Raw:
    """`function` with a name that was said already left out, and arguments that are an object written as text."""
    members = _read_object(raw)
    mended = dict(members)
    if not is_new and function.name and function.name == call.name:
        del mended["name"]
    if isinstance(function.arguments, dict):
        mended["arguments"] = Raw(_write(bytes(members["arguments"]).decode()))
    return raw if mended == members else Raw(_write(mended))


def _whole_function(function: _Function, raw: Raw) -> Raw:
    members = _read_object(raw)
    if isinstance(function.arguments, dict):
        return Raw(_write({**members, "arguments": bytes(members["arguments"]).decode()}))
    return raw if function.arguments else Raw(_write({**members, "arguments": "{}"}))


def _no_arguments(call: _Call) -> dict[str, Raw]:
    return {"index": Raw(b"%d" % call.index), "function": _NO_ARGUMENTS}


def _malformed(problem: str) -> UpstreamFailed:
    return UpstreamFailed(Failure(Fault.MALFORMED, f"a tool call in the stream {problem}"))
