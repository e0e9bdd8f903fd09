"""Going on with an engine's answer from the very token ids that were sent: the first tier of K1."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from unbroken.chat.events import Event, Finished, UsageReported
from unbroken.chat.fault import Fault, UpstreamFailed
from unbroken.chat.finish import FinishReason
from unbroken.chat.usage import Usage
from unbroken.upstream.http import HttpClient
from unbroken.upstream.sinks import WholeResponse
from unbroken.wire.llama_cpp.ask import (
    is_greedy,
    stop_sequences,
    tokens_left,
    why_inexact,
    write_completion,
    write_repetition,
)
from unbroken.wire.llama_cpp.completion import CompletionReader
from unbroken.wire.llama_cpp.note import HeldBack, read_note
from unbroken.wire.llama_cpp.noting import TOKENS_QUESTION

COMPLETION_PATH = "//completion"  # llama.cpp's own routes are at its root

PREPARING_SECONDS = 10.0  # for what the engine does in milliseconds, but for repetitions, which wait for a slot

#: Pieces whose ids are found by having the model say them again; each costs a request and a few tokens.
MAX_REPETITIONS = 32

_BETWEEN = -1  # no token: llama.cpp hands ids on as they are, so it tells where one text ends

T = TypeVar("T")

_write = msgspec.json.Encoder().encode
_read_fields = msgspec.json.Decoder(dict[str, Raw]).decode


@dataclass(frozen=True, slots=True)
class ExactQuestion:
    """What the engine is asked so that it goes on, and who reads its answer and notes the tokens of it."""

    path: str
    body: bytes
    reader: CompletionReader


@dataclass(frozen=True, slots=True)
class ExactEnd:
    """All of the answer had been sent but its end: these are the events of it, and nobody need be asked."""

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Inexact:
    """The answer cannot go on from its tokens, and why: the next tier's turn."""

    reason: str


class _Prompt(Struct):
    prompt: str


class _Tokens(Struct):
    tokens: list[int]


class _Text(Struct):
    content: str


class _Refused(Exception):
    """What the engine was asked in preparation has no answer of use."""


async def exact_question(
    client: HttpClient, body: bytes, note: bytes, sent: str, *, seconds: float = PREPARING_SECONDS
) -> ExactQuestion | ExactEnd | Inexact:
    """How an engine goes on with the answer to `body` (Chat Completions, as it was sent to an engine).

    `note` are all notes of the answer's tokens so far, `sent` is its text so far. Nothing is assumed of the engine
    but that it runs: ids that do not say exactly `sent` with its vocabulary are refused.

    Raises:
        UpstreamFailed: the connection to the engine broke.
    """
    # Whoever asks for what we ask for is not asked about tokens: then there is no note.
    fields = {name: value for name, value in _read_fields(body).items() if name not in TOKENS_QUESTION}
    if (reason := why_inexact(fields)) is not None:
        return Inexact(reason)
    tokens = read_note(note)
    if not tokens:
        return Inexact("no tokens have been noted" if tokens is not None else "not only text was said")
    try:
        async with asyncio.timeout(seconds):
            return await _Preparation(client, fields, body).go_on(tokens, sent)
    except _Refused as refused:
        return Inexact(str(refused))
    except TimeoutError:
        return Inexact(f"the engine was not ready to go on within {seconds:g} s")


class _Preparation:
    """The calls to the engine before it is asked to go on."""

    def __init__(self, client: HttpClient, fields: Mapping[str, Raw], body: bytes) -> None:
        self._client = client
        self._fields = fields
        self._body = body

    async def go_on(self, tokens: Sequence[int | HeldBack], sent: str) -> ExactQuestion | ExactEnd:
        """What is asked, once the ids are known and say what was sent."""
        prompt = (await self._call("//apply-template", self._body, _Prompt)).prompt
        ids = await self._find_ids(prompt, tokens)
        said = (await self._call("//detokenize", _write({"tokens": ids}), _Text)).content
        left = tokens_left(self._fields, len(ids))
        if said != sent:
            if not self._has_stopped(said, sent):
                raise _Refused("the tokens that were noted do not say what was sent")
            return await self._end(FinishReason.STOP, prompt, ids)
        if left is not None and left <= 0:
            return await self._end(FinishReason.LENGTH, prompt, ids)
        body = write_completion(self._fields, prompt, ids, left=left)
        return ExactQuestion(COMPLETION_PATH, body, CompletionReader(len(ids)))

    def _has_stopped(self, said: str, sent: str) -> bool:
        """Whether what was said beyond what was sent begins with a stop sequence: then it was not to be sent."""
        return said.startswith(sent) and any(said.startswith(stop, len(sent)) for stop in stop_sequences(self._fields))

    async def _end(self, reason: FinishReason, prompt: str, ids: Sequence[int]) -> ExactEnd:
        body = _write({"content": prompt, "add_special": True, "parse_special": True})
        counted = await self._call("//tokenize", body, _Tokens)
        return ExactEnd((Finished(reason), UsageReported(Usage(input=len(counted.tokens), output=len(ids)))))

    async def _find_ids(self, prompt: str, tokens: Sequence[int | HeldBack]) -> list[int]:
        """The ids of all tokens: those of a piece that was held back are found, not told."""
        pieces = [token for token in tokens if isinstance(token, HeldBack)]
        found = iter(await self._tokenize(pieces) if pieces else [])
        ids: list[int] = []
        repetitions = 0
        for token in tokens:
            if isinstance(token, int):
                ids.append(token)
                continue
            usual = next(found)
            if not _fits(usual, token):
                repetitions += 1
                if repetitions > MAX_REPETITIONS or not is_greedy(self._fields):
                    raise _Refused("the ids of a piece that the engine had held back cannot be told")
                usual = await self._repeat(prompt, ids, token)
            ids += usual
        return ids

    async def _tokenize(self, pieces: Sequence[HeldBack]) -> list[list[int]]:
        """The usual tokens of each piece."""
        content: list[str | int] = []
        for piece in pieces:
            content += [piece.text, _BETWEEN]
        found: list[list[int]] = [[]]
        for id in (await self._call("//tokenize", _write({"content": content}), _Tokens)).tokens:
            if id == _BETWEEN:
                found.append([])
            else:
                found[-1].append(id)
        if len(found) != len(pieces) + 1:
            raise _Refused("the engine does not tell the tokens of several texts apart")
        return found

    async def _repeat(self, prompt: str, ids: Sequence[int], piece: HeldBack) -> list[int]:
        """The tokens of a piece that the model makes in no usual way, as it says them again."""
        body = write_repetition(self._fields, prompt, ids, count=piece.count)
        repeated = (await self._call(COMPLETION_PATH, body, _Tokens)).tokens
        if not _fits(repeated, piece):
            raise _Refused("the model does not say again what it has said")
        return repeated

    async def _call(self, path: str, body: bytes, type: type[T]) -> T:
        try:
            status, answer = await self._post(path, body)
        except UpstreamFailed as failed:
            if failed.failure.fault is not Fault.STALE:
                raise
            status, answer = await self._post(path, body)  # nobody has seen the first one
        if status != 200:
            raise _Refused(f"the engine answers {status} at {path[1:]}")
        try:
            return msgspec.json.decode(answer, type=type)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _Refused(f"the engine's answer at {path[1:]} is not what was expected") from None

    async def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        sink = WholeResponse()
        connection = await self._client.post(path, body, sink, accept="application/json")
        try:
            return await sink.complete
        except BaseException:
            connection.close()
            raise


def _fits(ids: Sequence[int], piece: HeldBack) -> bool:
    return len(ids) == piece.count and ids[-1] == piece.last
