"""What upstreams say, as bytes, event by event and read by read."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.gateway.lane_steps import Read

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
#: The dialects of a client and its upstream between which there are lanes.
PAIRS = [("openai-chat", "openai-chat"), ("anthropic-messages", "openai-chat"), ("openai-chat", "anthropic-messages")]


def chat(members: bytes, finish: bytes = b"null", *, index: int = 0, more: bytes = b"") -> bytes:
    """The data of a chunk; `members` are its delta's."""
    choice = b'{"index":%d,"delta":{%b},"finish_reason":%b}' % (index, members, finish)
    head = b'{"id":"c1","object":"chat.completion.chunk","created":1,"model":"theirs","choices":['
    return b"%b%b]%b}" % (head, choice, more)


def chat_text(text: bytes) -> bytes:
    return chat(b'"content":%b' % text)


def message(type: bytes, members: bytes) -> bytes:
    return b'{"type":"%b",%b}' % (type, members)


def message_text(text: bytes, index: int = 0) -> bytes:
    return message(b"content_block_delta", b'"index":%d,"delta":{"type":"text_delta","text":%b}' % (index, text))


def data_line(data: bytes) -> bytes:
    return b"data: %b\n\n" % data


def named(data: bytes) -> bytes:
    """The event of a message, with its name."""
    return b"event: %b\ndata: %b\n\n" % (data.split(b'"')[3], data)


def chunk(body: bytes, size: str = "{:x}") -> bytes:
    return b"%b\r\n%b\r\n" % (size.format(len(body)).encode(), body)


CHAT_USAGE = b'"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}'
CHAT_BEGIN = [chat(b'"role":"assistant","content":""')]
CHAT_END = [chat(b"", b'"stop"'), b"[DONE]"]
MESSAGE_BEGIN = [
    message(b"message_start", b'"message":{"id":"m1","model":"theirs","content":[],"usage":{"input_tokens":3}}'),
    message(b"content_block_start", b'"index":0,"content_block":{"type":"text","text":""}'),
]
MESSAGE_END = [
    message(b"content_block_stop", b'"index":0'),
    message(b"message_delta", b'"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}'),
    b'{"type":"message_stop"}',
]


def words(*texts: str) -> list[bytes]:
    return [json.dumps(text).encode() for text in texts]


@dataclass(frozen=True)
class Upstream:
    """How a dialect's events are written."""

    begin: Sequence[bytes]
    end: Sequence[bytes]
    text: Callable[[bytes], bytes]
    write: Callable[[bytes], bytes]

    def events(self, *texts: str) -> list[bytes]:
        """An answer that says this, event by event."""
        return [self.write(data) for data in (*self.begin, *map(self.text, words(*texts)), *self.end)]

    def says(self, *texts: str) -> list[Read]:
        return [Read(chunk(self.write(self.text(text)))) for text in words(*texts)]

    @property
    def begins(self) -> list[Read]:
        return [Read(HEAD), *(Read(chunk(self.write(data))) for data in self.begin)]

    @property
    def ends(self) -> list[Read]:
        return [*(Read(chunk(self.write(data))) for data in self.end), Read(END)]


CHAT = Upstream(CHAT_BEGIN, CHAT_END, chat_text, data_line)
MESSAGES = Upstream(MESSAGE_BEGIN, MESSAGE_END, message_text, named)
UPSTREAMS = {"openai-chat": CHAT, "anthropic-messages": MESSAGES}
