"""Sources on the web, which OpenAI's two dialects say alike but for one level: Chat Completions puts it in a member.

`{"type": "url_citation", "url_citation": {"url": …}}` there is `{"type": "url_citation", "url": …}` in Responses.
"""

import msgspec
from msgspec import Raw

_KIND = "url_citation"

_read = msgspec.json.Decoder(dict[str, Raw]).decode
_write = msgspec.json.Encoder().encode


def nested(source: Raw) -> Raw:
    """A source as Chat Completions says it; one that is no such source, or is so already, stays as it came."""
    members = _read(source)
    if _KIND in members or members.get("type") != _TYPE:
        return source
    inner = {name: raw for name, raw in members.items() if name != "type"}
    return Raw(_write({"type": _TYPE, _KIND: inner}))


def flat(source: Raw) -> Raw:
    """A source as Responses says it; one that is no such source, or is so already, stays as it came."""
    members = _read(source)
    if members.get("type") != _TYPE or _KIND not in members:
        return source
    return Raw(_write({"type": _TYPE, **_read(members[_KIND])}))


_TYPE = Raw(_write(_KIND))
