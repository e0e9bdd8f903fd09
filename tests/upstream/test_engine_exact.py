"""Answers of the real engine, cut at every token and gone on with from the tokens sent: the same as in one go (K1)."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unbroken.chat.events import Event, Finished, TextDelta, UsageReported
from unbroken.chat.stream import Block
from unbroken.gateway.exact import ExactEnd, ExactQuestion, Inexact, exact_question
from unbroken.settings.engine import EngineSettings
from unbroken.upstream.engine import DEMO_MODEL, Engine
from unbroken.upstream.engine_state import EngineAddress
from unbroken.upstream.http import HttpClient
from unbroken.upstream.sinks import WholeResponse
from unbroken.wire.dialects import Answering
from unbroken.wire.llama_cpp.ask import why_inexact
from unbroken.wire.llama_cpp.completion import CompletionReader
from unbroken.wire.llama_cpp.note import HeldBack, read_note
from unbroken.wire.llama_cpp.noting import TOKENS_QUESTION, TokenNotingRelay
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.sse import SseReader

pytestmark = pytest.mark.anyio

SECONDS = 60.0  # for what takes a fraction of one on a quiet machine

ANSWERING = Answering("chatcmpl-1", "demo", 1_700_000_000, include_usage=True)

PROMPTS = [
    "Explain quantum computing in simple terms.",  # ends in a character of four tokens
    "Write a one-sentence bedtime story about a unicorn.",  # and this one
    "Write a haiku about the sea.",
    "Count from 1 to 20",
    "List 5 EU countries",
]


@dataclass(frozen=True, slots=True)
class Said:
    """An answer as far as it has come: the events that a client saw of it, and the note of its tokens."""

    events: tuple[Event, ...] = ()
    note: bytes = b""

    @property
    def text(self) -> str:
        """Its text."""
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def end(self) -> tuple[Event, ...]:
        """How it ended and what it used, but for what was found in a cache."""
        last = [event for event in self.events if isinstance(event, Finished | UsageReported)]
        return tuple(
            UsageReported(msgspec.structs.replace(event.usage, cached_read=0))
            if isinstance(event, UsageReported)
            else event
            for event in last
        )

    def and_then(self, more: "Said") -> "Said":
        """This, and more behind it."""
        return Said(self.events + more.events, self.note + more.note)


@asynccontextmanager
async def engine_running(path: Path) -> AsyncIterator[Engine]:
    engine = Engine("local", EngineSettings(path=str(path)))
    await engine.start()
    try:
        await engine.wait_until_ready(SECONDS)
        yield engine
    finally:
        await engine.stop()


def client_of(address: EngineAddress | None) -> HttpClient:
    assert address is not None
    return HttpClient(
        address.base_url, headers={"authorization": f"Bearer {address.key}"}, unix_path=address.path, idle_seconds=4.0
    )


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    """A client of an engine that runs the demo model."""
    async with engine_running(DEMO_MODEL) as engine:
        client = client_of(engine.address)
        yield client
        client.close()


def asking(text: str, **fields: Any) -> bytes:
    """The body of a greedy request as the engine gets it."""
    wanted = {"model": "demo", "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
    request = OPENAI_CHAT.read_request(json.dumps({**wanted, "stream": True}).encode())
    assert why_inexact(request.fields) is None
    return OPENAI_CHAT.write_request(request, model="demo", ask_usage=True, more=TOKENS_QUESTION)


async def post(client: HttpClient, path: str, body: bytes) -> bytes:
    client.close_idle()  # llama.cpp closes the connection behind a stream
    sink = WholeResponse()
    await client.post(path, body, sink)
    status, answer = await sink.complete
    assert status == 200, answer
    return answer


async def ask(client: HttpClient, body: bytes) -> list[Said]:
    """What the client sees and what is noted, block by block."""
    relay = TokenNotingRelay(OPENAI_CHAT.relay(ANSWERING, secret="", ours=None))
    reader = OPENAI_CHAT.event_reader()

    def seen(blocks: Sequence[Block]) -> tuple[Event, ...]:
        return tuple(said for event in SseReader().feed(b"".join(blocks)) for said in reader.feed(event))

    answer = await post(client, OPENAI_CHAT.path, body)
    steps = [Said(seen(relay.feed(event)), relay.take_note()) for event in SseReader().feed(answer)]
    return [step for step in steps if step.events]


def so_far(steps: Sequence[Said]) -> Said:
    """All steps as one."""
    said = Said()
    for step in steps:
        said = said.and_then(step)
    return said


async def go_on(client: HttpClient, body: bytes, said: Said) -> list[Said]:
    """The rest of an answer that was cut, step by step."""
    question = await exact_question(client, body, said.note, said.text)
    if isinstance(question, ExactEnd):
        return [Said(question.events)]
    assert isinstance(question, ExactQuestion), question
    reader: CompletionReader = question.reader
    answer = await post(client, question.path, question.body)
    steps = [Said(tuple(reader.feed(event)), reader.take_note()) for event in SseReader().feed(answer)]
    assert reader.is_complete
    return steps


def cuts(steps: Sequence[Said]) -> list[int]:
    """Where an answer can be cut: behind each piece of its text, so that its end is still to come."""
    return [at + 1 for at, step in enumerate(steps) if any(isinstance(event, TextDelta) for event in step.events)]


async def held_against_one_go(client: HttpClient, body: bytes) -> int:
    """Cuts an answer behind every piece and compares what it becomes with the whole; gives the number of cuts."""
    steps = await ask(client, body)
    whole = so_far(steps)
    places = cuts(steps)
    for place in places:
        sent = so_far(steps[:place])
        became = sent.and_then(so_far(await go_on(client, body, sent)))
        assert (became.text, became.end) == (whole.text, whole.end), f"cut behind {sent.text!r}"
    return len(places)


async def test_a_greedy_answer_cut_anywhere_becomes_what_it_is_in_one_go(client: HttpClient) -> None:
    """K1, exact: text, finish and usage, over hundreds of cuts."""
    places = [await held_against_one_go(client, asking(prompt, max_tokens=150)) for prompt in PROMPTS]
    assert sum(places) > 300


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 1},
        {"max_completion_tokens": 9, "max_tokens": 3},
        {"stop": ["superposition"]},
        {"stop": "bits, \n", "max_tokens": 60},  # never whole, but its beginning is held back again and again
        {"cache_prompt": False, "max_tokens": 60},  # all is computed anew, in one go, as in another process
        {"frequency_penalty": 1.5, "presence_penalty": 0.5, "max_tokens": 40},
        {"repeat_penalty": 1.3, "top_k": 5, "logit_bias": {"37": -1}, "max_tokens": 40},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}
        | {"tool_choice": "none", "max_tokens": 12},
    ],
    ids=str,
)
async def test_settings_hold_across_the_cut(client: HttpClient, fields: dict[str, Any]) -> None:
    """K5: limits are carried over, and so are stop sequences and penalties, which count what was said before."""
    assert await held_against_one_go(client, asking(PROMPTS[0], **fields)) >= 1


async def test_an_answer_to_a_begun_message_goes_on(client: HttpClient) -> None:
    body = asking("Count from 1 to 20", max_tokens=20)
    begun = json.loads(body)
    begun["messages"].append({"role": "assistant", "content": "1, 2, 3,"})
    assert await held_against_one_go(client, json.dumps(begun).encode()) > 10


async def test_an_answer_that_is_cut_again_and_again_goes_on(client: HttpClient) -> None:
    """Each continuation notes its own tokens, held back ones too."""
    body = asking(PROMPTS[1])
    whole = so_far(await ask(client, body))
    said, attempts = so_far((await ask(client, body))[:3]), 0
    while not said.end:
        rest = await go_on(client, body, said)
        piece = next((place for place in cuts(rest)[2:]), len(rest))
        said = said.and_then(so_far(rest[:piece]))
        attempts += 1
    assert attempts > 5
    assert (said.text, said.end) == (whole.text, whole.end)


async def test_an_answer_goes_on_in_the_process_that_follows_a_killed_engine() -> None:
    async with engine_running(DEMO_MODEL) as engine:
        body = asking(PROMPTS[0])
        steps = await ask(client_of(engine.address), body)
        whole, sent, killed = so_far(steps), so_far(steps[:40]), engine.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        async with asyncio.timeout(SECONDS):
            while engine.address is not None:  # until the death is noticed
                await asyncio.sleep(0)
            await engine.wait_until_ready()
        became = sent.and_then(so_far(await go_on(client_of(engine.address), body, sent)))
        assert (became.text, became.end) == (whole.text, whole.end)


async def test_a_sampled_answer_goes_on_from_the_same_tokens(client: HttpClient) -> None:
    """Not with the same chance, but behind the very tokens, and within the limit."""
    body = asking(PROMPTS[0], temperature=1.2, seed=7, max_tokens=60, ignore_eos=True)
    sent = so_far((await ask(client, body))[:20])
    became = sent.and_then(so_far(await go_on(client, body, sent)))
    assert isinstance(became.end[1], UsageReported)
    assert became.end[1].usage.output == 60


async def test_noting_the_tokens_changes_nothing_that_the_client_sees(client: HttpClient) -> None:
    """C1: the blocks are those of a relay whose upstream was asked nothing more."""
    noted, plain = asking(PROMPTS[0]), json.loads(asking(PROMPTS[0]))
    for name in TOKENS_QUESTION:
        del plain[name]
    relays = (
        TokenNotingRelay(OPENAI_CHAT.relay(ANSWERING, secret="", ours=None)),
        OPENAI_CHAT.relay(ANSWERING, secret="", ours=None),
    )
    seen = []
    for relay, body in zip(relays, (noted, json.dumps(plain).encode()), strict=True):
        answer = await post(client, OPENAI_CHAT.path, body)
        blocks = [block for event in SseReader().feed(answer) for block in relay.feed(event)]
        seen.append([without_the_hour(block) for block in blocks])
    assert seen[0] == seen[1]


def without_the_hour(block: Block) -> bytes:
    """A block without what differs from one question to the next: times, and what was in the cache."""
    data = block.removeprefix(b"data: ").strip()
    if data == b"[DONE]":
        return data
    said = json.loads(data)
    said.pop("timings", None)
    said.pop("created")
    usage = said.get("usage") or {}
    usage.pop("prompt_tokens_details", None)
    return json.dumps(said).encode()


async def test_characters_in_unusual_tokens_are_said_again_to_learn_their_ids(
    write_model: Callable[..., Path],
) -> None:
    """The model says é in two tokens where its tokenizer makes four: no text tells the ids, the model does."""
    async with engine_running(write_model()) as engine:
        client = client_of(engine.address)
        body = asking("<greet>")
        steps = await ask(client, body)
        noted = read_note(so_far(steps).note)
        assert noted == [259, HeldBack(" é ", 2, 261), HeldBack("🌊", 2, 263), 264]
        assert await held_against_one_go(client, body) == 4
        sent = so_far(steps[:-2])
        sampled = asking("<greet>", temperature=1)
        assert await exact_question(client, sampled, sent.note, sent.text) == Inexact(
            "the ids of a piece that the engine had held back cannot be told"
        )


async def test_a_stop_sequence_that_cut_a_token_in_two_is_the_end(write_model: Callable[..., Path]) -> None:
    """The stream broke between the last piece of text and the finish: nothing may follow it."""
    async with engine_running(write_model()) as engine:
        client = client_of(engine.address)
        body = asking("<count>", stop=["3 4"])
        steps = await ask(client, body)
        whole = so_far(steps)
        assert whole.text == " 1 2 "
        last = cuts(steps)[-1]
        assert isinstance(await exact_question(client, body, so_far(steps[:last]).note, whole.text), ExactEnd)
        assert await held_against_one_go(client, body) == 3


async def test_what_the_tokens_do_not_say_is_refused(client: HttpClient) -> None:
    """Text and ids that do not agree are no ground to go on: another vocabulary, a note that lost its end."""
    body = asking(PROMPTS[0])
    sent = so_far((await ask(client, body))[:20])
    for note, text in (
        (sent.note[:-4], sent.text),
        (sent.note, sent.text + "!"),
        (sent.note + sent.note[-4:], sent.text),
    ):
        assert await exact_question(client, body, note, text) == Inexact(
            "the tokens that were noted do not say what was sent"
        )
    assert isinstance(await exact_question(client, body, b"", ""), Inexact)
    assert isinstance(await exact_question(client, body, (99_999_999).to_bytes(4, "little"), "x"), Inexact)
