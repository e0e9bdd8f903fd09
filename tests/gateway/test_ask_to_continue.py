"""What an upstream is asked so that it goes on with an answer."""

import json
from typing import Any

import msgspec
import pytest

from tests.wire.continuing_answers import DIALECTS, answering, heard, new_relay, relayed, spoken
from tests.wire.matrix_events import START, STOP, text
from unbroken.chat.conversation import Conversation, Message, Role, Text
from unbroken.chat.error import ApiError
from unbroken.chat.events import Failed, Finished, TextDelta, UsageReported
from unbroken.chat.fault import Fault, UpstreamFailed
from unbroken.chat.finish import FinishReason
from unbroken.chat.request import ChatRequest
from unbroken.chat.said import said_in
from unbroken.chat.stream import Block
from unbroken.chat.usage import Usage
from unbroken.gateway.continuation import (
    Ending,
    ask_to_continue,
    end_with,
    failing_behind,
    go_on_exactly,
    read_said,
    read_wishes,
)
from unbroken.gateway.questions import Question
from unbroken.rules.continuation import Capability, Prefill, Tier
from unbroken.wire.anthropic_messages.dialect import ANTHROPIC_MESSAGES
from unbroken.wire.dialects import Dialect
from unbroken.wire.llama_cpp.completion import CompletionReader
from unbroken.wire.openai_chat.dialect import OPENAI_CHAT
from unbroken.wire.openai_responses.dialect import OPENAI_RESPONSES
from unbroken.wire.sse import SseEvent

PAIRS = [pytest.param(a, b, id=f"{a.name} of {b.name}") for a in DIALECTS for b in DIALECTS]
TAKES_PREFILL = [pair for pair in PAIRS if pair.values[1] is not OPENAI_RESPONSES]

ASKED = Conversation((Message(Role.USER, (Text("Tell me"),)),), max_tokens=100, temperature=0.5)


def request_of(client: Dialect, conversation: Conversation = ASKED, **fields: object) -> ChatRequest:
    body = json.loads(client.write_conversation(conversation, model="public", stream=True).body)
    return client.read_request(msgspec.json.encode({**body, **fields}))


def sent_of(client: Dialect, *words: str) -> list[Block]:
    upstream = spoken(OPENAI_CHAT, [START, *map(TextDelta, words)], end=False)
    return relayed(new_relay(client, OPENAI_CHAT), upstream)[0]


def ask(
    client: Dialect,
    upstream: Dialect,
    blocks: list[Block],
    request: ChatRequest | None = None,
    *,
    tier: Tier = Tier.SPLICED,
    prefill: Prefill = Prefill.LAST_MESSAGE,
) -> Question | Ending:
    return ask_to_continue(
        request or request_of(client),
        client,
        upstream,
        answering(client),
        blocks,
        tier=tier,
        capability=Capability(prefill),
        model="theirs",
        secret="",
        ask_usage=True,
        is_engine=False,
        on_matched=lambda: None,
    )


def asked(question: Question | Ending) -> dict[str, Any]:
    assert isinstance(question, Question)
    body: dict[str, Any] = json.loads(question.body)
    return body


@pytest.mark.parametrize(("client", "upstream"), TAKES_PREFILL)
def test_the_partial_answer_is_the_assistants_last_message(client: Dialect, upstream: Dialect) -> None:
    """K1, K5: without the white space at its end, and with what is left of the limit."""
    body = asked(ask(client, upstream, sent_of(client, "Once", " upon", " ")))
    conversation = upstream.read_conversation(upstream.read_request(json.dumps(body).encode()))
    assert [message.role for message in conversation.messages] == [Role.USER, Role.ASSISTANT]
    assert conversation.messages[-1].parts == (Text("Once upon"),)
    assert conversation.max_tokens == 97
    assert conversation.temperature == 0.5
    assert body["model"] == "theirs"


