"""What one choice of an answer has said, as its writer has to know it."""

from msgspec import Raw

from unbroken.chat.events import ToolCallStarted
from unbroken.chat.fault import Failure, Fault, UpstreamFailed
from unbroken.wire.openai_chat.tool_calls import MAX_CALLS, made_id
from unbroken.wire.url_citations import nested

MAX_REASONING = 4 << 20  # characters between two seals; far above what a model may think at once


class Call:
    """A tool call on its way to the client: its place there, and whether it has arguments."""

    def __init__(self, at: int, id: str, name: str) -> None:
        self.at, self.id, self.name = at, id, name
        self.has_arguments = False


class Spoken:
    """Keeps one choice's tool calls, its reasoning up to the next seal, and how it ended."""

    def __init__(self, index: int, seed: str) -> None:
        self.index = index
        self.has_refused = False
        self.sources = 0
        #: Thinking blocks said so far.
        self.blocks = 0
        self._seed = f"{seed}/{index}"
        self._calls: dict[int, Call] = {}
        self._reasoning: list[str] = []
        self._reasoning_size = 0

    def begin_call(self, event: ToolCallStarted) -> Call:
        """A call with its place among the calls, from 0, and an id where it has none.

        Raises:
            UpstreamFailed: there are too many.
        """
        at = len(self._calls)
        if at >= MAX_CALLS:
            raise UpstreamFailed(Failure(Fault.TOO_LARGE, f"more than {MAX_CALLS} tool calls in one answer"))
        call = self._calls[event.index] = Call(at, event.id or made_id(self._seed, at), event.name)
        return call

    def call(self, index: int) -> Call:
        """The call that was begun as `index`; raises UpstreamFailed where none was."""
        if (call := self._calls.get(index)) is None:
            raise UpstreamFailed(Failure(Fault.MALFORMED, f"tool call {index} has arguments before its name"))
        return call

    def calls_without_arguments(self) -> list[Call]:
        """The calls that got no arguments at all: theirs are `{}`."""
        return [call for call in self._calls.values() if not call.has_arguments]

    def reason_on(self, text: str) -> None:
        """Keeps a piece of reasoning; raises UpstreamFailed past the bound."""
        self._reasoning_size += len(text)
        if self._reasoning_size > MAX_REASONING:
            raise UpstreamFailed(Failure(Fault.TOO_LARGE, f"more than {MAX_REASONING} characters of reasoning"))
        self._reasoning.append(text)

    def seal(self, signature: str | None) -> dict[str, object]:
        """The thinking block that ends the reasoning so far."""
        text, self._reasoning, self._reasoning_size = "".join(self._reasoning), [], 0
        block: dict[str, object] = {"type": "thinking", "thinking": text}
        if signature is not None:
            block["signature"] = signature
        return block

    @property
    def has_unsealed(self) -> bool:
        """Whether reasoning was said that no seal has followed."""
        return self._reasoning_size > 0


def placed(source: Raw) -> tuple[str, Raw]:
    """The member that tells of a source, and the source as this dialect says it; others go beside, as `citations`."""
    return ("annotations", nested(source)) if is_annotation(source) else ("citations", source)


def is_annotation(source: Raw) -> bool:
    """Whether a source is what this dialect calls an annotation."""
    data = bytes(source)
    return data.startswith(b"{") and b'"url_citation"' in data


def with_index(source: Raw, index: int) -> Raw:
    """A source as an entry of a delta's list, where a widely used SDK joins entries by their `index`."""
    data = bytes(source).lstrip()
    if not data.startswith(b"{"):
        return source
    rest = data[1:].lstrip()
    return Raw(b'{"index":%d%b%b' % (index, b"" if rest.startswith(b"}") else b",", rest))
