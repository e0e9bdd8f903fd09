"""A client of any server that speaks OpenAI's Chat Completions, streaming."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2
import msgspec

from unbroken.chat.events import Event
from unbroken.chat.fault import Fault
from unbroken.client import complaints
from unbroken.client.answer_stream import read_events
from unbroken.client.failure import ChatFailed
from unbroken.client.models import Model, read_model, read_models
from unbroken.client.resume import Resumed
from unbroken.client.stream_list import StreamLine, read_streams
from unbroken.client.transport_clients import async_http_client
from unbroken.client.transport_question import ATTACH
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.dialects import Dialect
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_chat.errors import read_error
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES

CONNECT_TIMEOUT = 5.0  # s
SILENCE_TIMEOUT = 600.0  # s, as the official SDKs: a large prompt on a small machine is silent for minutes
DIALECTS: tuple[Dialect, ...] = (OPENAI_CHAT, ANTHROPIC_MESSAGES, OPENAI_RESPONSES)
MAX_BODY_BYTES = 4 << 20  # of an answer that is no stream: lists of models are far smaller

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the model is asked to answer; None leaves it to the server."""

    max_tokens: int | None = None
    temperature: float | None = None


class ChatApi:
    """The models and answers of the server at one base URL; used as `async with ChatApi(url) as api:`."""

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        #: How often an answer went on after its line had dropped.
        self.resumed = 0
        self._api_key = api_key
        headers = {"accept-encoding": "identity"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        try:
            self._client: httpx2.AsyncClient = async_http_client(
                on_resume=self._count,
                headers=headers,
                follow_redirects=False,
                timeout=httpx2.Timeout(SILENCE_TIMEOUT, connect=CONNECT_TIMEOUT),
                trust_env=not _is_loopback(self.base_url),  # no proxy leads to this machine
            )
        except (UnicodeEncodeError, httpx2.LocalProtocolError):
            raise ChatFailed("The API key has characters that no key has.", Fault.UNAUTHORIZED) from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def models(self) -> list[Model]:
        """The models that can be asked, in the server's order; raises ChatFailed."""
        body = await self._get("/models")
        try:
            return read_models(body)
        except msgspec.DecodeError:
            message = f"{self.base_url}/models is no list of models. {complaints.URL_HINT}"
            raise ChatFailed(message, Fault.MALFORMED) from None

    async def model(self, name: str) -> Model:
        """What the server says about one model; only its name where it says nothing."""
        try:
            return read_model(await self._get(f"/models/{quote(name, safe='/:@')}"))
        except (ChatFailed, msgspec.DecodeError):
            return Model(name)

    async def stream_chat(
        self, messages: Sequence[Message], model: str, sampling: Sampling | None = None
    ) -> AsyncGenerator[Sequence[Event]]:
        """The answer's events, in groups as the network brings them; closing the iterator closes the connection.

        It ends only after the answer's finish.

        Raises:
            ChatFailed: the server cannot be asked, refuses, or the answer is not whole.
        """
        body = _body(messages, model, sampling or Sampling())
        response = await self._send("POST", "/chat/completions", body)
        try:
            if response.status_code != 200:
                raise await self._refusal(response, model)
            kind = response.headers.get("content-type", "").partition(";")[0].strip()
            if kind != "text/event-stream":
                raise await self._not_a_stream(response, kind)
            async with aclosing(read_events(response, OPENAI_CHAT.event_reader())) as groups:
                async for events in groups:
                    yield events
        finally:
            await response.aclose()

    async def streams(self) -> list[StreamLine]:
        """The caller's durable streams that have not ended, in the server's order; raises ChatFailed."""
        body = await self._get("/streams")
        try:
            return read_streams(body)
        except msgspec.DecodeError:
            message = f"{self.base_url}/streams is no list of streams: the server is not Unbroken."
            raise ChatFailed(message, Fault.MALFORMED) from None

    async def attach(self, stream: str) -> AsyncGenerator[Sequence[Event]]:
        """The events of a durable stream from its beginning, as `stream_chat` gives them; leaving it cancels nothing.

        Raises:
            ChatFailed: the server cannot be asked, has no such stream, or its answer is not whole.
        """
        dialect = next((known for known in DIALECTS if stream.startswith(known.id_prefix)), OPENAI_CHAT)
        path = f"/streams/{quote(stream, safe='')}"
        response = await self._send("GET", path, accept="text/event-stream", extensions={ATTACH: dialect.path})
        try:
            if response.status_code != 200:
                body = await self._read_body(response)
                failure = read_error(response.status_code, _kind(response), body, secret=self._api_key or "")
                raise ChatFailed(complaints.refused(self.base_url, failure), failure.fault)
            async with aclosing(read_events(response, dialect.event_reader())) as groups:
                async for events in groups:
                    yield events
        finally:
            await response.aclose()

    def _count(self, _: Resumed) -> None:
        self.resumed += 1

    async def _send(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        accept: str | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> httpx2.Response:
        headers = {"content-type": "application/json", "accept": "text/event-stream"} if content else {}
        if accept:
            headers["accept"] = accept
        try:
            request = self._client.build_request(
                method, self.base_url + path, content=content, headers=headers, extensions=dict(extensions or {})
            )
            return await self._client.send(request, stream=True)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            fault = Fault.CONNECT if isinstance(error, httpx2.ConnectError) else Fault.RESET
            raise ChatFailed(complaints.cannot_reach(self.base_url, error), fault) from None

    async def _get(self, path: str) -> bytes:
        response = await self._send("GET", path)
        try:
            body = await self._read_body(response)
        finally:
            await response.aclose()
        if response.status_code != 200:
            failure = read_error(response.status_code, _kind(response), body, secret=self._api_key or "")
            said = complaints.refused(self.base_url, failure)
            if response.status_code == 404:
                said = complaints.no_api(self.base_url, failure)
            raise ChatFailed(said, failure.fault)
        return body

    async def _read_body(self, response: httpx2.Response) -> bytes:
        body = b""
        try:
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    break
        except httpx2.HTTPError as error:
            raise ChatFailed(complaints.cannot_reach(self.base_url, error), Fault.RESET) from None
        return body

    async def _refusal(self, response: httpx2.Response, model: str) -> ChatFailed:
        body = await self._read_body(response)
        failure = read_error(response.status_code, _kind(response), body, secret=self._api_key or "")
        if response.status_code == 404:
            return ChatFailed(
                complaints.no_such_model(self.base_url, failure, model, await self._model_names()), failure.fault
            )
        message = complaints.refused(self.base_url, failure, retry_after=response.headers.get("retry-after"))
        return ChatFailed(message, failure.fault)

    async def _model_names(self) -> list[str] | None:
        try:
            return [model.name for model in await self.models()]
        except ChatFailed:
            return None

    async def _not_a_stream(self, response: httpx2.Response, kind: str) -> ChatFailed:
        body = await self._read_body(response)
        if kind == "application/json" and b'"error"' in body:
            failure = read_error(502, kind, body, secret=self._api_key or "")
            return ChatFailed(f"{self.base_url} answered: {failure.message}", failure.fault)
        message = f"{self.base_url} answered with {kind or 'something unnamed'} and not with a stream."
        return ChatFailed(f"{message} {complaints.URL_HINT}", Fault.MALFORMED)


def _body(messages: Sequence[Message], model: str, sampling: Sampling) -> bytes:
    fields: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
    }
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})


def _kind(response: httpx2.Response) -> str:
    return str(response.headers.get("content-type", ""))


def _is_loopback(url: str) -> bool:
    try:
        host = httpx2.URL(url).host
    except httpx2.InvalidURL:
        return False
    return host in ("localhost", "::1") or host.startswith("127.")