@pytest.mark.parametrize(("client", "upstream"), TAKES_PREFILL)
def test_what_the_caller_itself_has_begun_is_gone_on_with(client: Dialect, upstream: Dialect) -> None:
    begun = Conversation((*ASKED.messages, Message(Role.ASSISTANT, (Text("Well, once"),))), max_tokens=100)
    body = asked(ask(client, upstream, sent_of(client, " upon", " a"), request_of(client, begun)))
    conversation = upstream.read_conversation(upstream.read_request(json.dumps(body).encode()))
    said = "".join(part.text for part in conversation.messages[-1].parts if isinstance(part, Text))
    assert said == "Well, once upon a"


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_a_matched_answer_is_asked_for_as_it_was(client: Dialect, upstream: Dialect) -> None:
    body = asked(ask(client, upstream, sent_of(client, "Once"), tier=Tier.MATCHED, prefill=Prefill.NONE))
    conversation = upstream.read_conversation(upstream.read_request(json.dumps(body).encode()))
    assert len(conversation.messages) == 1
    assert conversation.max_tokens == 100


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
@pytest.mark.parametrize("tier", [Tier.SPLICED, Tier.MATCHED])
def test_the_relay_goes_on_where_the_blocks_end(client: Dialect, upstream: Dialect, tier: Tier) -> None:
    if tier is Tier.SPLICED and upstream is OPENAI_RESPONSES:
        pytest.skip("it has no word for it")
    sent = sent_of(client, "Once", " upon")
    question = ask(client, upstream, sent, tier=tier)
    assert isinstance(question, Question)
    words = [" a", " time"] if tier is Tier.SPLICED else ["Once upon a", " time"]
    rest, failure = relayed(question.relay, spoken(upstream, [START, *map(TextDelta, words), STOP]))
    assert failure is None
    said, is_complete = heard(client, [*sent, *rest])
    assert is_complete
    assert text(said) == "Once upon a time"


@pytest.mark.parametrize("client", DIALECTS, ids=lambda dialect: dialect.name)
def test_vllm_and_sglang_are_told_by_fields(client: Dialect) -> None:
    body = asked(ask(client, OPENAI_CHAT, sent_of(client, "Once"), prefill=Prefill.CONTINUE_FINAL_MESSAGE))
    assert (body["add_generation_prompt"], body["continue_final_message"]) == (False, True)
    assert body["messages"][-1] == {"role": "assistant", "content": "Once"}


@pytest.mark.parametrize("client", DIALECTS, ids=lambda dialect: dialect.name)
def test_mistral_and_deepseek_are_told_by_a_mark(client: Dialect) -> None:
    body = asked(ask(client, OPENAI_CHAT, sent_of(client, "Once"), prefill=Prefill.PREFIX))
    assert body["messages"][-1] == {"role": "assistant", "content": "Once", "prefix": True}
    assert "prefix" not in body["messages"][0]


def test_on_the_diagonal_the_callers_own_fields_stay() -> None:
    request = request_of(OPENAI_CHAT, top_k=7, max_completion_tokens=50)
    body = asked(ask(OPENAI_CHAT, OPENAI_CHAT, sent_of(OPENAI_CHAT, "Once"), request))
    assert (body["top_k"], body["max_tokens"], body["max_completion_tokens"]) == (7, 99, 49)


@pytest.mark.parametrize("prefill", [Prefill.PREFIX, Prefill.CONTINUE_FINAL_MESSAGE, Prefill.NONE])
@pytest.mark.parametrize("upstream", [ANTHROPIC_MESSAGES, OPENAI_RESPONSES], ids=lambda dialect: dialect.name)
def test_a_mark_that_a_dialect_has_no_word_for_is_not_sent(upstream: Dialect, prefill: Prefill) -> None:
    with pytest.raises(UpstreamFailed) as failed:
        ask(OPENAI_CHAT, upstream, sent_of(OPENAI_CHAT, "Once"), prefill=prefill)
    assert failed.value.failure.fault is Fault.UNTRANSLATABLE


@pytest.mark.parametrize("client", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_limit_that_may_be_used_up_ends_no_answer(client: Dialect) -> None:
    """K5: nobody has counted; another way asks for all of it again."""
    conversation = Conversation(ASKED.messages, max_tokens=16)
    sent = sent_of(client, *("word " for _ in range(16)))
    with pytest.raises(UpstreamFailed) as failed:
        ask(client, OPENAI_CHAT, sent, request_of(client, conversation))
    assert failed.value.failure.fault is Fault.UNTRANSLATABLE
    body = asked(ask(client, OPENAI_CHAT, sent, request_of(client, conversation), tier=Tier.MATCHED))
    assert OPENAI_CHAT.read_conversation(OPENAI_CHAT.read_request(json.dumps(body).encode())).max_tokens == 16


def test_an_answer_whose_upstream_has_counted_its_limit_ends_with_it() -> None:
    """K5: nobody is asked for no tokens. vLLM tells the usage so far with each chunk where it is asked to."""
    usage = {"prompt_tokens": 7, "completion_tokens": 16, "total_tokens": 23}
    sent = [
        Block(b"data: %b\n\n" % msgspec.json.encode(chunk))
        for chunk in (
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"index": 0, "delta": {"content": "word word"}}], "usage": usage},
        )
    ]
    request = request_of(OPENAI_CHAT, Conversation(ASKED.messages, max_tokens=16))
    ending = ask(OPENAI_CHAT, OPENAI_CHAT, sent, request)
    assert isinstance(ending, Ending)
    said, is_complete = heard(OPENAI_CHAT, [*sent, *ending.blocks])
    assert is_complete
    assert said_in(said).finished == Finished(FinishReason.LENGTH)
    assert ending.usage == Usage(input=7, output=16)


