"""The parts of a message as content blocks."""

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Raw

from unbroken.chat.conversation import (
    Audio,
    Document,
    Image,
    Part,
    Refusal,
    SealedThinking,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from unbroken.chat.error import RequestRefused, invalid

Written = dict[str, Any]

_DATA_URL = re.compile(r"data:(?P<type>[^;,]*)(?:;[^;,]*)*?(?P<base64>;base64)?,(?P<data>.*)", re.DOTALL | re.I)

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

_CITATIONS = frozenset(
    ["char_location", "page_location", "content_block_location", "web_search_result_location", "search_result_location"]
)

_CALL_ID = re.compile(r"[a-zA-Z0-9_-]+")

_read_object = msgspec.json.Decoder(dict[str, Raw]).decode
_read_citations = msgspec.json.Decoder(list[dict[str, Any]]).decode


class PartWriter:
    """Writes parts, and notes by name what it had to leave out."""

    def __init__(self) -> None:
        self.dropped: list[str] = []

    def write(self, parts: Sequence[Part], path: str) -> list[Written]:
        """The blocks of the parts; a part that is empty has none, since the API refuses empty texts.

        Raises:
            RequestRefused: a part has no word in this dialect.
        """
        written = (self._write(part, f"{path}.{at}") for at, part in enumerate(parts))
        return [block for block in written if block is not None]

    def _write(self, part: Part, path: str) -> Written | None:
        match part:
            case Text():
                return self._write_text(part, path)
            case Refusal(text):
                return {"type": "text", "text": text} if text else None
            case Image():
                return self._write_image(part, path)
            case Document():
                return _write_document(part, path)
            case Thinking(text, signature):
                if signature is None:  # without its seal the provider does not take it back
                    self.dropped.append(path)
                    return None
                return {"type": "thinking", "thinking": text, "signature": signature}
            case SealedThinking(data):
                return {"type": "redacted_thinking", "data": data}
            case ToolCall():
                return _write_call(part, path)
            case ToolResult():
                return self._write_result(part, path)
            case Audio():
                raise _no_word(path, "audio")

    def _write_text(self, text: Text, path: str) -> Written | None:
        if not text.text:
            return None
        block: Written = {"type": "text", "text": text.text}
        if text.citations is not None:
            if _is_ours(text.citations):
                block["citations"] = text.citations
            else:
                self.dropped.append(f"{path}.citations")
        return _cached(block, text.cache)

    def _write_image(self, image: Image, path: str) -> Written:
        if image.detail not in (None, "auto"):
            self.dropped.append(f"{path}.detail")
        data, media_type = image.data, image.media_type
        if image.url is not None and (found := _DATA_URL.fullmatch(image.url)):
            if not found["base64"]:
                raise invalid(f"{path}: a data URL of an image must be base64", param=path)
            data, media_type = found["data"], found["type"].lower()
        if data is None:
            if image.url is None:
                raise invalid(f"{path}: an image needs a url or data", param=path)
            return _cached({"type": "image", "source": {"type": "url", "url": image.url}}, image.cache)
        if media_type == "image/jpg":
            media_type = "image/jpeg"  # what many clients call it
        if media_type not in _IMAGES:
            raise invalid(f"{path}: images of the type {media_type or 'unknown'} cannot be read by Claude", param=path)
        source = {"type": "base64", "media_type": media_type, "data": data}
        return _cached({"type": "image", "source": source}, image.cache)

    def _write_result(self, result: ToolResult, path: str) -> Written:
        block: Written = {"type": "tool_result", "tool_use_id": call_id(result.call_id)}
        match result.parts:
            case (Text(text, None, None),) if text:
                block["content"] = text
            case parts:
                if content := self.write(parts, f"{path}.content"):
                    block["content"] = content
        if result.is_error:
            block["is_error"] = True
        return _cached(block, result.cache)


def call_id(id: str) -> str:
    """A call's id as the API takes it: ids with other characters become one of the same meaning, always the same."""
    if _CALL_ID.fullmatch(id):
        return id
    return f"toolu_{blake2b(id.encode(errors='surrogatepass'), digest_size=12).hexdigest()}"


def _write_document(document: Document, path: str) -> Written:
    source: Written
    if document.text is not None:
        source = {"type": "text", "media_type": "text/plain", "data": document.text}
    elif document.url is not None and not document.url.startswith("data:"):
        source = {"type": "url", "url": document.url}
    elif document.file_id is not None:
        source = {"type": "file", "file_id": document.file_id}
    else:
        source = _base64_document(document, path)
    block: Written = {"type": "document", "source": source}
    if document.name is not None:
        block["title"] = document.name
    return _cached(block, document.cache)


def _base64_document(document: Document, path: str) -> Written:
    data, media_type = document.data, document.media_type
    if found := _DATA_URL.fullmatch(document.url or data or ""):  # some say it as a URL where data is asked for
        data, media_type = (found["data"] if found["base64"] else None), found["type"].lower()
    if data is None:
        raise invalid(f"{path}: a document needs a url, base64 data, text or a file_id", param=path)
    if media_type is None and (document.name or "").lower().endswith(".pdf"):
        media_type = "application/pdf"
    if media_type != "application/pdf":
        problem = f"documents of the type {media_type or 'unknown'} cannot be read by Claude as data: only PDF can"
        raise invalid(f"{path}: {problem}", param=path)
    return {"type": "base64", "media_type": media_type, "data": data}


def _write_call(call: ToolCall, path: str) -> Written:
    arguments = call.arguments.strip() or "{}"
    try:
        _read_object(arguments)
    except (msgspec.DecodeError, RecursionError):
        raise invalid(f'{path}: the arguments of the call "{call.id}" are not a JSON object', param=path) from None
    block = {"type": "tool_use", "id": call_id(call.id), "name": call.name, "input": Raw(arguments.encode())}
    return _cached(block, call.cache)


def _cached(block: Written, cache: Raw | None) -> Written:
    return block if cache is None else {**block, "cache_control": cache}


def _is_ours(citations: Raw) -> bool:
    """Whether these are citations of this dialect, which another provider's are not."""
    try:
        return all(citation.get("type") in _CITATIONS for citation in _read_citations(citations))
    except (msgspec.DecodeError, TypeError):
        return False


def _no_word(path: str, what: str) -> RequestRefused:
    return invalid(f"{path}: {what} cannot be said in Anthropic's Messages API", param=path)
