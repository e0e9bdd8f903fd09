"""From a request to the record of its stream and back: what another process needs to go on with the answer."""

from dataclasses import replace

import msgspec
from msgspec import Raw

from unbroken.chat.request import ChatRequest
from unbroken.chat.stream import StreamRecord
from unbroken.gateway.durability import Durability
from unbroken.gateway.production import Asked
from unbroken.gateway.questions import DIALECTS
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_chat.request import as_stream
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES

#: What an upstream's dialect may want to know of the client's headers.
KEPT_HEADERS = (b"anthropic-version", b"anthropic-beta")

_read_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_write = msgspec.json.Encoder().encode


def record_of(asked: Asked, *, is_streamed: bool, key_name: str, wished: Durability, fingerprint: str) -> StreamRecord:
    """What is written down of a durable answer when it is accepted."""
    request = asked.request
    return StreamRecord(
        id=asked.stream,
        key_name=key_name,
        dialect=asked.dialect.name,
        body=_write(request.fields),
        # The other dialects' answers repeat nothing.
        echo=_write(asked.echo) if asked.dialect is OPENAI_RESPONSES else b"",
        headers={
            name.decode(): asked.headers[name].decode("latin-1") for name in KEPT_HEADERS if name in asked.headers
        },
        created=asked.created,
        is_streamed=is_streamed,
        is_background=wished.is_background,
        orphan_grace=wished.orphan_grace,
        claim=wished.claim(key_name),
        fingerprint=fingerprint,
    )


def asked_again(record: StreamRecord) -> Asked:
    """What was asked, from the record of it."""
    dialect = DIALECTS[record.dialect]
    request = dialect.read_request(record.body)
    echo = _read_fields(record.echo) if record.echo else request.fields
    headers = {name.encode(): value.encode("latin-1") for name, value in record.headers.items()}
    return Asked(request, record.id, dialect, record.created, headers, echo)


def in_pieces(request: ChatRequest, dialect_name: str) -> ChatRequest:
    """The question asked for as a stream: that is what the log of a durable answer holds."""
    if request.stream:
        return request
    if dialect_name == OPENAI_CHAT.name:
        return as_stream(request)
    return replace(request, stream=True, fields={**request.fields, "stream": Raw(b"true")})