@pytest.mark.parametrize(
    ("pieces", "tokens"),
    [
        (["Once", " upon", " a", " time"], 4),
        (["Once upon a time there", " was a queen who lived"], 11),  # 44 characters: no tokens
        ([*"1, 2, 3"], 7),  # these may be: some models cut digit by digit
        ([*"一天早晨"], 4),
        (["Жил-был", " однажды"], 2),
    ],
)
def test_what_is_left_of_a_limit_is_told_by_pieces_that_may_be_tokens(pieces: list[str], tokens: int) -> None:
    """K5."""
    said = said_in([TextDelta(piece) for piece in pieces])
    assert said.tokens == tokens


def test_a_usage_that_was_told_before_all_was_said_is_no_count_of_it() -> None:
    """Anthropic's `message_start` tells one."""
    early = said_in([UsageReported(Usage(output=8)), TextDelta("Once"), TextDelta(" upon")])
    late = said_in([TextDelta("Once"), TextDelta(" upon"), UsageReported(Usage(output=8))])
    assert (early.tokens, late.tokens) == (2, 8)


@pytest.mark.parametrize("client", [OPENAI_CHAT, ANTHROPIC_MESSAGES], ids=lambda dialect: dialect.name)
def test_an_answer_that_has_said_why_it_ended_is_only_closed(client: Dialect) -> None:
    whole, _ = relayed(new_relay(client, OPENAI_CHAT), spoken(OPENAI_CHAT, [START, TextDelta("Hi"), STOP]))
    ending = ask(client, OPENAI_CHAT, whole[:-1], tier=Tier.MATCHED)
    assert isinstance(ending, Ending)
    assert [*whole[:-1], *ending.blocks] == whole


@pytest.mark.parametrize("client", DIALECTS, ids=lambda dialect: dialect.name)
def test_the_engine_goes_on_from_its_tokens(client: Dialect) -> None:
    sent = sent_of(client, "The quick", " brown")
    question = go_on_exactly(client, answering(client), sent, CompletionReader(2), body=b"{}", path="//completion")
    # What it goes on with may say what was said before: it is no echo.
    chunks = [
        {"content": "The quick brown", "tokens": [5], "tokens_predicted": 1},
        {"content": "", "stop": True, "stop_type": "eos", "tokens_predicted": 1, "tokens_evaluated": 12},
    ]
    rest, failure = relayed(question.relay, [SseEvent(b"", json.dumps(chunk).encode()) for chunk in chunks])
    assert failure is None
    assert question.path == "//completion"
    said, is_complete = heard(client, [*sent, *rest])
    assert is_complete
    assert text(said) == "The quick brownThe quick brown"
    assert question.relay.usage == Usage(input=10, output=3)


@pytest.mark.parametrize("client", DIALECTS, ids=lambda dialect: dialect.name)
def test_an_answer_of_which_only_the_end_is_missing_is_ended_with_it(client: Dialect) -> None:
    sent = sent_of(client, "Hi")
    ending = end_with(client, answering(client), sent, (Finished(FinishReason.STOP),))
    said, is_complete = heard(client, [*sent, *ending.blocks])
    assert is_complete
    assert said_in(said).finished == Finished(FinishReason.STOP)


@pytest.mark.parametrize("client", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_stream_whose_relay_is_gone_ends_with_the_dialects_error(client: Dialect) -> None:
    """L1, D12."""
    sent = sent_of(client, "Hi")
    blocks = failing_behind(client, answering(client), sent)(ApiError(502, "it broke", "server_error"))
    said, _ = heard(client, [*sent, *blocks])
    assert isinstance(said[-1], Failed)
    assert read_said(client, [*sent, *blocks]).text == "Hi"


def test_what_only_one_dialect_has_words_for_is_not_continued() -> None:
    request = request_of(OPENAI_RESPONSES, tools=[{"type": "web_search"}])
    with pytest.raises(UpstreamFailed) as failed:
        read_wishes(OPENAI_RESPONSES, request)
    assert failed.value.failure.fault is Fault.UNTRANSLATABLE
    assert read_wishes(OPENAI_RESPONSES, request_of(OPENAI_RESPONSES)).choices == 1
