"""The clients of a run: each asks one question and writes down all that it sees of the answer."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx2

from unbroken.chaos.blocks import OffsetReader
from unbroken.chaos.plan import Question, Reader
from unbroken.chaos.questions import ASKING, request_body
from unbroken.chaos.transcripts import Transcript
from unbroken.client.transport_clients import async_http_client
from unbroken.rules.resume import PASSING

PATIENCE = 60.0  # s: a client that waits longer than this for its answer says that it was lost
PAUSE = 0.1  # s between two attempts of a client that comes back by itself
STORE_UNAVAILABLE = (503, 529)  # D13, and how A5 says it
SILENCE = 30.0  # s of a line without a byte; keep-alives come far more often


class Clients:
    """Asks questions through the lines that are cut."""

    def __init__(self, root: str, key_prefix: str) -> None:
        """Idempotency keys begin with `key_prefix`."""
        self._root = root
        self._prefix = key_prefix
        self._plain = httpx2.AsyncClient(
            base_url=root, trust_env=False, timeout=SILENCE, limits=httpx2.Limits(max_keepalive_connections=0)
        )

    async def close(self) -> None:
        """Closes all lines."""
        await self._plain.aclose()

    async def ask(self, question: Question) -> list[Transcript]:
        """What each of the question's clients saw; they take as long as they take, up to their patience."""
        count = 2 if question.reader is Reader.TWINS else 1
        transcripts = [Transcript(question) for _ in range(count)]
        await asyncio.sleep(question.delay)
        await asyncio.gather(*(self._see_through(transcript) for transcript in transcripts))
        return transcripts

    async def _see_through(self, transcript: Transcript) -> None:
        readers: Mapping[Reader, Callable[[Transcript], Awaitable[None]]] = {
            Reader.RAW: self._read_raw,
            Reader.TWINS: self._read_raw,
            Reader.LEAVING: self._read_and_leave,
            Reader.RESUMING: self._read_resuming,
            Reader.WHOLE: self._read_resuming,
            Reader.BACKGROUND: self._look_until_done,
        }
        try:
            async with asyncio.timeout(PATIENCE):
                await readers[transcript.question.reader](transcript)
        except TimeoutError:
            transcript.trouble = f"the answer had not ended after {PATIENCE:g} s"

    # a reader that comes back by itself

    async def _read_raw(self, transcript: Transcript) -> None:
        while not await self._read_line(transcript):
            transcript.returns += 1
            await asyncio.sleep(PAUSE)

    async def _read_and_leave(self, transcript: Transcript) -> None:
        await self._read_raw(transcript)
        while transcript.has_left:
            with suppress(httpx2.TransportError):
                response = await self._plain.delete(f"/v1/streams/{transcript.stream}")
                if response.status_code not in PASSING:
                    transcript.trouble = "" if response.status_code == 200 else _refusal(response)
                    return
            await asyncio.sleep(PAUSE)

    async def _read_line(self, transcript: Transcript) -> bool:
        """Reads over one line; whether there is nothing more to come."""
        try:
            async with self._line(transcript) as response:
                if response.status_code != 200:
                    await response.aread()
                    return self._is_final(transcript, response)
                transcript.stream = response.headers.get("unbroken-stream", "")
                blocks = OffsetReader()
                async for data in response.aiter_raw():
                    transcript.seen += blocks.feed(data)
                    leaves_after = transcript.question.leaves_after
                    if leaves_after and len(transcript.seen) >= leaves_after:
                        transcript.has_left = True
                        return True
                return True
        except httpx2.TransportError:
            return False

    def _line(self, transcript: Transcript) -> Any:
        if transcript.stream:
            after = transcript.seen[-1].offset if transcript.seen else 0
            headers = {"accept": "text/event-stream", "last-event-id": str(after)}
            return self._plain.stream("GET", f"/v1/streams/{transcript.stream}", headers=headers)
        question = transcript.question
        headers = {"idempotency-key": self._key(question), "unbroken-durable": "true"}
        return self._plain.stream("POST", ASKING[question.dialect].path, json=request_body(question), headers=headers)

    def _is_final(self, transcript: Transcript, response: httpx2.Response) -> bool:
        if response.status_code in PASSING:
            return False
        if response.status_code == 404 and not transcript.seen:  # it failed before its first token, and is forgotten
            transcript.stream = ""
            return False
        transcript.trouble = _refusal(response)
        return True

    # a reader that has our transport, and asks again where an SDK does

    async def _read_resuming(self, transcript: Transcript) -> None:
        def resumed(_: object) -> None:
            transcript.returns += 1

        async with async_http_client(
            base_url=self._root, trust_env=False, patience=PATIENCE, timeout=SILENCE, on_resume=resumed
        ) as client:
            tries = 0
            while not await self._ask_as_sdk(client, transcript, tries):
                tries += 1
                await asyncio.sleep(PAUSE)

    async def _ask_as_sdk(self, client: httpx2.AsyncClient, transcript: Transcript, tries: int) -> bool:
        question = transcript.question
        headers = {"x-stainless-retry-count": str(tries)}
        if not question.is_streamed:  # of a streamed one the transport makes the key, and remembers it
            headers["idempotency-key"] = self._key(question)
        path = ASKING[question.dialect].path
        try:
            async with client.stream("POST", path, json=request_body(question), headers=headers) as response:
                if response.status_code != 200:
                    await response.aread()
                    transcript.error = _refusal(response)
                    transcript.stream = response.headers.get("unbroken-stream", "")
                    # The error that a stream ended with is told again whenever it is asked for (D8).
                    is_told_again = bool(transcript.stream) and response.status_code not in STORE_UNAVAILABLE
                    return is_told_again or response.status_code not in PASSING
                transcript.error = ""
                transcript.stream = response.headers.get("unbroken-stream", "")
                if not question.is_streamed:
                    await response.aread()
                    transcript.whole = ASKING[question.dialect].text(response.json())
                    return True
                blocks = OffsetReader()
                async for data in response.aiter_raw():
                    transcript.seen += blocks.feed(data)
                return True
        except httpx2.TransportError as error:
            if transcript.stream:  # an SDK does not ask again for an answer that has begun
                transcript.trouble = f"the transport gave the drop to its SDK: {error!r}"
            return bool(transcript.stream)

    # one that leaves its question to be worked at

    async def _look_until_done(self, transcript: Transcript) -> None:
        question = transcript.question
        asking = ASKING[question.dialect]
        response_id = ""
        while True:
            with suppress(httpx2.TransportError):
                if not response_id:
                    headers = {"idempotency-key": self._key(question)}
                    response = await self._plain.post(asking.path, json=request_body(question), headers=headers)
                else:
                    response = await self._plain.get(f"{asking.path}/{response_id}")
                if response.status_code == 200:
                    said = response.json()
                    response_id = said["id"]
                    transcript.stream = transcript.stream or response.headers.get("unbroken-stream", response_id)
                    if said["status"] not in ("queued", "in_progress"):
                        transcript.whole = asking.text(said) if said["status"] == "completed" else None
                        transcript.error = "" if said["status"] == "completed" else str(said.get("error"))
                        return
                elif response.status_code not in PASSING:
                    transcript.trouble = _refusal(response)
                    return
            transcript.returns += 1
            await asyncio.sleep(PAUSE)

    def _key(self, question: Question) -> str:
        return f"{self._prefix}-{question.number}"


def _refusal(response: httpx2.Response) -> str:
    return f"{response.status_code}: {response.text[:300]}"
