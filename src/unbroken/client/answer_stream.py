"""One streamed answer, from the body of its response to events; a cut line is never an ending."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import httpx2

from unbroken.chat.events import Event, Failed, Finished, TextDelta
from unbroken.chat.fault import Fault, UpstreamFailed
from unbroken.client.complaints import broke_off
from unbroken.client.failure import ChatFailed
from unbroken.wire.dialects import EventReader
from unbroken.wire.openai_chat.errors import BY_CODE
from unbroken.wire.sse import EventTooLarge, SseReader

USAGE_TIMEOUT = 2.0  # s after the finish: some servers then neither send `[DONE]` nor close


class _Progress:
    """How much of an answer has come."""

    def __init__(self) -> None:
        self.characters = 0
        self.is_finished = False
        self.failure: Failed | None = None

    def take(self, events: Sequence[Event]) -> list[Event]:
        """The events up to a failure."""
        for position, event in enumerate(events):
            match event:
                case TextDelta(text):
                    self.characters += len(text)
                case Finished(_, choice=0):
                    self.is_finished = True
                case Failed():
                    self.failure = event
                    return list(events[:position])
        return list(events)

    def broken_by(self, why: str, fault: Fault) -> ChatFailed:
        return ChatFailed(broke_off(self.characters, why), fault)


async def read_events(response: httpx2.Response, reader: EventReader) -> AsyncGenerator[Sequence[Event]]:
    """The events of an answer, in groups as the network brings them; it ends only after the answer's finish.

    Raises:
        ChatFailed: the answer is not whole.
    """
    blocks, progress = SseReader(), _Progress()
    pieces = response.aiter_bytes()
    while not reader.is_complete:
        try:
            async with asyncio.timeout(USAGE_TIMEOUT if progress.is_finished else None):
                piece = await anext(pieces, None)
            if piece is None:
                break
        except (httpx2.HTTPError, TimeoutError) as error:
            if progress.is_finished:
                break  # only usage could still have come
            is_silent = isinstance(error, httpx2.TimeoutException)
            why = "the server fell silent" if is_silent else "the connection was cut"
            raise progress.broken_by(why, Fault.BETWEEN_TOKENS_TIMEOUT if is_silent else Fault.CUT) from None
        events: list[Event] = []
        malformed = None
        try:
            for block in blocks.feed(piece):
                events += reader.feed(block)
        except (UpstreamFailed, EventTooLarge) as error:
            malformed = str(error)
        if shown := progress.take(events):
            yield shown
        if progress.failure is not None:
            fault = BY_CODE.get(progress.failure.code or "", Fault.ERROR_EVENT)
            raise progress.broken_by(progress.failure.message, fault)
        if malformed is not None:
            raise progress.broken_by(malformed, Fault.MALFORMED)
    if not progress.is_finished:
        raise progress.broken_by("the stream ended without saying that the answer is finished", Fault.CUT)
